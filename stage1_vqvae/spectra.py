"""How far the spectra of two waves are apart, whatever their phases: losses of a decoder that is not autoregressive.

Yamamoto, Song and Kim, "Parallel WaveGAN" (arXiv 1910.11480, section 2.2, equations 3 to 6); Dhariwal et al., "Jukebox"
(arXiv 2005.00341, section 3.2), use the first of the two terms. Several window lengths: a long one resolves the
harmonics of a voice, a short one its onsets.

Axes: b batch, c channels, t samples, n frames, k frequencies.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

FLOOR = 1e-4  # -80 dB below a sine of full scale: what is quieter counts as this


class SpectralLoss(nn.Module):
    """Spectral convergence, plus the mean difference of log magnitudes of frequencies and that of `num_bands` bands on
    the mel scale (fewer, a quarter of the window's length, where a window is short); averaged over `window_lengths`.

    Hann windows, a quarter of their length apart, from one that is centred on the first sample; outside a clip are
    zeros. The magnitudes are those of sines: a sine of full scale has magnitude 1."""

    def __init__(self, window_lengths: Sequence[int], sample_rate_hz: int, num_bands: int):
        super().__init__()
        if not window_lengths or any(size < 8 or size % 4 for size in window_lengths):
            raise ValueError(f"window_lengths: expected multiples of 4 from 8, found {list(window_lengths)}")
        self.window_lengths = tuple(int(size) for size in window_lengths)
        for size in self.window_lengths:
            bands = mel_bands(size, sample_rate_hz, min(num_bands, size // 4))
            self.register_buffer(f"window_{size}", torch.hann_window(size) * 4 / size, persistent=False)
            self.register_buffer(f"bands_{size}", bands, persistent=False)

    def forward(self, made: Tensor, real: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Two waves (b, c, t), of them the first `lengths` (b,) samples -> (b,). Each clip for itself."""
        if lengths is not None:
            counted = torch.arange(real.shape[-1], device=real.device) < lengths[:, None, None]
            made, real = torch.where(counted, made, 0), torch.where(counted, real, 0)
        samples = torch.as_tensor(real.shape[-1], device=real.device) if lengths is None else lengths
        with torch.autocast(made.device.type, enabled=False):
            found = [self.of_window(made, real, samples, size) for size in self.window_lengths]
        return torch.stack(found).mean(0)

    def of_window(self, made: Tensor, real: Tensor, samples: Tensor, size: int) -> Tensor:
        """-> (b,). Frames in which both are silent add nothing to the sums, so padding does not count."""
        window, bands = getattr(self, f"window_{size}"), getattr(self, f"bands_{size}")
        powers, target = (self._powers(wave, window) for wave in (made, real))
        magnitudes, wanted = powers.sqrt(), target.sqrt()
        energy = (target - FLOOR**2).sum((1, 2)) + FLOOR**2
        convergence = ((wanted - magnitudes).square().sum((1, 2)) + FLOOR**2).sqrt() / energy.sqrt()
        frames = samples / (size / 4) * real.shape[1]
        of_frequencies = (target.log() - powers.log()).abs().mean(2).sum(1) / 2 / frames
        by_band = [torch.log(found @ bands.to(found.dtype)) for found in (magnitudes, wanted)]
        of_bands = (by_band[0] - by_band[1]).abs().mean(2).sum(1) / frames
        return convergence + of_frequencies + of_bands

    @staticmethod
    def _powers(waves: Tensor, window: Tensor) -> Tensor:
        """(b, c, t) -> (b, c n, k) squared magnitudes, plus FLOOR^2, so that their logarithms have gradients."""
        size, hop = len(window), len(window) // 4
        b, c, t = waves.shape
        after = size + -t % hop  # every frame that holds samples of the clip
        padded = F.pad(rearrange(waves, "b c t -> (b c) t"), (size // 2, after))
        spectrum = torch.stft(padded, size, hop, window=window.to(waves.dtype), center=False, return_complex=True)
        powers = torch.view_as_real(spectrum).square().sum(-1) + FLOOR**2
        return rearrange(powers, "(b c) k n -> b (c n) k", c=c)


def mel_bands(size: int, sample_rate_hz: int, num_bands: int) -> Tensor:
    """(size / 2 + 1, num_bands): triangles over the frequencies of an FFT, equally spaced in mel, each of sum 1."""
    mel = torch.linspace(0, 2595 * math.log10(1 + sample_rate_hz / 2 / 700), num_bands + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    hz = torch.linspace(0, sample_rate_hz / 2, size // 2 + 1)[:, None]
    rising, falling = (hz - edges[:-2]) / (edges[1:-1] - edges[:-2]), (edges[2:] - hz) / (edges[2:] - edges[1:-1])
    triangles = torch.minimum(rising, falling).clamp(min=0)
    # a band narrower than the FFT's resolution becomes its nearest frequency
    nearest = F.one_hot((hz - edges[1:-1]).abs().argmin(0), size // 2 + 1).T.to(triangles.dtype)
    triangles = torch.where(triangles.sum(0) > 0, triangles, nearest)
    return triangles / triangles.sum(0)


def windowed_fourier(size: int) -> Tensor:
    """(2 (size / 2 + 1), 1, size): kernels of a convolution that makes the real, then the imaginary parts of a discrete
    Fourier transform under a Hann window. A sine of full scale has magnitude 1."""
    time, frequency = torch.arange(size, dtype=torch.float64), torch.arange(size // 2 + 1, dtype=torch.float64)
    phase = 2 * math.pi * frequency[:, None] * time / size
    window = torch.hann_window(size, dtype=torch.float64) * 4 / size
    return (torch.cat([phase.cos(), -phase.sin()]) * window)[:, None].float()


def cosine_transform(num_bands: int, num_coefficients: int) -> Tensor:
    """(num_bands, num_coefficients): the discrete cosine transform (II), orthonormal, its lowest orders."""
    place = (torch.arange(num_bands, dtype=torch.float64) + 0.5) * math.pi / num_bands
    basis = torch.cos(place[:, None] * torch.arange(num_coefficients)) * math.sqrt(2 / num_bands)
    basis[:, 0] /= math.sqrt(2)
    return basis.float()
