"""Probabilities of the 256 levels: they sum to one, agree with integration, and stay finite at the extremes."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from stage1_vqvae.likelihoods.categorical import Categorical
from stage1_vqvae.likelihoods.gaussian import Gaussian

EVERY_LEVEL = torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1, 1)


def gaussian(sigma_squared, variance=4000.0):
    """A Gaussian whose training error is `sigma_squared`."""
    likelihood = Gaussian(variance).double()
    likelihood.mse_average.fill_(0.3 * sigma_squared)
    likelihood.mse_weight.fill_(0.3)
    return likelihood


def network_units(mean):
    return torch.as_tensor(mean, dtype=torch.float64) / 255 - 0.5


@pytest.mark.parametrize("mean", [-40.0, 0.0, 0.3, 127.5, 200.25, 255.0, 400.0])
@pytest.mark.parametrize("sigma", [0.05, 0.4, 3.0, 60.0, 1000.0])
def test_gaussian_masses_sum_to_one(mean, sigma):
    nll = gaussian(sigma**2).nll_nats(network_units(mean).expand(256, 1, 1, 1), EVERY_LEVEL)
    assert nll.shape == (256,) and nll.dtype == torch.float64 and nll.isfinite().all() and (nll >= 0).all()
    assert (-nll).exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("level", [0, 1, 90, 254, 255])
def test_gaussian_mass_is_the_integral(level):
    mean, sigma = 100.7, 31.0
    edges = (-np.inf if level == 0 else level - 0.5, np.inf if level == 255 else level + 0.5)
    expected, _ = integrate.quad(stats.norm(mean, sigma).pdf, *edges, epsabs=0, epsrel=1e-10)
    found = gaussian(sigma**2).nll_nats(network_units(mean).expand(1, 1, 1, 1), torch.full((1, 1, 1, 1), level).byte())
    assert found.item() == pytest.approx(-math.log(expected), rel=1e-8)


def test_gaussian_far_tails_are_exact():
    """At 200 standard deviations the mass, e^-20000, is 0 in float64; its log is known by Mills' ratio."""
    z = 200.0 - 0.5  # mean 0, sigma 1: the nearer edge of level 200; the farther one takes off e^-200 of the mass
    expected = z**2 / 2 + math.log(z * math.sqrt(2 * math.pi)) - math.log1p(-(z**-2) + 3 * z**-4 - 15 * z**-6)
    for mean, level in ((0.0, 200), (255.0, 55)):
        params = network_units(mean).expand(1, 1, 1, 1)
        nll = gaussian(1.0).nll_nats(params, torch.full((1, 1, 1, 1), level).byte())
        assert nll.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("params", [-1e4, -0.5, 0.5, 1e4])
@pytest.mark.parametrize("sigma_squared", [0.0, 1e-12, 1e8])
def test_gaussian_extremes_are_finite(params, sigma_squared):
    likelihood = gaussian(sigma_squared)
    nll = likelihood.nll_nats(torch.full((256, 1, 1, 1), params), EVERY_LEVEL)
    assert nll.isfinite().all() and (nll >= 0).all()
    assert likelihood.objective(torch.full((256, 1, 1, 1), params), EVERY_LEVEL).isfinite().all()


