"""Horizontal motion of images from frame to frame, which distinguishes a turn from a step forward.

Axes: n pairs of frames, c channels, h rows, w columns.
"""

import torch
from torch import Tensor

PAIRS = 32  # at once: float64 copies of all would fill the memory, not the cache


def horizontal_shifts(before: Tensor, after: Tensor) -> Tensor:
    """By how many columns each image moved to the right, (n,) int64; negative: to the left, as in a right turn.

    before, after: uint8 (n, c, h, w). Among all shifts up to half the width, the one with the highest correlation of
    the overlapping parts; ties, and constant images, give the smallest shift.
    """
    parts = zip(before.split(PAIRS), after.split(PAIRS), strict=True)
    return torch.cat([_shifts(*pair) for pair in parts])


def _shifts(before: Tensor, after: Tensor) -> Tensor:
    best = torch.full((len(before),), -torch.inf, dtype=torch.float64)
    shifts = torch.zeros(len(before), dtype=torch.int64)
    for shift in sorted(range(-(before.shape[3] // 2), before.shape[3] // 2 + 1), key=abs):
        left, right = max(shift, 0), before.shape[3] + min(shift, 0)
        found = _correlation(before[..., left - shift : right - shift], after[..., left:right])
        better = found > best + 1e-9
        best, shifts = torch.where(better, found, best), torch.where(better, shift, shifts)
    return shifts


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    """Pearson correlation over all values of each pair, (n,) float64; 0 if either is constant."""
    one, other = (x.double().flatten(1) - x.double().flatten(1).mean(1, keepdim=True) for x in (one, other))
    size = (one.square().sum(1) * other.square().sum(1)).sqrt()
    return (one * other).sum(1) / size.clamp(min=1e-9)
