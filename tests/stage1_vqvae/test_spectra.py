"""Spectral losses: zero for equal waves, the published formulas, gradients in silence, padding that does not count."""

import pytest
import torch
import torch.nn.functional as F
from torchaudio.transforms import Spectrogram

from stage1_vqvae.spectra import FLOOR, SpectralLoss, mel_bands

SIZES = [16, 64]


def loss() -> SpectralLoss:
    return SpectralLoss(SIZES, sample_rate_hz=8000, num_bands=6).double()


def waves(*shape: int) -> torch.Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_equal_waves_have_no_loss_whatever_their_sign():
    x = waves(2, 1, 100)
    assert loss()(x, x).max() < 1e-3  # the floor of the convergence
    assert loss()(-x, x).max() < 1e-3 < 0.1 < loss()(0.5 * x, x).min()


def test_it_is_the_formula_over_torchaudios_spectrogram():
    """Parallel WaveGAN, equations 4 and 5, and the same for bands; t a multiple of every hop, so frames are whole."""
    made, real = waves(2, 1, 96), waves(4, 1, 96)[2:]
    expected = torch.zeros(2, dtype=torch.float64)
    for size in SIZES:
        spectrogram = Spectrogram(size, hop_length=size // 4, power=1.0, center=True, pad_mode="constant").double()
        theirs = [(4 / size * spectrogram(F.pad(wave[:, 0], (0, size // 2)))).transpose(1, 2) for wave in (made, real)]
        theirs = [(magnitudes.square() + FLOOR**2).sqrt() for magnitudes in theirs]
        bands = mel_bands(size, 8000, min(6, size // 4)).double()
        frames = 96 / (size / 4)
        for at in range(2):
            m, r = theirs[0][at], theirs[1][at]
            expected[at] += (m - r).norm() / r.norm() / len(SIZES)
            for a, b in ((m, r), (m @ bands, r @ bands)):
                expected[at] += (a.log() - b.log()).abs().mean(1).sum() / frames / len(SIZES)
    torch.testing.assert_close(loss()(made, real), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("real", [torch.zeros(1, 1, 50), torch.ones(1, 1, 50) * 0.1])
def test_silence_has_a_finite_gradient(real):
    made = torch.zeros(1, 1, 50, requires_grad=True)
    SpectralLoss(SIZES, 8000, 6)(made, real).sum().backward()
    assert made.grad.isfinite().all()
    assert not made.grad.any()  # a wave of zeros has no phase to move to
    made = torch.full((1, 1, 50), 1e-4, requires_grad=True)
    SpectralLoss(SIZES, 8000, 6)(made, real).sum().backward()
    assert made.grad.isfinite().all() and made.grad.any()


def test_clips_are_on_their_own_and_padding_does_not_count():
    """A clip's loss is the same alone, beside others, and whatever lies after its end."""
    made, real, lengths = waves(3, 1, 120), waves(6, 1, 120)[3:], torch.tensor([120, 70, 33])
    found = loss()(made, real, lengths)
    for at, length in enumerate(lengths.tolist()):
        alone = loss()(made[at : at + 1, :, :length], real[at : at + 1, :, :length])
        torch.testing.assert_close(found[at : at + 1], alone)
    torch.testing.assert_close(loss()(F.pad(made, (0, 50), value=0.7), F.pad(real, (0, 50)), lengths), found)
    assert not torch.allclose(loss()(made, real)[1:], found[1:])


def test_windows_that_have_no_quarter_are_refused():
    for sizes in ([], [30], [4]):
        with pytest.raises(ValueError, match="window_lengths: expected multiples of 4"):
            SpectralLoss(sizes, 8000, 6)
