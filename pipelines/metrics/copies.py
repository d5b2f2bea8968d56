"""Whether samples are copies of training items: how often the nearest real item is a training item rather than a
held-out one, and how often that would be by chance.

If a prior has learned the distribution and not the items, training and held-out items are exchangeable for its samples:
which of them are the training items is then a random choice among all. Under this null hypothesis the mean and the
standard error of the share are exact for the very samples and items at hand, though one item may be near to many
samples (a "hub") and several items at equal distances from one. The idea, training items against held-out items as
seen from the samples, is that of Meehan, Chaudhuri and Dasgupta, "A Non-Parametric Test to Detect Data-Copying in
Generative Models" (arXiv 2004.05675); the test here is a permutation test that counts nearest items.

Axes: n samples, m items: first the training items, then those held out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Copying:
    """How many samples are nearest to a training item."""

    share: float  # of the samples; items at equal distances share a sample
    expected: float  # without copying: the share of training items among all items
    standard_error: float  # of the share, without copying


def credits(distances: Tensor) -> Tensor:
    """Distances (n, m) -> float64 (m,): how many samples each item is the nearest of; those at equal distances share a
    sample equally."""
    nearest = (distances == distances.min(1, keepdim=True).values).double()
    return (nearest / nearest.sum(1, keepdim=True)).sum(0)


def copying(credit: Tensor, training: int) -> Copying:
    """credit (m,) of `credits`, summed over all samples; the first `training` items are the training items.

    Drawing r of m items without replacement, the sum of their credits c has mean r c_mean and variance
    r (m - r) / (m (m - 1)) sum (c - c_mean)^2."""
    items, samples = len(credit), float(credit.sum())
    spread = float((credit - credit.mean()).square().sum())
    variance = training * (items - training) / (items * (items - 1)) * spread
    return Copying(float(credit[:training].sum()) / samples, training / items, variance**0.5 / samples)


def quantiles(distances: Tensor) -> dict[str, float]:
    """Distances to the nearest item (n,) -> the median, the 5 % quantile, and the share that is 0."""
    median, low = torch.quantile(distances.double(), torch.tensor([0.5, 0.05], dtype=torch.float64)).tolist()
    return {"median": median, "lowest_5_percent": low, "identical": float((distances == 0).double().mean())}
