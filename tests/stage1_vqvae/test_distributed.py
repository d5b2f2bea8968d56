"""Two gloo ranks with half of each batch = one process with the whole: initialisation, statistics, revival, gradients.

Run as a script, this file is one rank: `test_distributed.py QUANTIZER RANK WORLD RENDEZVOUS RESULT`.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from einops import rearrange
from torch.nn.parallel import DistributedDataParallel

from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.bottlenecks.vq import EMAQuantizer, GradientQuantizer
from stage1_vqvae.image import ImageDecoder, ImageEncoder
from stage1_vqvae.likelihoods import Gaussian

NETWORK = {
    "hidden": 8,
    "outer_hidden": 8,
    "residual_hidden": 4,
    "num_residual_blocks": 1,
    "num_downsamplings": 2,
    "mixing_convolution": False,
}
BATCH, STEPS = 8, 6


def train(quantizer: str, rank: int, world: int) -> dict[str, torch.Tensor]:
    """A few steps in float64 -> the state, the codes of the last batch, and how many codes were revived."""
    torch.manual_seed(0)
    kind = {"ema": EMAQuantizer, "gradient": GradientQuantizer}[quantizer]
    bottleneck = kind(num_codes=32, dim=6, num_codebooks=2, decay=0.5, revive_threshold=0.3)
    encoder, decoder = ImageEncoder(1, 6, **NETWORK), ImageDecoder(1, 6, **NETWORK)
    model = Autoencoder(encoder, bottleneck, decoder, Gaussian(5000.0)).double()
    x = torch.randint(0, 256, (STEPS, BATCH, 1, 8, 12)).byte()
    torch.manual_seed(1 + rank)  # draws differ, as kernels of different devices might: the first rank's count
    bottleneck.initialise(rearrange(model.embed(x.flatten(0, 1)).detach(), "b d h w -> (b h w) d"))
    trained = DistributedDataParallel(model, broadcast_buffers=False) if world > 1 else model
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    share = BATCH // world
    revived = 0
    for step in range(STEPS):
        torch.manual_seed(100 + step)
        optimizer.zero_grad()
        trained(x[step, rank * share : (rank + 1) * share]).loss.backward()
        optimizer.step()
        bottleneck.after_step(optimizer)
        revived += (bottleneck.counts == BATCH * 6 / 32).sum()  # N / K: 48 positions in a batch
    return model.state_dict() | {"codes": model.encode(x[-1]), "revived": revived}


@pytest.mark.parametrize("quantizer", ["ema", "gradient"])
def test_two_ranks_equal_one_process(quantizer, tmp_path):
    results = [tmp_path / f"{rank}.pt" for rank in range(2)]
    rendezvous = tmp_path / "rendezvous"
    ranks = [
        subprocess.Popen([sys.executable, __file__, quantizer, str(rank), "2", rendezvous, result])
        for rank, result in enumerate(results)
    ]
    expected = train(quantizer, 0, 1)
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    first, second = (torch.load(result, weights_only=True) for result in results)
    assert expected["revived"] > 3  # otherwise this says nothing about revival
    for name, value in expected.items():
        assert torch.equal(first[name], second[name]), name
        # float64 sums in another order: 1e-16 a term, some 1e3 terms, enlarged by a few steps of Adam
        torch.testing.assert_close(first[name], value, rtol=1e-9, atol=1e-11, msg=lambda text: f"{name}: {text}")


if __name__ == "__main__":
    quantizer, rank, world, rendezvous, result = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=int(rank), world_size=int(world))
    state = train(quantizer, int(rank), int(world))
    torch.save(state, Path(result))
    dist.barrier()
    dist.destroy_process_group()
