"""Gaussian latents: the KL, the noise, free nats, and numbers that stay numbers."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from stage1_vqvae.bottlenecks.gaussian import Gaussian, kl_nats, normal


def encodings(batch=6, dim=4, grid=(3, 5), seed=0):
    return torch.randn(batch, 2 * dim, *grid, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_rate_is_the_kl_to_the_standard_normal():
    z = encodings()
    mean, log_variance = z.chunk(2, 1)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).flatten(1).sum(1)
    for training in (True, False):
        torch.testing.assert_close(Gaussian(4).train(training)(z).rate_nats, expected)


def test_the_kl_near_its_minimum_keeps_its_digits_in_float32():
    """(m^2 + l^2 / 2) / 2 to second order; exp(l) - 1 - l taken naively is off by 1e-7, more than all of it."""
    small = torch.tensor(1e-3)
    torch.testing.assert_close(kl_nats(small, torch.tensor(0.0)), torch.tensor(5e-7))
    torch.testing.assert_close(kl_nats(torch.tensor(0.0), 10 * small), torch.tensor(2.5e-5), rtol=1e-2, atol=0)


def test_noise_is_the_quantile_of_the_uniforms():
    z = encodings()
    mean, log_variance = z.chunk(2, 1)
    uniforms = torch.rand(6, 4, 3, 5, dtype=torch.float64)
    expected = Normal(mean, (log_variance / 2).exp()).icdf(uniforms)
    for training in (True, False):
        torch.testing.assert_close(Gaussian(4).train(training)(z, uniforms=uniforms).z_q, expected)
    assert torch.equal(Gaussian(4).eval()(z).z_q, mean)
    assert normal(torch.zeros(1, dtype=torch.float64)).item() == pytest.approx(-8.29, abs=0.01)  # 2^-54


def test_training_draws_from_the_posterior():
    """200,000 draws each of mean 1.5 and deviation 0.5: the standard errors are 0.0011 and 0.0008. Bounds of 5 of them
    fail by chance once in 900,000."""
    z = torch.cat([torch.full((1, 1, 200_000), 1.5), torch.full((1, 1, 200_000), 2 * math.log(0.5))], 1)
    torch.manual_seed(0)
    z_q = Gaussian(1).train()(z).z_q
    assert abs(z_q.mean() - 1.5) < 5 * 0.5 / math.sqrt(200_000)
    assert abs(z_q.std() - 0.5) < 5 * 0.5 / math.sqrt(400_000)


def test_gradients_reach_mean_and_deviation():
    z, uniforms = encodings().requires_grad_(), torch.rand(6, 4, 3, 5, dtype=torch.float64)
    upstream = encodings(seed=2)[:, :4]
    Gaussian(4)(z, uniforms=uniforms).z_q.backward(upstream)
    mean, log_variance = z.grad.chunk(2, 1)
    assert torch.equal(mean, upstream)
    torch.testing.assert_close(log_variance, upstream * normal(uniforms) * (z.detach()[:, 4:] / 2).exp() / 2)


def test_free_nats_are_what_a_latent_counts_at_least_in_training():
    z = encodings().requires_grad_()
    kl = kl_nats(*z.detach().chunk(2, 1))
    module = Gaussian(4, free_nats=0.3)
    latent = module(z)
    torch.testing.assert_close(latent.rate_nats, kl.clamp(min=0.3).flatten(1).sum(1))
    latent.rate_nats.sum().backward()
    pushed = z.grad[:, :4] != 0
    assert torch.equal(pushed, kl > 0.3) and pushed.any() and not pushed.all()
    torch.testing.assert_close(module.eval()(z).rate_nats, kl.flatten(1).sum(1))


@pytest.mark.parametrize("value", [-1e6, 1e6])
def test_no_log_variance_breaks_a_number(value):
    z = torch.full((2, 2, 3), value).requires_grad_()
    with torch.no_grad():
        z[:, 0] = 1.0
    latent = Gaussian(1)(z)
    (latent.rate_nats.sum() + latent.z_q.sum()).backward()
    assert latent.rate_nats.isfinite().all() and latent.z_q.isfinite().all() and z.grad.isfinite().all()
