"""Peak signal-to-noise ratio of images with 256 levels, averaged over images; a clip's is the mean over its frames."""

import torch
from einops import rearrange
from torch import Tensor

from pipelines.metrics.base import Metric, Pairs
from pipelines.metrics.squares import squared_errors

LEAST = 1e-12  # mean squared error in levels that equal images count as


class PSNR(Metric):
    kinds = ("image", "video")
    rows = (("psnr_db", "PSNR, dB", ".2f"),)

    def measure(self, pairs: Pairs) -> dict[str, Tensor]:
        made, real = frames(pairs.made), frames(pairs.real)
        return {"psnr_db": psnr_db(squared_errors(made, real)).view(len(pairs.real), -1).mean(1)}


def psnr_db(errors: Tensor) -> Tensor:
    """Mean squared errors in levels -> decibels."""
    return 10 * torch.log10(255**2 / errors.clamp(min=LEAST))


def frames(x: Tensor) -> Tensor:
    """Images (n, c, h, w) as they are; clips (n, c, t, h, w) -> their frames (n * t, c, h, w)."""
    return rearrange(x, "n c ... h w -> (n ...) c h w")
