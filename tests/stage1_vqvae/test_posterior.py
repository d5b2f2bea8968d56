"""Posteriors as the bounds ask for them: against distributions that are known, and bounds against all outcomes.

Statistics: a mean is compared at 4 standard errors, missed by a right program with probability 6e-5; seeds are fixed.
"""

import math

import pytest
import torch
from torch.distributions import Categorical, Normal

from stage1_vqvae.bottlenecks.fsq import FSQ
from stage1_vqvae.bottlenecks.gaussian import Gaussian
from stage1_vqvae.bottlenecks.gumbel import Gumbel
from stage1_vqvae.bottlenecks.identity import Identity
from stage1_vqvae.bottlenecks.residual import Residual
from stage1_vqvae.bottlenecks.vimco import VIMCO
from stage1_vqvae.bottlenecks.vq import EMAQuantizer
from stage1_vqvae.bounds import iwae, log_weights, mean_and_standard_error


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gaussian_draws_and_probabilities_are_those_of_the_normal():
    z = 3 * (rand(4, 6, 2, 5) - 0.5)
    posterior = Gaussian(3).posterior(z)
    mean, log_variance = z.chunk(2, 1)
    expected, u = Normal(mean, (log_variance / 2).exp()), rand(4, 3, 2, 5, seed=1)
    assert posterior.noise == (3, 2, 5)
    sample = posterior.icdf(u)
    torch.testing.assert_close(sample, expected.icdf(u))
    torch.testing.assert_close(posterior.log_prob(sample), expected.log_prob(sample))
    torch.testing.assert_close(posterior.prior.log_prob(sample), Normal(0.0, 1.0).log_prob(sample))
    assert Gaussian(3).posterior(z.float()).z_q(sample).dtype == torch.float32
    assert torch.equal(Gaussian(3).eval()(z, uniforms=u).z_q, sample)


@pytest.mark.parametrize("bottleneck", [VIMCO, Gumbel])
@pytest.mark.parametrize("g", [1, 2])
def test_codes_are_drawn_as_often_as_is_said(bottleneck, g):
    torch.manual_seed(0)
    module, k = bottleneck(num_codes=5, dim=4, num_codebooks=g).double().eval(), 5
    z = 4 * torch.randn(3, 4, 2, 3, dtype=torch.float64)
    posterior = module.posterior(z)
    assert posterior.noise == (2, 3, g)
    logits = module.projection(z.movedim(1, -1)).unflatten(-1, (g, k))
    every = torch.arange(k).view(k, 1, 1, 1, 1).expand(-1, 3, 2, 3, g)
    log_q = torch.stack([posterior.log_prob(codes) for codes in every])
    torch.testing.assert_close(log_q, Categorical(logits=logits).log_prob(every))
    assert torch.all(posterior.prior.log_prob(every[0]) == -math.log(k))
    draws = torch.stack([posterior.icdf(u) for u in rand(2000, 3, 2, 3, g)])
    shares = torch.stack([(draws == code).double().mean(0) for code in range(k)])
    q = log_q.exp()
    assert ((shares - q).abs() < 4 * (q * (1 - q) / 2000).sqrt() + 1e-3).all()
    codes = draws[0] if g > 1 else draws[0, ..., 0]
    assert torch.equal(posterior.z_q(draws[0]), module.lookup(codes))


def test_bounds_of_codes_are_those_of_all_outcomes():
    """One code of six: the ELBO is a sum over them, and many samples come to log p(x) = log mean_k p(x | k)."""
    torch.manual_seed(0)
    module = VIMCO(num_codes=6, dim=4).double().eval()
    posterior = module.posterior(2 * torch.randn(1, 4, 1, dtype=torch.float64).expand(4000, -1, -1))
    log_px = torch.randn(6, dtype=torch.float64)
    q = posterior.log_q[0, 0, 0]
    log_w = log_weights(lambda codes: log_px[codes[:, 0, 0]], posterior, posterior.prior, rand(100, 4000, 1, 1))
    exact_elbo = (q.exp() * (log_px - math.log(6) - q)).sum()
    value, error = mean_and_standard_error(log_w.flatten())
    assert abs(value - exact_elbo) < 4 * error
    exact = log_px.logsumexp(0) - math.log(6)
    ratio, error = mean_and_standard_error((iwae(log_w) - exact).exp())
    assert error < 0.01 and abs(ratio - 1) < 4 * error


@pytest.mark.parametrize("module", [Identity(4), EMAQuantizer(8, 4), Residual(8, 4, 2), FSQ([3, 3], 4)],
                         ids=lambda module: type(module).__name__)
def test_a_function_of_x_has_no_posterior(module):
    assert module.posterior(torch.randn(2, 4, 3, 3)) is None
