"""Every configs/autoencoder/likelihood/*.yaml: a probability of the levels, finite at the extremes, in data units."""

import math

import pytest
import torch

LEVELS = 256
EVERY_LEVEL = torch.arange(LEVELS).reshape(LEVELS, 1, 1)


@pytest.fixture
def likelihood(component, likelihood_name):
    return component("autoencoder/likelihood", likelihood_name, variance=4000.0, num_codes=LEVELS, sample_rate_hz=8000)


def draw_params(likelihood, size, count=20):
    """(count, params_per_value, 1), normal with standard deviation `size`."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, likelihood.params_per_value, 1, generator=generator, dtype=torch.float64) * size


def masses(likelihood, params):
    """params (1, params_per_value, 1) -> (LEVELS,)."""
    x = likelihood.from_levels(EVERY_LEVEL)
    nll = likelihood.nll_nats(params.expand(LEVELS, -1, -1), x)
    assert nll.shape == (LEVELS,) and nll.dtype == torch.float64
    assert nll.isfinite().all() and (nll >= -1e-12).all()
    return (-nll).exp()


@pytest.mark.parametrize("size", [0.01, 1.0, 30.0, 1e4])
def test_masses_sum_to_one(likelihood, size):
    for params in draw_params(likelihood, size).split(1):
        assert masses(likelihood, params).sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("extreme", [-1e4, -40.0, 0.0, 40.0, 1e4])
def test_equal_and_extreme_parameters(likelihood, extreme):
    params = torch.full((1, likelihood.params_per_value, 1), extreme, dtype=torch.float64)
    assert masses(likelihood, params).sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("size", [1.0, 30.0, 1e4, 1e8])
def test_objective_and_gradient_are_finite_for_every_level(likelihood, size):
    """In float32, as in training."""
    likelihood.float()
    x = likelihood.from_levels(EVERY_LEVEL)
    for params in draw_params(likelihood, size).float().split(1):
        params = params.expand(LEVELS, -1, -1).clone().requires_grad_()
        objective = likelihood.objective(params, x)
        assert objective.shape == (LEVELS,) and objective.isfinite().all()
        objective.sum().backward()
        assert params.grad.isfinite().all() and (params.grad != 0).any()


@pytest.mark.parametrize("size", [0.01, 1.0, 30.0, 1e4])
def test_the_mean_is_a_value_of_the_data_where_its_mass_lies(likelihood, size):
    """A mode, median or mean of a density, clamped, differs from the expectation by at most sqrt(3) standard deviations
    (Gauss, for one peak)."""
    values = likelihood.from_levels(EVERY_LEVEL)
    mean = likelihood.mean(draw_params(likelihood, size))
    assert mean.dtype == values.dtype and mean.shape == (20, 1, 1)
    assert values.min() - 1e-12 <= mean.min() and mean.max() <= values.max() + 1e-12
    values, rounding = values.double().flatten(), 1e-9 if values.is_floating_point() else 0.5 + 1e-9
    for params, found in zip(draw_params(likelihood, size).split(1), mean.double().flatten(), strict=True):
        mass = masses(likelihood, params)
        expected = (mass * values).sum()
        deviation = (mass * (values - expected).square()).sum().sqrt()
        assert (found - expected).abs() <= 3**0.5 * deviation + rounding


def test_network_units_and_levels_come_back(likelihood):
    x = likelihood.from_levels(EVERY_LEVEL)
    assert torch.equal(likelihood.levels(x), EVERY_LEVEL)
    scaled = likelihood.to_network(x)
    assert scaled.shape == x.shape
    if scaled.is_floating_point():  # an encoder of codes begins with their embedding
        assert scaled.dtype == torch.float64 and scaled.abs().max() <= 1
        assert likelihood.float().to_network(x).dtype == torch.float32


def test_channels_and_positions_are_independent_and_padding_does_not_count(likelihood):
    """Channel c of the data is described by the decoder's c-th run of params_per_value channels."""
    generator = torch.Generator().manual_seed(1)
    n = likelihood.params_per_value
    x = likelihood.from_levels(torch.randint(LEVELS, (2, 3, 5), generator=generator))
    params = torch.randn(2, 3 * n, 5, generator=generator, dtype=torch.float64)
    each = torch.stack([
        likelihood.nll_nats(params[:, n * c : n * (c + 1), t : t + 1], x[:, c : c + 1, t : t + 1])
        for c in range(3) for t in range(5)
    ]).reshape(3, 5, 2)
    torch.testing.assert_close(likelihood.nll_nats(params, x), each.sum((0, 1)))
    logits = likelihood.level_logits(params)
    assert logits.dtype == torch.float64 and logits.shape == (*x.shape, likelihood.num_levels)
    assert likelihood.exact <= torch.equal(likelihood.from_levels(likelihood.levels(x)), x)
    chosen = logits.log_softmax(-1).gather(-1, likelihood.levels(x)[..., None]).flatten(1).sum(1)
    torch.testing.assert_close(-chosen, likelihood.nll_nats(params, x), rtol=1e-6, atol=1e-6)
    lengths = torch.tensor([5, 2])
    padded = torch.stack([each[:, :, 0].sum(), each[:, :2, 1].sum()])
    torch.testing.assert_close(likelihood.nll_nats(params, x, lengths), padded)
    assert math.isfinite(likelihood.objective(params, x).sum())


def test_training_makes_the_data_likelier(likelihood):
    """Gradient steps on the objective raise the exact probability: it is the same quantity or a bound on it."""
    x = likelihood.from_levels(torch.randint(100, 140, (4, 1, 6), generator=torch.Generator().manual_seed(0)))
    params = (0.1 * draw_params(likelihood, 1.0, count=4)).expand(-1, -1, 6).clone().requires_grad_()
    optimizer = torch.optim.Adam([params, *likelihood.parameters()], lr=0.03)
    before = likelihood.nll_nats(params, x).sum().item()
    for _ in range(30):
        optimizer.zero_grad()
        likelihood.objective(params, x).sum().backward()
        optimizer.step()
    assert likelihood.nll_nats(params, x).sum().item() < before
