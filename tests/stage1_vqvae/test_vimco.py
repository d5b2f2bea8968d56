"""VIMCO: its bound and its gradient against the sum over all outcomes, its draws against their distribution."""

import itertools
import math

import pytest
import torch
from torch.distributions import Categorical

from stage1_vqvae.bottlenecks.categorical import draw
from stage1_vqvae.bottlenecks.vimco import VIMCO, MultiSample, bound_without_each

K, POSITIONS, SAMPLES = 3, 2, 3


def problem():
    """Logits (1, K, POSITIONS), and log p(x | codes) for each of the K^2 codes of an example."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, K, POSITIONS, generator=generator, dtype=torch.float64)
    return logits, 3 * torch.randn(K**POSITIONS, generator=generator, dtype=torch.float64)


def quantizer():
    """Encodings are the logits themselves."""
    module = VIMCO(num_codes=K, dim=K, num_samples=SAMPLES).double()
    with torch.no_grad():
        module.projection.weight.copy_(torch.eye(K))
        module.projection.bias.zero_()
    return module


def costs(latent, log_likelihood, dimensions):
    """Nats a dimension of each row: - log p(x | z) + log q(z | x) - log p(z)."""
    place = latent.codes[:, 0] * K + latent.codes[:, 1]
    return (latent.rate_nats - log_likelihood[place]) / dimensions


def exact_bound(logits, log_likelihood):
    """E[log mean_s p(x, z_s) / q(z_s | x)] as a function of logits, by the sum over all K^(2 S) outcomes."""
    log_q = logits[0].log_softmax(0)
    codes = torch.tensor(list(itertools.product(range(K), repeat=POSITIONS)))
    log_q = log_q[codes, torch.arange(POSITIONS)].sum(1)  # of all codes of an example
    log_f = log_likelihood - POSITIONS * math.log(K) - log_q
    total = 0.0
    for outcome in itertools.product(range(len(codes)), repeat=SAMPLES):
        outcome = list(outcome)
        total = total + log_q[outcome].sum().exp() * (log_f[outcome].logsumexp(0) - math.log(SAMPLES))
    return total


def test_the_gradient_is_on_average_over_all_outcomes_that_of_the_bound():
    """Each outcome is brought about by uniforms in the middle of its codes' intervals and weighted by its probability:
    no statistical error."""
    logits, log_likelihood = problem()
    outcomes = torch.tensor(list(itertools.product(range(K), repeat=SAMPLES * POSITIONS)))
    outcomes = outcomes.view(-1, SAMPLES, POSITIONS)
    p = logits[0].softmax(0)
    upper = p.cumsum(0)
    position = torch.arange(POSITIONS)
    uniforms = (upper - p / 2)[outcomes, position]
    weights = p[outcomes, position].flatten(1).prod(1)

    z = logits.repeat(len(outcomes), 1, 1).requires_grad_()
    latent = quantizer()(z, uniforms=uniforms)
    assert isinstance(latent, MultiSample)
    assert torch.equal(latent.codes.view(-1, SAMPLES, POSITIONS), outcomes)
    bound = latent.bound(costs(latent, log_likelihood, 7), 7) * -7
    (gradient,) = torch.autograd.grad((weights * bound).sum(), z)

    logits.requires_grad_()
    exact = exact_bound(logits, log_likelihood)
    (expected,) = torch.autograd.grad(exact, logits)
    torch.testing.assert_close((weights * bound).sum(), exact)
    assert expected.abs().min() > 1e-3  # there is something to compare
    torch.testing.assert_close(gradient.sum(0, keepdim=True), expected, rtol=1e-9, atol=1e-12)


def test_the_gradient_of_its_own_draws_is_that_of_the_bound():
    """40,000 independent estimates of six derivatives. Each mean is off by more than 5 of its standard errors by chance
    with probability 5.7e-7, one of them with 3.4e-6."""
    logits, log_likelihood = problem()
    z = logits.repeat(40_000, 1, 1).requires_grad_()
    torch.manual_seed(0)
    latent = quantizer().train()(z)
    (gradient,) = torch.autograd.grad(-latent.bound(costs(latent, log_likelihood, 1), 1).sum(), z)
    logits.requires_grad_()
    (expected,) = torch.autograd.grad(exact_bound(logits, log_likelihood), logits)
    error = gradient.std(0) / math.sqrt(len(z))
    assert ((gradient.mean(0) - expected[0]).abs() < 5 * error).all()
    assert (error < 0.02 * expected.abs().max()).all()  # small enough to tell


def test_the_baseline_lowers_the_variance():
    """Without it the signal of every sample is the bound itself."""
    logits, log_likelihood = problem()
    z = logits.repeat(4000, 1, 1).requires_grad_()
    torch.manual_seed(0)
    latent = quantizer().train()(z)
    nats = costs(latent, log_likelihood, 1)
    (with_it,) = torch.autograd.grad(-latent.bound(nats, 1).sum(), z, retain_graph=True)
    log_f = -nats.view(-1, SAMPLES)
    bound = log_f.logsumexp(1) - math.log(SAMPLES)
    score = (bound.detach()[:, None] * latent.log_q).sum(1)
    (without,) = torch.autograd.grad((bound + score).sum(), z)
    assert with_it.var(0).sum() < without.var(0).sum() / 2


def test_the_baseline_takes_the_geometric_mean_of_the_others():
    log_f = torch.tensor([[1.0, 2.0, 4.0]])
    expected = [math.log((math.exp(3) + math.exp(2) + math.exp(4)) / 3),
                math.log((math.exp(1) + math.exp(2.5) + math.exp(4)) / 3),
                math.log((math.exp(1) + math.exp(2) + math.exp(1.5)) / 3)]
    torch.testing.assert_close(bound_without_each(log_f), torch.tensor([expected]))


def test_the_rate_of_a_sample_is_log_q_minus_log_p():
    torch.manual_seed(0)
    module = VIMCO(num_codes=5, dim=4, num_codebooks=2, num_samples=3).double().train()
    z = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    latent = module(z)
    assert latent.z_q.shape == (6, 4, 3, 5) and latent.codes.shape == (6, 3, 5, 2)
    assert torch.equal(module.lookup(latent.codes), latent.z_q)
    logits = module.projection(z.movedim(1, -1)).unflatten(-1, (2, 5))
    log_q = Categorical(logits=logits.repeat_interleave(3, 0)).log_prob(latent.codes).flatten(1).sum(1)
    torch.testing.assert_close(latent.rate_nats, log_q + 30 * math.log(5))
    torch.testing.assert_close(latent.log_q.flatten(), log_q)


def test_draws_are_the_first_code_whose_cdf_is_above_the_uniform():
    logits = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64).log()
    uniforms = torch.tensor([[0.0, 0.1999, 0.2001, 0.6999, 0.7001, 1 - 2**-53]], dtype=torch.float64)
    assert draw(logits, uniforms).tolist() == [[0, 0, 1, 1, 2, 2]]


def test_fewer_than_two_samples_have_no_others():
    with pytest.raises(ValueError, match="num_samples=1"):
        VIMCO(num_samples=1)
