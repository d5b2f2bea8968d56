"""Density and coverage of a set of made items (Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative
Models", arXiv 2002.09797, equations 4 and 5).

Balls lie around real items alone, each as large as the distance to the item's k-th nearest real neighbour. Density is
the number of balls that a made item lies in, over k: unlike precision it is not decided by one outlier's large ball.
Coverage is the share of real items in whose ball a made item lies: unlike recall it does not grow with outliers among
the made items.

Axes: n real items, m made ones, d features.
"""

import torch
from torch import Tensor

from pipelines.metrics.nearest import exact_distances, radii

NEAREST = 5  # k in the paper


def density_coverage(real: Tensor, made: Tensor, k: int = NEAREST) -> tuple[float, float]:
    """Features (n, d) and (m, d) -> density >= 0, expected 1 if both sets are drawn alike (it may exceed 1), and
    coverage in [0, 1], whose expectation is then 1 - (n - 1)...(n - k) / ((n + m - 1)...(n + m - k)), 0.97 for k = 5
    and n = m. Balls are closed. Raises ValueError for k items or fewer."""
    sizes, inside, covered = radii(real, k), 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for block in exact_distances(made, real):
        within = block <= sizes
        inside += int(within.sum())
        covered |= within.any(0)
    return inside / (k * len(made)), float(covered.double().mean())
