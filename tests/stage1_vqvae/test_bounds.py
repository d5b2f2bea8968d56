"""Bounds on models whose log-likelihood is known: they are exact, below it, or above each other, as they must be.

Statistics: a mean is compared at 4 standard errors, which a right program misses with probability 6e-5 (two-sided) or
3e-5 (one-sided) per comparison; seeds are fixed, so that it either always passes or never.
"""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from stage1_vqvae.bounds import elbo, iwae, log_weights, mean_and_standard_error
from stage1_vqvae.likelihoods.logistic import Logistic

PRIOR = Normal(torch.zeros((), dtype=torch.float64), 1.0)
SIGMA = 0.6


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class LinearGaussian:
    """z ~ N(0, I) in 2 dimensions, x ~ N(W z + c, SIGMA^2 I) in 5; W's columns are orthogonal, so that the posterior's
    covariance is diagonal. Holds `b` examples drawn from it."""

    def __init__(self, b):
        generator = torch.Generator().manual_seed(0)
        columns, _ = torch.linalg.qr(torch.randn(5, 2, generator=generator, dtype=torch.float64))
        self.w = columns * torch.tensor([2.0, 0.7], dtype=torch.float64)
        self.c = torch.randn(5, generator=generator, dtype=torch.float64)
        z, noise = (torch.randn(b, n, generator=generator, dtype=torch.float64) for n in (2, 5))
        self.x = z @ self.w.T + self.c + SIGMA * noise
        covariance = self.w @ self.w.T + SIGMA**2 * torch.eye(5, dtype=torch.float64)
        self.log_p = MultivariateNormal(self.c, covariance).log_prob(self.x)
        precision = 1 + self.w.square().sum(0) / SIGMA**2
        self.posterior = Normal((self.x - self.c) @ self.w / SIGMA**2 / precision, precision**-0.5 + 0 * self.x[:, :2])

    def log_likelihood(self, z):
        return Normal(z @ self.w.T + self.c, SIGMA).log_prob(self.x).sum(1)


def test_with_the_true_posterior_every_weight_is_the_likelihood():
    model = LinearGaussian(50)
    log_w = log_weights(model.log_likelihood, model.posterior, PRIOR, rand(7, 50, 2))
    assert log_w.shape == (7, 50) and log_w.dtype == torch.float64
    torch.testing.assert_close(log_w, model.log_p.expand(7, 50), rtol=0, atol=1e-11)
    torch.testing.assert_close(iwae(log_w), model.log_p, rtol=0, atol=1e-11)


def test_more_samples_raise_the_bound_to_the_likelihood_and_not_beyond():
    model, ks = LinearGaussian(8000), [1, 4, 16, 64]
    wrong = Normal(model.posterior.mean + 0.2, model.posterior.stddev * 1.5)
    log_w = log_weights(model.log_likelihood, wrong, PRIOR, rand(ks[-1], 8000, 2))
    # the ELBO's distance is the divergence, exactly
    gap, error = mean_and_standard_error(model.log_p - log_w.mean(0) - kl_divergence(wrong, model.posterior).sum(1))
    assert abs(gap) < 4 * error
    found = [iwae(log_w[:k]) for k in ks]
    for fewer, more in zip(found, found[1:]):
        rise, error = mean_and_standard_error(more - fewer)
        assert rise > 4 * error  # it is 8 or more: chance takes off 4 with probability 3e-5
    gaps = [mean_and_standard_error(model.log_p - bound) for bound in found]
    assert all(gap > -4 * error for gap, error in gaps)
    assert gaps[-1][0] < gaps[0][0] / 50  # 0.0056 of 0.754: the gap falls as 1 / k, and 0.015 is 8 errors away


def test_weights_are_unbiased():
    """E w = p(x) for every k: the mean of exp(log w - log p(x)) is 1."""
    model = LinearGaussian(2000)
    wrong = Normal(model.posterior.mean - 0.1, model.posterior.stddev * 1.3)
    log_w = log_weights(model.log_likelihood, wrong, PRIOR, rand(16, 2000, 2, seed=1))
    ratio, error = mean_and_standard_error((iwae(log_w) - model.log_p).exp())
    assert error < 0.01 and abs(ratio - 1) < 4 * error


def test_a_likelihood_of_levels_is_bounded_too():
    """One pixel, one latent, a discretised logistic: log p(x) by quadrature, and masses of all levels sum to one."""
    likelihood = Logistic().double()
    x = torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1, 1)

    def decode(z):
        return torch.cat((0.4 * torch.tanh(z), -3 + 0.3 * z), 1)

    def joint(z, level):
        params = decode(torch.full((1, 1, 1, 1), z, dtype=torch.float64))
        return math.exp(-likelihood.nll_nats(params, x[level : level + 1]).item()) * stats.norm.pdf(z)

    q = Normal(torch.atanh((x.double() / 255 - 0.5).clamp(-0.35, 0.35) / 0.4), 0.6)
    log_w = log_weights(lambda z: -likelihood.nll_nats(decode(z), x), q, PRIOR, rand(2000, 256, 1, 1, 1))
    for level in (0, 60, 127, 255):
        exact = integrate.quad(joint, -9, 9, args=(level,), points=[0], limit=200)[0]
        ratio, error = mean_and_standard_error((log_w[:, level] - math.log(exact)).exp())
        assert error < 0.05 and abs(ratio - 1) < 4 * error
    assert iwae(log_w).exp().sum().item() == pytest.approx(1, abs=0.01)


def test_values_by_hand():
    assert iwae(torch.tensor([[0.0], [math.log(3)]])).item() == pytest.approx(math.log(2), abs=1e-7)
    far = torch.tensor([[0.0, 5.0], [1.0, 7.0]], dtype=torch.float64)
    torch.testing.assert_close(iwae(far - 1e5), iwae(far) - 1e5)  # weights themselves would be 0
    parts = [torch.tensor([value]) for value in (-700.1, -2.5, -1.25)]
    assert elbo(*parts).dtype == torch.float64 and elbo(*parts).item() == pytest.approx(-701.35, rel=1e-7)


def test_uniforms_may_come_one_by_one_and_be_zero():
    model = LinearGaussian(3)
    uniforms = rand(4, 3, 2)
    uniforms[0] = 0
    found = log_weights(model.log_likelihood, model.posterior, PRIOR, (u for u in uniforms))
    assert torch.equal(found, log_weights(model.log_likelihood, model.posterior, PRIOR, uniforms))
    assert found.isfinite().all()
    with pytest.raises(ValueError, match="expected dtype torch.float64, found torch.float32"):
        log_weights(model.log_likelihood, model.posterior, PRIOR, uniforms.float())


def test_a_prior_may_give_the_total():
    """As a network over all latents does."""

    class Whole:
        def log_prob(self, value):
            return PRIOR.log_prob(value).sum(1)

    model = LinearGaussian(3)
    found = [log_weights(model.log_likelihood, model.posterior, prior, rand(2, 3, 2)) for prior in (PRIOR, Whole())]
    torch.testing.assert_close(*found)


def test_standard_error_is_scipys():
    values = torch.randn(31, generator=torch.Generator().manual_seed(0))
    mean, error = mean_and_standard_error(values)
    assert mean.dtype == error.dtype == torch.float64
    assert mean.item() == pytest.approx(np.mean(values.double().numpy()), rel=1e-12)
    assert error.item() == pytest.approx(stats.sem(values.double().numpy()), rel=1e-12)
    with pytest.raises(ValueError, match="at least two values .* found 1"):
        mean_and_standard_error(values[:1])
