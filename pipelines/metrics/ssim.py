"""Structural similarity (Wang et al., 2004) as torchmetrics computes it, averaged over images; a clip's is the mean
over its frames."""

import torch
from torch import Tensor

from pipelines.metrics.base import Metric, Pairs
from pipelines.metrics.psnr import frames

WINDOW = 11  # pixels


class SSIM(Metric):
    kinds = ("image", "video")
    rows = (("ssim", "SSIM", ".4f"),)

    def measure(self, pairs: Pairs) -> dict[str, Tensor]:
        found = ssim(frames(pairs.made), frames(pairs.real))
        return {"ssim": found.view(len(pairs.real), -1).mean(1)}


def ssim(made: Tensor, real: Tensor) -> Tensor:
    """Pairs of images uint8 (n, c, h, w) -> (n,) float64; NaN for images smaller than the window."""
    from torchmetrics.functional.image import structural_similarity_index_measure  # takes seconds to import

    if min(real.shape[-2:]) < WINDOW:
        return torch.full((len(real),), torch.nan, dtype=torch.float64)
    found = structural_similarity_index_measure(made.float(), real.float(), data_range=255.0, reduction="none")
    assert isinstance(found, Tensor)
    return found.double()
