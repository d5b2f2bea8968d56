"""Fréchet distance, precision, recall, density and coverage: against formulas, other code and their definitions."""

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.image.fid import _compute_fid

from pipelines.metrics import nearest
from pipelines.metrics.density_coverage import density_coverage
from pipelines.metrics.frechet import frechet_distance
from pipelines.metrics.precision_recall import precision_recall


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_moments(mean: Tensor, covariance: Tensor, count: int) -> Tensor:
    """Items (n, d) of exactly this mean and this covariance over n - 1."""
    own = normals(count, len(mean))
    own = torch.linalg.qr(own - own.mean(0)).Q * (count - 1) ** 0.5
    return mean + own @ torch.linalg.cholesky(covariance).T


def test_the_distance_of_two_gaussians_is_the_formula():
    """Covariances diag(a) and diag(b), rotated alike: |m - m'|^2 + sum (sqrt a - sqrt b)^2."""
    turn = torch.linalg.qr(normals(3, 3, seed=1)).Q
    a, b, shift = (torch.tensor(own, dtype=torch.float64) for own in ([4.0, 1.0, 0.25], [1.0, 9.0, 0.25], [1.0, 0, 2]))
    one = with_moments(torch.zeros(3, dtype=torch.float64), turn @ a.diag() @ turn.T, 50)
    other = with_moments(shift, turn @ b.diag() @ turn.T, 40)
    assert frechet_distance(one, other) == pytest.approx(5 + 1 + 4, rel=1e-12)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-12)


def test_the_distance_is_that_of_torchmetrics():
    one, other = normals(200, 12) @ normals(12, 12, seed=1), 0.5 + normals(150, 12, seed=2) @ normals(12, 12, seed=3)
    theirs = _compute_fid(one.mean(0), one.T.cov(), other.mean(0), other.T.cov())
    assert frechet_distance(one, other) == pytest.approx(float(theirs), rel=1e-9)
    assert frechet_distance(other, one) == pytest.approx(float(theirs), rel=1e-9)


def test_fewer_items_than_features_give_a_distance():
    one, other = normals(5, 30), normals(6, 30, seed=1)
    assert 0 < frechet_distance(one, other) < math.inf and frechet_distance(one, one) < 1e-9
    with pytest.raises(ValueError, match="expected two items or more, found 1 and 6"):
        frechet_distance(one[:1], other)


def definitions(real: list[list[float]], made: list[list[float]], k: int) -> tuple[float, float, float, float]:
    """Precision, recall, density and coverage by their definitions, one pair after another."""
    def radius(items: list, own: int) -> float:
        return sorted(math.dist(items[own], other) for number, other in enumerate(items) if number != own)[k - 1]

    real_radii, made_radii = ([radius(items, own) for own in range(len(items))] for items in (real, made))
    inside = [[math.dist(x, y) <= size for x, size in zip(real, real_radii)] for y in made]
    reached = [[math.dist(x, y) <= size for y, size in zip(made, made_radii)] for x in real]
    return (sum(map(any, inside)) / len(made), sum(map(any, reached)) / len(real),
            sum(map(sum, inside)) / (k * len(made)), sum(map(any, zip(*inside))) / len(real))


@pytest.mark.parametrize("k", [1, 3])
def test_shares_are_those_of_the_definitions(k, monkeypatch):
    real, made = normals(23, 2), 0.4 + 0.8 * normals(17, 2, seed=1)
    expected = definitions(real.tolist(), made.tolist(), k)
    assert len(set(expected)) == 4, "an example that tells the figures apart"
    for most in (1, 2**24):  # one query at a time, and all at once
        monkeypatch.setattr(nearest, "MOST", most)
        assert (*precision_recall(real, made, k), *density_coverage(real, made, k)) == pytest.approx(expected)


def test_equal_sets_have_all_and_distant_ones_nothing():
    real = normals(40, 3)
    assert precision_recall(real, real) == (1, 1)
    density, coverage = density_coverage(real, real)
    assert coverage == 1 and density > 1
    assert (*precision_recall(real, real + 100), *density_coverage(real, real + 100)) == (0, 0, 0, 0)


def test_sets_drawn_alike_have_the_expected_density_and_coverage():
    """Means over 20 pairs: 1, and 1 - (n - 1)...(n - k) / ((2 n - 1)...(2 n - k)); four standard errors."""
    n, k, count = 200, 5, 20
    found = torch.tensor([density_coverage(normals(n, 2, seed=2 * own), normals(n, 2, seed=2 * own + 1), k)
                          for own in range(count)])
    expected = 1 - math.prod((n - own) / (2 * n - own) for own in range(1, k + 1))
    errors = 4 * found.std(0) / count**0.5
    assert abs(float(found[:, 0].mean()) - 1) < errors[0] and abs(float(found[:, 1].mean()) - expected) < errors[1]


def test_a_dropped_mode_lowers_recall_and_coverage_but_not_precision():
    modes = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0], [50.0, 50.0]], dtype=torch.float64)
    real = (modes[:, None] + normals(4, 100, 2)).flatten(0, 1)
    whole, dropped = ((modes[:own, None] + normals(own, 400 // own, 2, seed=1)).flatten(0, 1) for own in (4, 2))
    (precision, recall), (_, coverage) = precision_recall(real, whole), density_coverage(real, whole)
    (kept, lost), (_, uncovered) = precision_recall(real, dropped), density_coverage(real, dropped)
    assert min(precision, recall, coverage, kept) > 0.9
    assert lost <= 0.5 and uncovered <= 0.5


def test_duplicates_are_at_distance_0_and_few_items_are_refused():
    """Balls are closed, so an item whose neighbours equal it still covers its copies."""
    real = torch.ones(6, 4) / 3
    assert (*precision_recall(real, real[:4]), density_coverage(real, real[:4])[1]) == (1, 1, 1)
    with pytest.raises(ValueError, match="k: expected 1 to 3 of 4 items, found 5"):
        density_coverage(real[:4], real)
