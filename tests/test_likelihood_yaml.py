"""Every likelihood in configs/: a probability of 256 levels, safe at the extremes, with the interface all rely on."""

import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from pipelines.runs.config import CONFIGS, build, plain
from pipelines.runs.facts import fill_in

YAML = sorted((Path(CONFIGS) / "autoencoder" / "likelihood").glob("*.yaml"))
EVERY_LEVEL = torch.arange(256).reshape(256, 1, 1)


@pytest.fixture(params=YAML, ids=lambda path: path.stem)
def likelihood(request):
    cfg = OmegaConf.to_container(OmegaConf.load(request.param), resolve=False)
    fill_in(cfg, {"variance": 4000.0})
    return build(plain(OmegaConf.create(cfg)))


def draw_params(likelihood, size, count=20):
    """(count, params_per_value, 1), normal with standard deviation `size`."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, likelihood.params_per_value, 1, generator=generator, dtype=torch.float64) * size


def masses(likelihood, params):
    """params (1, params_per_value, 1) -> (256,)."""
    x = likelihood.from_levels(EVERY_LEVEL)
    nll = likelihood.nll_nats(params.expand(256, -1, -1), x)
    assert nll.shape == (256,) and nll.dtype == torch.float64
    assert nll.isfinite().all() and (nll >= -1e-12).all()
    return (-nll).exp()


@pytest.mark.parametrize("size", [0.01, 1.0, 30.0, 1e4])
def test_masses_sum_to_one(likelihood, size):
    likelihood.double()
    for params in draw_params(likelihood, size).split(1):
        assert masses(likelihood, params).sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("extreme", [-1e4, -40.0, 0.0, 40.0, 1e4])
def test_equal_and_extreme_parameters(likelihood, extreme):
    params = torch.full((1, likelihood.params_per_value, 1), extreme, dtype=torch.float64)
    assert masses(likelihood.double(), params).sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("size", [1.0, 30.0, 1e4, 1e8])
def test_objective_and_gradient_are_finite_for_every_level(likelihood, size):
    """In float32, as in training."""
    x = likelihood.from_levels(EVERY_LEVEL)
    for params in draw_params(likelihood, size).float().split(1):
        params = params.expand(256, -1, -1).clone().requires_grad_()
        objective = likelihood.objective(params, x)
        assert objective.shape == (256,) and objective.isfinite().all()
        objective.sum().backward()
        assert params.grad.isfinite().all() and (params.grad != 0).any()


@pytest.mark.parametrize("size", [0.01, 1.0, 30.0, 1e4])
def test_the_mean_is_the_expectation(likelihood, size):
    """Of images rounded. A Gaussian's is that of the density, clamped: its tails' masses do not move it."""
    likelihood.double()
    values = likelihood.from_levels(EVERY_LEVEL)
    for params in draw_params(likelihood, size).split(1):
        mean = likelihood.mean(params)
        assert mean.dtype == values.dtype and mean.shape == (1, 1, 1)
        assert values.min() <= mean.min() and mean.max() <= values.max()
        if type(likelihood).__name__ != "Gaussian":
            expected = (masses(likelihood, params) * values.double().flatten()).sum().item()
            assert mean.item() == pytest.approx(expected, abs=1e-9 + 0.5 * (values.dtype == torch.uint8))


def test_network_units_and_levels_come_back(likelihood):
    x = likelihood.from_levels(EVERY_LEVEL)
    assert torch.equal(likelihood.levels(x), EVERY_LEVEL)
    scaled = likelihood.to_network(x)
    assert scaled.dtype == torch.float32 and scaled.shape == x.shape and scaled.abs().max() <= 1
    assert likelihood.double().to_network(x).dtype == torch.float64


def test_channels_and_places_are_independent_and_padding_does_not_count(likelihood):
    """Channel c of the data is described by the decoder's c-th run of params_per_value channels."""
    likelihood.double()
    generator = torch.Generator().manual_seed(1)
    n = likelihood.params_per_value
    x = likelihood.from_levels(torch.randint(256, (2, 3, 5), generator=generator))
    params = torch.randn(2, 3 * n, 5, generator=generator, dtype=torch.float64)
    each = torch.stack([
        likelihood.nll_nats(params[:, n * c : n * (c + 1), t : t + 1], x[:, c : c + 1, t : t + 1])
        for c in range(3) for t in range(5)
    ]).reshape(3, 5, 2)
    torch.testing.assert_close(likelihood.nll_nats(params, x), each.sum((0, 1)))
    lengths = torch.tensor([5, 2])
    padded = torch.stack([each[:, :, 0].sum(), each[:, :2, 1].sum()])
    torch.testing.assert_close(likelihood.nll_nats(params, x, lengths), padded)
    assert math.isfinite(likelihood.objective(params, x).sum())
