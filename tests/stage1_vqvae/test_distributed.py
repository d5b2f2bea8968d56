"""Two gloo ranks with half of each batch = one process with the whole: initialisation, statistics, revival, noise. So
are micro-batches whose gradients are accumulated.

Run as a script, this file is one rank: `test_distributed.py RANK WORLD RENDEZVOUS RESULT`.
"""

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from einops import rearrange
from torch.nn.parallel import DistributedDataParallel

from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.bottlenecks.base import Quantizer
from stage1_vqvae.bottlenecks.bsq import BSQ
from stage1_vqvae.bottlenecks.gaussian import Gaussian as GaussianLatents
from stage1_vqvae.bottlenecks.gumbel import Gumbel
from stage1_vqvae.bottlenecks.residual import Residual
from stage1_vqvae.bottlenecks.simvq import SimVQ
from stage1_vqvae.bottlenecks.vimco import VIMCO
from stage1_vqvae.bottlenecks.vq import EMAQuantizer, GradientQuantizer
from stage1_vqvae.collectives import MicroBatches
from stage1_vqvae.image import ImageDecoder, ImageEncoder
from stage1_vqvae.likelihoods.gaussian import Gaussian

NETWORK = {
    "hidden": 8,
    "outer_hidden": 8,
    "residual_hidden": 4,
    "num_residual_blocks": 1,
    "num_downsamplings": 2,
    "mixing_convolution": False,
}
BATCH, STEPS = 8, 6
LIMIT_S = 120  # of two processes that take ten seconds alone
VQ = {"num_codes": 32, "dim": 6, "num_codebooks": 2, "decay": 0.5, "revive_threshold": 0.3}
BOTTLENECKS = {
    "ema": lambda: EMAQuantizer(**VQ),
    "gradient": lambda: GradientQuantizer(**VQ),
    "diveq": lambda: GradientQuantizer(**VQ, gradient="diveq"),
    "simvq": lambda: SimVQ(**VQ),
    "bsq": lambda: BSQ(num_bits=4, dim=6, num_codebooks=2, entropy_weight=1.0),
    "residual": lambda: Residual(**VQ),
    "gaussian": lambda: GaussianLatents(dim=6),
    "gumbel": lambda: Gumbel(num_codes=8, dim=6, num_codebooks=2, temperature_steps=STEPS),
    "vimco": lambda: VIMCO(num_codes=8, dim=6, num_codebooks=2, num_samples=3),
    "gumbel by distance": lambda: Gumbel(num_codes=8, dim=6, num_codebooks=2, temperature_steps=STEPS, hard_from=2,
                                         logits="distance", likeliest_from=4, likeliest_share=0.75),
    "first order": lambda: VIMCO(num_codes=8, dim=6, num_codebooks=2, num_samples=3, estimator="first_order",
                                 logits="distance", likeliest_from=4, likeliest_share=0.75),
}


@cache
def train(name: str, rank: int, world: int, parts: int = 1) -> dict[str, torch.Tensor]:
    """A few steps in float64, each batch in `parts` -> the state, the codes of the last batch, and how many codes were
    revived."""
    torch.manual_seed(0)
    bottleneck = BOTTLENECKS[name]()
    encoder, decoder = ImageEncoder(1, bottleneck.in_dim, **NETWORK), ImageDecoder(1, 6, **NETWORK)
    model = Autoencoder(encoder, bottleneck, decoder, Gaussian(5000.0)).double()
    x = torch.randint(0, 256, (STEPS, BATCH, 1, 8, 12)).byte()
    torch.manual_seed(1 + rank)  # draws differ, as kernels of different devices might: the first rank's count
    if bottleneck.needs_initialisation:
        bottleneck.initialise(rearrange(model.embed(x.flatten(0, 1)).detach(), "b d h w -> (b h w) d"))
    trained = DistributedDataParallel(model, broadcast_buffers=False) if world > 1 else model
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    share = BATCH // world
    revived = {part: 0 for part, value in bottleneck.named_buffers() if part.endswith("counts")}
    for step in range(STEPS):
        torch.manual_seed(100 + step)
        optimizer.zero_grad()
        own = x[step, rank * share : (rank + 1) * share]
        if parts == 1:
            trained(own, step=step).loss.backward()
        else:
            accumulate(trained, own.chunk(parts), step, bottleneck.needs_whole_batch)
        optimizer.step()
        bottleneck.after_step(optimizer)
        for part in revived:
            revived[part] += (bottleneck.get_buffer(part) == BATCH * 6 / 32).sum()  # N / K: 48 positions in a batch
    codes = {"codes": model.encode(x[-1])} if isinstance(bottleneck, Quantizer) else {}
    return model.state_dict() | codes | {f"revived {part}": count for part, count in revived.items()}


def accumulate(model: torch.nn.Module, parts: tuple[torch.Tensor, ...], step: int, look: bool) -> None:
    sums = MicroBatches(len(parts))
    for looking in [True, False] if look else [False]:
        for number, part in enumerate(parts):
            torch.manual_seed(100 + step)
            with sums.at(number, looking), torch.set_grad_enabled(not looking):
                loss = model(part, step=step).loss / len(parts)
            if not looking:
                loss.backward()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, dict[str, torch.Tensor]]]:
    """Results of two processes for each bottleneck; both go through all of them, since starting takes longest."""
    folder = tmp_path_factory.mktemp("ranks")
    results = [folder / f"{rank}.pt" for rank in range(2)]
    processes = [subprocess.Popen([sys.executable, __file__, str(rank), "2", folder / "rendezvous", result])
                 for rank, result in enumerate(results)]
    try:
        assert [process.wait(timeout=LIMIT_S) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return [torch.load(result, weights_only=True) for result in results]


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_two_ranks_equal_one_process(name, ranks):
    first, second = (result[name] for result in ranks)
    expected = train(name, 0, 1)
    revived = [value for key, value in expected.items() if key.startswith("revived") and "vq." not in key]
    assert all(count > 3 for count in revived)  # otherwise this says nothing about revival
    for key, value in expected.items():
        assert torch.equal(first[key], second[key]), key
        # float64 sums in another order: 1e-16 a term, some 1e3 terms, enlarged by a few steps of Adam
        torch.testing.assert_close(first[key], value, rtol=1e-9, atol=1e-11, msg=lambda text: f"{key}: {text}")


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_micro_batches_equal_the_batch(name):
    expected, found = train(name, 0, 1), train(name, 0, 1, 4)
    assert any(not torch.equal(found[key], value) for key, value in expected.items())  # sums have another order
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-11, msg=lambda text: f"{key}: {text}")


def test_a_sum_that_is_needed_at_once_takes_a_pass_before():
    z = torch.randn(4, 6, 2, 2, dtype=torch.float64)
    with MicroBatches(2).at(0), pytest.raises(ValueError, match="expected a bottleneck that says `needs_whole_batch`"):
        BOTTLENECKS["bsq"]().double()(z)


if __name__ == "__main__":
    rank, world, rendezvous, result = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=int(rank), world_size=int(world))
    torch.save({name: train(name, int(rank), int(world)) for name in BOTTLENECKS}, Path(result))
    dist.barrier()
    dist.destroy_process_group()
