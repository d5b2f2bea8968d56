"""The Fréchet distance between Gaussians that are fitted to two sets of features (Dowson and Landau, 1982).

In the features of an Inception network it is the FID (Heusel et al., arXiv 1706.08500, equation 6); in others it must
not be called so. torchmetrics' class for it takes images and a network, and passes through eigenvalues of a product
that is not symmetric; a test holds both equal.

Axes: n or m items, d features.
"""

import torch
from torch import Tensor


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """|mean - mean'|^2 + tr(S + S' - 2 (S S')^(1/2)) of features (n, d) and (m, d), covariances S over n - 1; >= 0, in
    squared units of the features, 0 for equal means and covariances. float64 whatever comes in.

    With S = R^T R of a QR decomposition, tr (S S')^(1/2) is the sum of the singular values of R R'^T: no covariance is
    squared, and fewer items than features do no harm to the numbers, though the estimate is biased upwards: compare
    sets of equal sizes only. Raises ValueError for fewer than two items."""
    if min(len(one), len(other)) < 2:
        raise ValueError(f"frechet_distance: expected two items or more, found {len(one)} and {len(other)}")
    means, factors = zip(*(_mean_and_factor(features.double()) for features in (one, other)))
    common = torch.linalg.svdvals(factors[0] @ factors[1].T).sum()
    distance = (means[0] - means[1]).square().sum() + sum(own.square().sum() for own in factors) - 2 * common
    return max(float(distance), 0.0)


def _mean_and_factor(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and R (min(n, d), d) with R^T R the covariance."""
    mean = features.mean(0)
    return mean, torch.linalg.qr((features - mean) / (len(features) - 1) ** 0.5, mode="r").R
