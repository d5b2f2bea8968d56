"""How far pictures move to the side from frame to frame: what tells a turn from a walk ahead.

Axes: n pairs of frames, c channels, h rows, w columns.
"""

import torch
from torch import Tensor


def horizontal_shifts(before: Tensor, after: Tensor) -> Tensor:
    """By how many columns each picture moved to the right, (n,) int64; negative: to the left, as where one turns right.

    before, after: uint8 (n, c, h, w). Of all shifts up to half a width, the one with the highest correlation where both
    pictures overlap; among equals, and where a picture is flat, the smallest.
    """
    best = torch.full((len(before),), -torch.inf, dtype=torch.float64)
    shifts = torch.zeros(len(before), dtype=torch.int64)
    for shift in sorted(range(-(before.shape[3] // 2), before.shape[3] // 2 + 1), key=abs):
        left, right = max(shift, 0), before.shape[3] + min(shift, 0)
        found = _correlation(before[..., left - shift : right - shift], after[..., left:right])
        better = found > best + 1e-9
        best, shifts = torch.where(better, found, best), torch.where(better, shift, shifts)
    return shifts


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's, over all values of each pair, (n,) float64; 0 where one of them is flat."""
    one, other = (x.double().flatten(1) - x.double().flatten(1).mean(1, keepdim=True) for x in (one, other))
    size = (one.square().sum(1) * other.square().sum(1)).sqrt()
    return (one * other).sum(1) / size.clamp(min=1e-9)
