"""The estimators of VIMCO that use the decoder's gradients, by the sum over all outcomes: no statistical error."""

import itertools
import math

import pytest
import torch

from stage1_vqvae.bottlenecks.vimco import VIMCO, unpredicted

K, POSITIONS, D = 3, 2, 3


def quantizer(estimator, samples):
    """Encodings are the logits themselves."""
    torch.manual_seed(3)
    module = VIMCO(num_codes=K, dim=D, num_samples=samples, estimator=estimator).double().train()
    with torch.no_grad():
        module.projection.weight.copy_(torch.eye(K))
        module.projection.bias.zero_()
    return module


def problem():
    """Logits (1, K, POSITIONS)."""
    return torch.randn(1, K, POSITIONS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def quadratic(z_q):
    """z_q (b, D, POSITIONS) -> (b,), all dimensions of all positions coupled."""
    x = z_q.flatten(1)
    matrix = torch.randn(D * POSITIONS, D * POSITIONS, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    return ((x @ matrix) ** 2).sum(1) + 3 * x @ matrix[0]


def cubic(z_q):
    return quadratic(z_q) + 4 * z_q.flatten(1).sum(1) ** 3


def exact(logits, cost):
    """Minus the ELBO, sum over all codes of q (R + log q - log p), as a function of logits."""
    log_q = logits[0].log_softmax(0)
    codes = torch.tensor(list(itertools.product(range(K), repeat=POSITIONS)))
    log_q = log_q[codes, torch.arange(POSITIONS)].sum(1)
    return (log_q.exp() * (cost(quantizer("vimco", 2).lookup(codes)) + log_q + POSITIONS * math.log(K))).sum()


def all_outcomes(estimator, samples, cost):
    """The mean over all draws of the bound, and of its gradient by logits and by codebook; each gradient by logits."""
    logits, module = problem(), quantizer(estimator, samples)
    outcomes = torch.tensor(list(itertools.product(range(K), repeat=samples * POSITIONS))).view(-1, samples, POSITIONS)
    p = logits[0].softmax(0)
    position = torch.arange(POSITIONS)
    uniforms = (p.cumsum(0) - p / 2)[outcomes, position]
    weights = p[outcomes, position].flatten(1).prod(1)
    z = logits.repeat(len(outcomes), 1, 1).requires_grad_()
    latent = module(z, uniforms=uniforms)
    assert torch.equal(latent.codes.view(-1, samples, POSITIONS), outcomes)
    assert torch.equal(latent.z_q, module.lookup(latent.codes))
    costs = (cost(latent.z_q) + latent.rate_nats) / 7
    bound = 7 * latent.bound(costs, 7)
    by_logits, by_codebook = torch.autograd.grad((weights * bound).sum(), [z, module.codebook])
    return (weights * bound).sum(), by_logits.sum(0, keepdim=True), by_codebook, by_logits / weights[:, None, None]


def expected(cost):
    logits = problem().requires_grad_()
    value = exact(logits, cost)
    return value, torch.autograd.grad(value, logits)[0]


@pytest.mark.parametrize("samples", [2, 3])
def test_the_first_order_estimator_is_unbiased(samples):
    value, gradient = expected(cubic)
    found, by_logits, by_codebook, _ = all_outcomes("first_order", samples, cubic)
    torch.testing.assert_close(found, value)
    assert gradient.abs().min() > 1e-2
    torch.testing.assert_close(by_logits, gradient, rtol=1e-9, atol=1e-11)
    # and the codebook's gradient is that of the costs alone
    codebook = quantizer("vimco", 2).codebook.detach().requires_grad_()
    codes = torch.tensor(list(itertools.product(range(K), repeat=POSITIONS)))
    p = problem()[0].softmax(0)[codes, torch.arange(POSITIONS)].prod(1)
    torch.testing.assert_close(by_codebook, torch.autograd.grad((p * cubic(codebook[0][codes].mT)).sum(), codebook)[0])


def test_it_has_no_variance_where_costs_are_linear():
    def linear(z_q):
        return z_q.flatten(1) @ torch.arange(1.0, 1.0 + D * POSITIONS, dtype=z_q.dtype)

    _, gradient = expected(linear)
    each = all_outcomes("first_order", 2, linear)[-1]
    torch.testing.assert_close(each, gradient.expand_as(each))


def test_its_variance_is_lower_where_costs_are_steep():
    """Near the minimum of the costs it need not be."""
    def steep(z_q):
        return 200 * z_q.flatten(1).sum(1) + quadratic(z_q)

    logits = problem()[0].softmax(0)
    outcomes = torch.tensor(list(itertools.product(range(K), repeat=2 * POSITIONS))).view(-1, 2, POSITIONS)
    weights = logits[outcomes, torch.arange(POSITIONS)].flatten(1).prod(1)[:, None, None]
    spread = {}
    for estimator in ("vimco", "first_order"):
        each = all_outcomes(estimator, 2, steep)[-1]
        spread[estimator] = (weights * (each - (weights * each).sum(0)) ** 2).sum()
    assert spread["first_order"] < spread["vimco"] / 10


@pytest.mark.parametrize("samples", [1, 2])
def test_the_second_order_estimator_is_exact_for_quadratic_costs(samples):
    value, gradient = expected(quadratic)
    found, by_logits, _, _ = all_outcomes("second_order", samples, quadratic)
    torch.testing.assert_close(found, value)
    torch.testing.assert_close(by_logits, gradient, rtol=1e-9, atol=1e-11)


def test_it_is_biased_where_costs_are_not():
    _, gradient = expected(cubic)
    by_logits = all_outcomes("second_order", 1, cubic)[1]
    assert not torch.allclose(by_logits, gradient, rtol=1e-2)


def test_predictions_come_from_the_other_draws():
    """One example, three draws of one number."""
    costs = torch.tensor([[1.0, 2.0, 4.0]])
    gradients = torch.tensor([[[3.0], [5.0], [-1.0]]])
    entries = torch.tensor([[[0.0], [1.0], [3.0]]])
    predicted = [(2 + 5 * -1 + 4 - 1 * -3) / 2, (1 + 3 * 1 + 4 - 1 * -2) / 2, (1 + 3 * 3 + 2 + 5 * 2) / 2]
    torch.testing.assert_close(unpredicted(costs, gradients, entries), costs - torch.tensor([predicted]))


def test_the_rate_is_the_kl():
    torch.manual_seed(0)
    module = VIMCO(num_codes=5, dim=4, num_codebooks=2, num_samples=3, estimator="first_order").double().train()
    z = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    latent = module(z)
    assert latent.z_q.shape == (6, 4, 3, 5) and latent.codes.shape == (6, 3, 5, 2)
    q = torch.distributions.Categorical(logits=module.projection(z.movedim(1, -1)).unflatten(-1, (2, 5)))
    kl = (math.log(5) - q.entropy()).flatten(1).sum(1)
    torch.testing.assert_close(latent.rate_nats, kl.repeat_interleave(3))


@pytest.mark.parametrize("wrong, message", [
    ({"estimator": "first_order", "num_samples": 1}, "at least 2 samples"),
    ({"estimator": "second_order", "num_samples": 0}, "at least 1 samples"),
    ({"estimator": "exact"}, "found exact"),
])
def test_what_cannot_be_estimated_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        VIMCO(**wrong)
