"""Mu-law symbols: the round trip, torchaudio's rounding, and a likelihood that counts what is real only."""

import math

import pytest
import torch
from torchaudio.functional import mu_law_decoding, mu_law_encoding

from stage1_vqvae.likelihoods.categorical import Categorical
from stage1_vqvae.likelihoods.gaussian import Gaussian
from stage1_vqvae.likelihoods.mu_law import MuLaw, expand


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_symbol_comes_back(dtype):
    symbols = torch.arange(256).reshape(1, 1, 256)
    likelihood = MuLaw().to(dtype)
    wave = likelihood.from_levels(symbols)
    assert wave.dtype == dtype and torch.equal(likelihood.levels(wave), symbols)
    assert bool((wave.diff() > 0).all())


def test_full_scale_is_exact_and_silence_is_silent():
    likelihood = MuLaw()
    assert likelihood.levels(torch.tensor([[[-1.0, 0.0, 1.0]]])).flatten().tolist() == [0, 128, 255]
    ends = likelihood.from_levels(torch.tensor([[[0, 255]]]))
    assert ends.flatten().tolist() == pytest.approx([-1.0, 1.0], abs=1e-6)
    assert abs(likelihood.from_levels(torch.tensor([[[128]]])).item()) < 1e-4


def test_symbols_and_waves_are_torchaudios():
    wave = torch.linspace(-1, 1, 20_001, dtype=torch.float64).reshape(1, 1, -1)
    likelihood = MuLaw().double()
    assert torch.equal(likelihood.levels(wave), mu_law_encoding(wave, 256))
    symbols = torch.arange(256).reshape(1, 1, -1)
    assert torch.allclose(likelihood.from_levels(symbols), mu_law_decoding(symbols.double(), 256), atol=1e-12)


def test_what_is_too_loud_is_the_last_symbol():
    assert MuLaw().levels(torch.tensor([[[-3.0, 3.0]]])).flatten().tolist() == [0, 255]


def test_network_units_are_the_compressed_wave():
    wave = torch.rand(2, 1, 50, dtype=torch.float64) * 2 - 1
    compressed = MuLaw().double().to_network(wave)
    assert compressed.abs().max() <= 1 and torch.allclose(expand(compressed), wave)
    with pytest.raises(ValueError, match="expected waves of floating type"):
        MuLaw().to_network(torch.zeros(1, 1, 4, dtype=torch.uint8))


def test_the_likelihood_is_of_the_symbols_and_counts_real_samples_only():
    logits = torch.randn(2, 256, 7, dtype=torch.float64)
    wave = torch.rand(2, 1, 7, dtype=torch.float64) * 2 - 1
    likelihood, lengths = MuLaw().double(), torch.tensor([7, 3])
    symbols = mu_law_encoding(wave[:, 0], 256)
    single = -logits.log_softmax(1).gather(1, symbols[:, None])[:, 0]
    expected = torch.stack([single[0].sum(), single[1, :3].sum()])
    for params in (logits, logits.mT.contiguous().mT):  # either layout
        assert torch.allclose(likelihood.nll_nats(params, wave, lengths), expected)
        assert torch.allclose(likelihood.objective(params, wave, lengths), expected)
    assert torch.allclose(likelihood.nll_nats(logits, wave), single.sum(1))


def test_the_mean_is_of_the_waves():
    logits = torch.full((1, 256, 2), -math.inf, dtype=torch.float64)
    logits[0, [0, 255], 0] = 0.0
    logits[0, 200, 1] = 0.0
    mean = MuLaw().double().mean(logits)
    assert mean.flatten().tolist() == pytest.approx([0.0, MuLaw().double().from_levels(torch.tensor(200)).item()])


def test_images_have_levels_too_and_no_lengths():
    x = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    likelihood = Categorical()
    assert torch.equal(likelihood.from_levels(likelihood.levels(x)), x)
    with pytest.raises(ValueError, match="expected MuLaw"):
        Gaussian(1.0).objective(torch.zeros(2, 3, 4, 4), x, torch.tensor([1, 2]))
