"""Logistic, mixtures, logit-Laplace, Bernoulli: masses against independent formulas, also where float64 ends."""

import math

import mpmath
import pytest
import torch
from scipy import integrate, stats

from stage1_vqvae.likelihoods.bernoulli import Bernoulli
from stage1_vqvae.likelihoods.logistic import Logistic, LogisticMixture
from stage1_vqvae.likelihoods.logit_laplace import LogitLaplace

EVERY_LEVEL = torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1, 1)
LEVELS = [0, 1, 90, 131, 254, 255]


def nll(likelihood, params, level):
    params = torch.tensor(params, dtype=torch.float64).reshape(1, -1, 1, 1)
    return likelihood.nll_nats(params, torch.full((1, 1, 1, 1), level, dtype=torch.uint8)).item()


def logistic_mass(location, log_scale, level):
    """In data units."""
    of = stats.logistic((location + 0.5) * 255, math.exp(log_scale) * 255)
    return of.cdf(math.inf if level == 255 else level + 0.5) - of.cdf(-math.inf if level == 0 else level - 0.5)


@pytest.mark.parametrize("level", LEVELS)
def test_logistic_is_scipys(level):
    for location, log_scale in ((0.1, -2.0), (-0.7, 0.5), (0.013, -5.5)):
        expected = logistic_mass(location, log_scale, level)
        if expected > 1e-6:  # below, the difference of the oracle's two values means little
            found = nll(Logistic(), [location, log_scale], level)
            assert found == pytest.approx(-math.log(expected), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("level", LEVELS)
def test_a_mixture_is_its_components(level):
    weights, locations, log_scales = [0.2, 0.7, 0.1], [0.1, -0.4, 0.45], [-2.0, -3.0, 0.3]
    expected = sum(w * logistic_mass(m, s, level) for w, m, s in zip(weights, locations, log_scales))
    params = [math.log(w) + 5.0 for w in weights] + locations + log_scales  # logits need not be normalised
    assert nll(LogisticMixture(3), params, level) == pytest.approx(-math.log(expected), rel=1e-9)


def test_a_mixture_of_one_is_the_logistic():
    params = torch.randn(256, 2, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = EVERY_LEVEL.expand(-1, -1, 3, 2)
    mixed = torch.cat([torch.randn(256, 1, 3, 2, dtype=torch.float64), params], 1)
    torch.testing.assert_close(LogisticMixture(1).nll_nats(mixed, x), Logistic().nll_nats(params, x))
    assert torch.equal(LogisticMixture(1).mean(mixed), Logistic().mean(params))


@pytest.mark.parametrize("level", LEVELS)
def test_logit_laplace_integrates_the_papers_density(level):
    """arXiv 2102.12092, equation 2, over the level's share of (0, 1)."""
    low = 0.0 if level == 0 else 0.8 * (level - 0.5) / 255 + 0.1
    high = 1.0 if level == 255 else 0.8 * (level + 0.5) / 255 + 0.1
    for mu, log_b in ((0.3, -1.0), (-2.5, 0.4), (0.0423, -4.0)):  # the last lies within level 131

        def density(y):
            b, odds = math.exp(log_b), math.log(y / (1 - y))
            return math.exp(-abs(odds - mu) / b) / (2 * b * y * (1 - y))

        kink = 1 / (1 + math.exp(-mu))
        points = [low] + [kink] * (low < kink < high) + [high]
        expected = sum(integrate.quad(density, *ends, epsabs=0, epsrel=1e-11)[0] for ends in zip(points, points[1:]))
        if expected > 1e-200:
            assert nll(LogitLaplace(), [mu, log_b], level) == pytest.approx(-math.log(expected), rel=1e-7)


def test_logit_laplace_maps_as_the_paper():
    y = LogitLaplace().double().to_network(EVERY_LEVEL).flatten()
    torch.testing.assert_close(y, torch.linspace(0.1, 0.9, 256, dtype=torch.float64), rtol=0, atol=1e-7)
    inverse = torch.stack([torch.logit(y), torch.full_like(y, -7.0)], 1)[..., None, None]
    assert torch.equal(LogitLaplace().mean(inverse), EVERY_LEVEL)


@pytest.mark.parametrize("logit", [-3000.0, -200.0, -1.0, -1e-9, 0.0, 1e-300, 1e-9, 0.7, 30.0, 4000.0])
def test_bernoulli_is_the_normalised_cross_entropy(logit):
    """p^(k/255) (1 - p)^(1 - k/255) is e^(k logit/255) times a constant; summed here term by term."""
    terms = torch.arange(256, dtype=torch.float64) * logit / 255
    params = torch.full((256, 1, 1, 1), logit, dtype=torch.float64)
    torch.testing.assert_close(Bernoulli().nll_nats(params, EVERY_LEVEL), -terms.log_softmax(0), rtol=1e-12, atol=1e-12)


def test_bernoullis_gradient_is_the_mean_less_the_level():
    """d nll / d logit = (E k - k) / 255, at logit 0 too."""
    for logit in (-50.0, -1e-12, 0.0, 2.0):
        params = torch.full((256, 1, 1, 1), logit, dtype=torch.float64, requires_grad=True)
        likelihood = Bernoulli().double()
        likelihood.nll_nats(params, EVERY_LEVEL).sum().backward()
        k = torch.arange(256, dtype=torch.float64)
        expected = (k * (k * logit / 255).softmax(0)).sum()
        torch.testing.assert_close(params.grad.flatten(), (expected - k) / 255)
        torch.testing.assert_close(likelihood.expectation(params[:1]).squeeze(), expected)


def interval(likelihood, location, log_scale, level):
    """-log(F(b) - F(a)) with 3,000 digits: the smallest mass here is e^-5854, 2,542 digits of which are 0."""
    with mpmath.workdps(3000):
        def F(edge):
            if isinstance(likelihood, Logistic):
                t = (mpmath.mpf(edge) / 255 - mpmath.mpf("0.5") - mpmath.mpf(location)) / mpmath.exp(log_scale)
                return 1 / (1 + mpmath.exp(-t))
            y = mpmath.mpf("0.8") * edge / 255 + mpmath.mpf("0.1")
            t = (mpmath.log(y / (1 - y)) - mpmath.mpf(location)) / mpmath.exp(log_scale)
            return mpmath.exp(t) / 2 if t < 0 else 1 - mpmath.exp(-t) / 2

        low = 0 if level == 0 else F(mpmath.mpf(level) - 0.5)
        high = 1 if level == 255 else F(mpmath.mpf(level) + 0.5)
        return float(-mpmath.log(high - low))


@pytest.mark.parametrize("likelihood", [Logistic(), LogitLaplace()])
@pytest.mark.parametrize("location, log_scale", [(0.3, -7.0), (-2.5, -5.0), (0.01, -7.9), (0.0, 7.9), (9.0, -1.0)])
def test_far_tails_are_exact(likelihood, location, log_scale):
    for level in (0, 3, 127, 128, 200, 255):
        expected = interval(likelihood, location, log_scale, level)
        assert nll(likelihood, [location, log_scale], level) == pytest.approx(expected, rel=1e-11, abs=1e-13)


@pytest.mark.parametrize("likelihood", [Bernoulli(), Logistic(), LogisticMixture(3), LogitLaplace()])
def test_training_minimises_the_exact_mass_in_its_own_precision(likelihood):
    generator = torch.Generator().manual_seed(0)
    params = torch.randn(256, likelihood.params_per_value, 4, 4, generator=generator) * 3
    x, rough = EVERY_LEVEL.expand(-1, -1, 4, 4), params.bfloat16()
    objective = likelihood.objective(params, x)
    assert objective.dtype == torch.float32 and likelihood.objective(rough, x).dtype == torch.float32
    torch.testing.assert_close(objective.double(), likelihood.nll_nats(params, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("likelihood", [Logistic(), LogitLaplace()])
def test_scales_are_limited(likelihood):
    level = 100
    for beyond, limit in ((-60.0, -8.0), (60.0, 8.0)):
        assert nll(likelihood, [0.2, beyond], level) == nll(likelihood, [0.2, limit], level)


def test_a_mixture_without_components_is_refused():
    with pytest.raises(ValueError, match="at least one component, found num_components=0"):
        LogisticMixture(0)
