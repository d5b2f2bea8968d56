"""Precision and recall of a set of made items (Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing
Generative Models", arXiv 1904.06991, equations 1 and 2).

The manifold of a set is the union of balls around its items, each as large as the distance to the item's k-th nearest
neighbour in the set. Precision is the share of made items within the manifold of the real ones, recall the share of
real items within the manifold of the made ones.

Axes: n real items, m made ones, d features.
"""

from torch import Tensor

from pipelines.metrics.nearest import exact_distances, radii

NEAREST = 3  # k in the paper


def precision_recall(real: Tensor, made: Tensor, k: int = NEAREST) -> tuple[float, float]:
    """Features (n, d) and (m, d) -> precision and recall, both in [0, 1], 1 for equal sets. Balls are closed. Raises
    ValueError for k items or fewer."""
    return share_within(made, real, radii(real, k)), share_within(real, made, radii(made, k))


def share_within(queries: Tensor, centres: Tensor, sizes: Tensor) -> float:
    """The share of queries that lie in a ball around any of the centres, whose radii are `sizes`."""
    return sum(int((block <= sizes).any(1).sum()) for block in exact_distances(queries, centres)) / len(queries)
