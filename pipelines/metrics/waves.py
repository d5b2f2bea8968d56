"""Waves as metrics of audio take them: float (b, 1, t) in [-1, 1], padded after `lengths` (b,) int64 samples.

Padding changes no metric. Axes: b clips, t samples.
"""

import torch
from einops import rearrange
from torch import Tensor


def mono(waves: Tensor, lengths: Tensor) -> Tensor:
    """Waves (b, 1, t) -> float64 (b, t) on the CPU, zero after the end of each clip."""
    clips = rearrange(waves.detach().cpu().double(), "b 1 t -> b t")
    return torch.where(torch.arange(clips.shape[1]) < lengths.cpu()[:, None], clips, 0)
