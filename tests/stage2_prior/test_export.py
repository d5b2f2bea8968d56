"""torch.export of priors: graphs without Python, for any batch size, that give the same logits."""

import pytest
import torch

from stage2_prior.pixelcnn import GatedPixelCNN
from stage2_prior.prior import Prior
from stage2_prior.split import SplitCodes
from stage2_prior.transformer import Transformer
from stage2_prior.video import GatedPixelCNN3d
from stage2_prior.wavenet import WaveNet

BATCH = {0: torch.export.Dim("batch", min=1, max=1024)}
SMALL = {"num_codes": 9, "num_layers": 2}
IMAGE = SMALL | {"channels": 4, "head_channels": 8}
PRIORS = {
    "image": (lambda: GatedPixelCNN(**IMAGE), (5, 3)),
    "image of two codebooks, with labels": (
        lambda: GatedPixelCNN(**IMAGE, num_codebooks=2, num_classes=(3, 2), local_channels=2), (3, 5)),
    "audio, with labels and local features": (
        lambda: WaveNet(**SMALL, residual_channels=4, gate_channels=8, skip_channels=8, num_classes=(3,),
                        local_channels=2), (11,)),
    "transformer of two codebooks, with labels and local features": (
        lambda: Transformer(**SMALL, num_codebooks=2, grid=(3, 2), channels=32, num_classes=(3,), local_channels=2),
        (3, 2)),
    "image of split codes": (
        lambda: SplitCodes(GatedPixelCNN(**IMAGE | {"num_codes": 3, "num_codebooks": 2}), 9), (3, 5)),
    "video, with labels and actions": (
        lambda: GatedPixelCNN3d(**IMAGE, num_temporal_layers=1, num_classes=(3,), local_channels=2), (4, 3, 2)),
}


def inputs(prior: Prior, grid: tuple[int, ...], batch: int = 3) -> dict[str, torch.Tensor]:
    books = (prior.num_codebooks,) if prior.num_codebooks > 1 else ()
    found = {"codes": torch.randint(prior.num_codes, (batch, *grid, *books))}
    if prior.num_classes:
        found["labels"] = torch.stack([torch.randint(count, (batch,)) for count in prior.num_classes], 1)
    if prior.local_channels:
        found["local"] = torch.randn(batch, prior.local_channels, *grid)
    return found


@pytest.mark.parametrize("name", PRIORS)
def test_priors_export_with_a_dynamic_batch(name):
    torch.manual_seed(0)
    make, grid = PRIORS[name]
    prior = make().eval().requires_grad_(False)
    given = inputs(prior, grid)
    program = torch.export.export(prior, (), given, dynamic_shapes={key: BATCH for key in given})
    for batch in (given, {key: value[:1] for key, value in given.items()}, inputs(prior, grid, 5)):
        torch.testing.assert_close(program.module()(**batch), prior(**batch))


def test_values_out_of_range_are_still_refused_outside_of_a_graph():
    prior = GatedPixelCNN(**IMAGE, num_classes=(3,))
    with pytest.raises(ValueError, match=r"codes: expected values in \[0, 9\), found \[9, 9\]"):
        prior(torch.full((1, 2, 2), 9), torch.zeros(1, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"labels: column 0: expected classes in \[0, 3\), found 3"):
        prior(torch.zeros(1, 2, 2, dtype=torch.int64), torch.full((1, 1), 3))
