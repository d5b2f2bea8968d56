"""The figures of benchmarks/gradient_variance.py, from vectors of known moments."""

import itertools

import pytest
import torch

from benchmarks.gradient_variance import moments, quotient, variants
from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.bottlenecks.gumbel import Gumbel
from stage1_vqvae.bottlenecks.vimco import VIMCO
from stage1_vqvae.likelihoods.logistic import Logistic


def test_both_moments_are_unbiased():
    """The mean over all ways to draw three of two vectors, (3, 1) or (1, 1): mean (2, 1), variance 1."""
    vectors = torch.tensor([[3.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    found = [moments(iter(vectors[list(chosen)])) for chosen in itertools.product(range(2), repeat=3)]
    signal, variance, _ = torch.tensor(found, dtype=torch.float64).mean(0).tolist()
    assert signal == pytest.approx(5) and variance == pytest.approx(1)


def test_gradients_that_agree_have_no_variance_and_no_error():
    signal, variance, error = moments(iter(torch.full((4, 2), 3.0, dtype=torch.float64)))
    assert (signal, variance, error) == pytest.approx((18, 0, 0)) and quotient(signal, variance, error) == "0"


def test_an_uncertain_quotient_is_a_lower_limit():
    assert quotient(2.0, 8.0, 0.5) == "4" and quotient(2.0, 8.0, 3.0) == "> 1" and quotient(-1.0, 8.0, 1.0) == "> 4"


def test_a_vimco_is_measured_with_each_estimator_and_others_as_they_are():
    def model(bottleneck):
        return Autoencoder(torch.nn.Identity(), bottleneck, torch.nn.Identity(), Logistic())

    found = [(name, samples, module.bottleneck.estimator, module.bottleneck.num_samples)
             for name, samples, module in variants(model(VIMCO(dim=4)), [1, 2, 5])]
    assert found == [("vimco", 2, "vimco", 2), ("vimco", 5, "vimco", 5), ("first_order", 2, "first_order", 2),
                     ("first_order", 5, "first_order", 5), ("second_order", 1, "second_order", 1)]
    assert [(name, samples) for name, samples, _ in variants(model(Gumbel(dim=4)), [2])] == [("Gumbel", 1)]