def test_gaussian_objective_is_the_normalised_squared_error_of_sonnet():
    """mean((x/255 - 0.5 - params)^2) / var(x/255), by hand."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (4, 3, 5, 7), generator=generator).byte()
    params = torch.randn(4, 3, 5, 7, generator=generator)
    data = x.numpy() / 255.0
    likelihood = Gaussian(variance=float(x.double().var(correction=0)))
    expected = ((data - 0.5 - params.numpy()) ** 2).mean() / data.var()
    assert (likelihood.objective(params, x) / (3 * 5 * 7)).mean().item() == pytest.approx(expected, rel=1e-5)
    perfect = likelihood.to_network(x)
    assert likelihood.objective(perfect, x).max() < 1e-9
    assert torch.equal(likelihood.mean(perfect), x)


def test_gaussian_sigma_follows_the_training_error():
    likelihood = Gaussian(variance=4000.0, decay=0.9).double()
    assert likelihood.sigma_squared().item() == 4000.0  # before training, the data's
    x = torch.full((2, 1, 4, 4), 100).byte()
    errors, weight, average = [10.0, 20.0, 5.0], 0.0, 0.0
    for error in errors:
        likelihood.objective(network_units(100 + error).expand(2, 1, 4, 4), x)
        average, weight = 0.9 * average + 0.1 * error**2, 0.9 * weight + 0.1
        assert likelihood.sigma_squared().item() == pytest.approx(average / weight, rel=1e-9)
    likelihood.eval().objective(network_units(0.0).expand(2, 1, 4, 4), x)
    assert likelihood.sigma_squared().item() == pytest.approx(average / weight, rel=1e-9)
    restored = Gaussian(variance=4000.0).double()
    restored.load_state_dict(likelihood.state_dict())
    assert restored.sigma_squared() == likelihood.sigma_squared()


def test_gaussian_learned_sigma_goes_to_the_training_error():
    likelihood = Gaussian(variance=4000.0, sigma="learned").double()
    assert likelihood.sigma_squared().item() == pytest.approx(4000.0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(60, 190, (8, 1, 16, 16), generator=generator).byte()
    params = likelihood.to_network(x) + torch.randn(x.shape, generator=generator, dtype=torch.float64) * 12 / 255
    error = (params - likelihood.to_network(x)).square().mean().item() * 255**2
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        likelihood.objective(params, x).mean().backward()
        optimizer.step()
    assert likelihood.sigma_squared().item() == pytest.approx(error, rel=1e-3)
    # sigma is some twelve levels wide: density and mass differ by less than 1 / (24 sigma^2) a value
    density, mass = likelihood.objective(params, x), likelihood.nll_nats(params, x)
    torch.testing.assert_close(density / 256, mass / 256, rtol=0, atol=1 / (24 * error))


def test_gaussian_gradient_reaches_params():
    for sigma in ("training_mse", "learned"):
        params = torch.zeros(2, 1, 3, 3, dtype=torch.bfloat16, requires_grad=True)
        objective = Gaussian(4000.0, sigma).objective(params, torch.full((2, 1, 3, 3), 200).byte())
        assert objective.dtype == torch.float32
        objective.sum().backward()
        assert (params.grad < 0).all()  # brighter is better


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_categorical_masses_sum_to_one_and_match_a_softmax_by_hand(memory_format):
    generator = torch.Generator().manual_seed(0)
    params = torch.randn(2, 3 * 256, 4, 5, generator=generator, dtype=torch.float64) * 5
    params = params.to(memory_format=memory_format)
    x = torch.randint(0, 256, (2, 3, 4, 5), generator=generator).byte()
    likelihood = Categorical().double()
    # channel c of the data is described by the decoder's channels 256 c .. 256 c + 255
    p = torch.stack([params[:, 256 * c : 256 * (c + 1)].softmax(1) for c in range(3)], 1)  # b c k h w
    expected = -p.gather(2, x.long()[:, :, None])[:, :, 0].log().sum((1, 2, 3))
    torch.testing.assert_close(likelihood.nll_nats(params, x), expected)
    torch.testing.assert_close(likelihood.objective(params, x), expected)
    levels = torch.arange(256, dtype=torch.float64)
    assert torch.equal(likelihood.mean(params), (p * levels[:, None, None]).sum(2).round().byte())
    one = params[:1, :256, :1, :1].expand(256, -1, -1, -1)
    assert (-likelihood.nll_nats(one, EVERY_LEVEL)).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_categorical_extremes_are_finite():
    params = torch.full((256, 256, 1, 1), -1e4)
    params[:, 7] = 1e4
    nll = Categorical().nll_nats(params, EVERY_LEVEL)
    assert nll.isfinite().all() and nll[7] == 0
    assert (Categorical().mean(params) == 7).all()


@pytest.mark.parametrize("likelihood", [Gaussian(4000.0), Categorical()])
def test_data_units(likelihood):
    scaled = likelihood.to_network(EVERY_LEVEL)
    assert scaled.dtype == torch.float32 and scaled.min() == -0.5 and scaled.max() == pytest.approx(0.5)
    assert likelihood.double().to_network(EVERY_LEVEL).dtype == torch.float64
    mean = likelihood.mean(torch.randn(2, 3 * likelihood.params_per_value, 4, 4) * 10)
    assert mean.dtype == torch.uint8 and mean.shape == (2, 3, 4, 4)
    with pytest.raises(ValueError, match="expected images of type torch.uint8, found torch.float32"):
        likelihood.to_network(torch.zeros(1, 1, 2, 2))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="expected a variance .* above 0, found 0"):
        Gaussian(0.0)
    with pytest.raises(ValueError, match="found unknown"):
        Gaussian(1.0, sigma="unknown")
