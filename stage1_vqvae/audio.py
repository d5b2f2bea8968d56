"""Encoders and decoder of audio (b c t): down to one vector for many samples, and back up.

van den Oord et al. (arXiv 1711.00937, section 4.3): six convolutions of stride 2 and window 4, so one latent per 64
samples. Here one-dimensional residual blocks follow at the rate of the codes, where they cost little; other strides
give other factors. A second encoder begins with cepstra in place of samples. The upsampler mirrors the first. Before a
WaveNet it gives the features that condition each sample; alone, with the logits of a symbol as `out_channels`, it is a
plain, fast decoder.

Axes: b batch, c channels, t samples, n positions of the codes, L label columns, d latent dimension.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from stage1_vqvae.likelihoods.base import LEVELS
from stage1_vqvae.likelihoods.mu_law import expand
from stage1_vqvae.spectra import FLOOR, cosine_transform, mel_bands, windowed_fourier


class SoundEncoder(nn.Module):
    """Waves in network units (b, in_channels, t) -> (b, dim, t / product of strides).

    A convolution of stride s has a window of 2 s. ValueError where the strides do not divide t.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        *,
        hidden: int,
        strides: Sequence[int],
        num_residual_blocks: int,
    ):
        super().__init__()
        self.strides = checked_strides(strides)
        layers: list[nn.Module] = []
        for i, stride in enumerate(self.strides):
            channels = in_channels if i == 0 else hidden
            layers += [nn.Conv1d(channels, hidden, 2 * stride, stride, padding=0), nn.ReLU(inplace=True)]
        self.convolutions = nn.ModuleList(layers)
        self.blocks = nn.ModuleList(ResidualBlock(hidden, ()) for _ in range(num_residual_blocks))
        self.out = nn.Conv1d(hidden, dim, 1)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        factor = math.prod(self.strides)
        if x.shape[-1] % factor:
            raise ValueError(f"expected a number of samples divisible by {factor}, found {x.shape[-1]}")
        for stride, convolution, relu in zip(self.strides, self.convolutions[::2], self.convolutions[1::2]):
            before = stride // 2
            x = relu(convolution(F.pad(x, (before, stride - before))))
        for block in self.blocks:
            x = block(x, None)
        return self.out(F.relu(x))


class CepstralEncoder(nn.Module):
    """Waves in network units (b, 1, t) -> (b, dim, t / hop_length), from their mel-frequency cepstral coefficients.

    Chorowski, Weiss, Bengio and van den Oord (arXiv 1901.08810, sections II and IV) found that codes made of cepstra
    say more about what is spoken and less about the voice than codes made of samples: the first `num_coefficients` of
    `num_bands` describe the envelope of the spectrum, not the harmonics of a pitch. Their differences over time, which
    the authors append, are left to the convolutions of the residual blocks. Hann windows of `window_length` samples
    are centred on the samples of a code; outside a clip is silence. ValueError where hop_length does not divide t.
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden: int,
        hop_length: int,
        window_length: int,
        sample_rate_hz: int,
        num_bands: int,
        num_coefficients: int,
        num_residual_blocks: int,
    ):
        super().__init__()
        if not 1 <= num_coefficients <= num_bands:
            raise ValueError(f"num_coefficients: expected 1 to {num_bands}, found {num_coefficients}")
        if window_length < hop_length or (window_length - hop_length) % 2:
            raise ValueError(
                f"window_length: expected {hop_length} or more by an even number, found {window_length}"
            )
        self.hop_length = hop_length
        self.fourier: Tensor
        self.bands: Tensor
        self.cosines: Tensor
        self.register_buffer("fourier", windowed_fourier(window_length), persistent=False)
        self.register_buffer("bands", mel_bands(window_length, sample_rate_hz, num_bands), persistent=False)
        self.register_buffer("cosines", cosine_transform(num_bands, num_coefficients), persistent=False)
        self.input = nn.Conv1d(num_coefficients, hidden, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(hidden, ()) for _ in range(num_residual_blocks))
        self.out = nn.Conv1d(hidden, dim, 1)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] % self.hop_length:
            raise ValueError(f"expected a number of samples divisible by {self.hop_length}, found {x.shape[-1]}")
        x = self.input(self.cepstra(x).to(x.dtype))
        for block in self.blocks:
            x = block(x, None)
        return self.out(F.relu(x))

    @torch.no_grad()
    def cepstra(self, x: Tensor) -> Tensor:
        """-> (b, num_coefficients, t / hop_length): in speech within some units of zero, the first most variable."""
        with torch.autocast(x.device.type, enabled=False):
            beside = (self.fourier.shape[-1] - self.hop_length) // 2
            wave = F.pad(expand(x.to(self.fourier.dtype)), (beside, beside))
            real, imaginary = F.conv1d(wave, self.fourier, stride=self.hop_length).transpose(1, 2).chunk(2, -1)
            magnitudes = (real.square() + imaginary.square() + FLOOR**2).sqrt()
            centred = (torch.log(magnitudes @ self.bands) + 6) / 2  # -52 dB, a usual level of a band of speech
            return (centred @ self.cosines).transpose(1, 2)


class SoundUpsampler(nn.Module):
    """Latents (b, dim, n) and labels (b, L) -> (b, out_channels, n * product of factors).

    Residual blocks at the rate of the codes, each conditioned on the labels, then a transposed convolution of window
    2 f per factor f. `num_classes`: one entry per label column.
    """

    def __init__(
        self,
        dim: int,
        out_channels: int,
        *,
        hidden: int,
        channels: int,
        factors: Sequence[int],
        num_residual_blocks: int,
        num_classes: Sequence[int] = (),
    ):
        super().__init__()
        self.num_classes = tuple(num_classes)
        self.input = nn.Conv1d(dim, hidden, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(hidden, self.num_classes) for _ in range(num_residual_blocks))
        widths = [hidden, *[channels] * len(factors)]
        self.factors = checked_strides(factors)
        self.transposed = nn.ModuleList(
            nn.ConvTranspose1d(wide, narrow, 2 * factor, factor, padding=0)
            for wide, narrow, factor in zip(widths, widths[1:], self.factors)
        )
        self.out = nn.Conv1d(channels, out_channels, 1)
        initialise(self)

    def forward(self, z_q: Tensor, labels: Tensor | None = None) -> Tensor:
        check_labels(labels, len(self.num_classes))
        x = self.input(z_q)
        for block in self.blocks:
            x = block(x, labels)
        for factor, convolution in zip(self.factors, self.transposed):
            before = factor // 2
            x = F.relu(convolution(F.relu(x))[..., before : before + factor * x.shape[-1]])
        return self.out(x)


class ResidualBlock(nn.Module):
    """x + (ReLU, convolution of 3, labels' biases, ReLU, 1x1)(x) on (b, c, n)."""

    def __init__(self, channels: int, num_classes: Sequence[int], dilation: int = 1):
        super().__init__()
        self.wide = nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.tables = nn.ModuleList(nn.Embedding(count, channels) for count in num_classes)
        self.narrow = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        hidden = self.wide(F.relu(x))
        for column, table in enumerate(self.tables):
            assert labels is not None
            hidden = hidden + rearrange(table(labels[:, column]), "b c -> b c 1")
        return x + self.narrow(F.relu(hidden))


class SpectralGuide(nn.Module):
    """Teaches an upsampler the log spectrum of the audio directly: mean squared error times `weight`.

    Beyond the paper: through a WaveNet alone, which predicts most of a sample from its own past, codes learn content
    slowly. A linear map of the features, averaged over `hop_length` samples, is compared with the log magnitudes of
    `num_bands` triangular bands on the mel scale, of windows of `window_length` samples (None: 4 hops), once per hop.
    """

    def __init__(
        self,
        in_channels: int,
        hop_length: int,
        sample_rate_hz: int,
        num_bands: int,
        weight: float,
        window_length: int | None = None,
    ):
        super().__init__()
        self.window: Tensor
        self.bands: Tensor
        self.hop_length = hop_length
        self.weight = weight
        self.out = nn.Linear(in_channels, num_bands)
        size = window_length or 4 * hop_length
        self.register_buffer("window", torch.hann_window(size), persistent=False)
        self.register_buffer("bands", mel_bands(size, sample_rate_hz, num_bands), persistent=False)

    def forward(self, features: Tensor, levels: Tensor) -> Tensor:
        """features (b, c, t), or of a lower rate down to one per hop; levels (b, 1, t) mu-law symbols -> ()."""
        frames = levels.shape[-1] // self.hop_length
        found = self.out(reduce(features, "b c (n h) -> b n c", "mean", n=frames).to(self.out.weight.dtype))
        return self.weight * F.mse_loss(found.float(), self.log_bands(levels).float())

    @torch.no_grad()
    def log_bands(self, levels: Tensor) -> Tensor:
        """-> (b, n, bands): natural logarithms of magnitudes, in speech of about unit variance."""
        with torch.autocast(levels.device.type, enabled=False):
            wave = expand(levels[:, 0].to(self.window.dtype) / (LEVELS - 1) * 2 - 1)
            size, hop = len(self.window), self.hop_length
            padded = F.pad(wave, ((size - hop) // 2, size - hop - (size - hop) // 2))  # negative: cut
            spectrum = torch.stft(padded, size, hop, window=self.window, center=False, return_complex=True).abs()
            return torch.log(spectrum.transpose(1, 2) @ self.bands + 1e-2)


def check_labels(labels: Tensor | None, columns: int) -> None:
    """Raises ValueError unless labels are (b, columns); None are none."""
    if (0 if labels is None else labels.shape[1]) != columns:
        found = "none" if labels is None else tuple(labels.shape)
        raise ValueError(f"labels: expected {columns} columns, found {found}")


def checked_strides(strides: Sequence[int]) -> tuple[int, ...]:
    if not strides or min(strides) < 1:
        raise ValueError(f"expected strides of at least 1, found {list(strides)}")
    return tuple(int(stride) for stride in strides)


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """He et al. (arXiv 1502.01852), as for images; residual branches start at zero, labels near zero."""
    for module in network.modules():
        if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
            taps = module.in_channels * module.kernel_size[0]
            if isinstance(module, nn.ConvTranspose1d):
                taps //= module.stride[0]  # each output sees one in `stride` taps of its kernel
            last = module is getattr(network, "out", None)
            nn.init.normal_(module.weight, std=(1.0 if last else math.sqrt(2)) / math.sqrt(taps))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.3)
    for block in network.modules():
        if isinstance(block, ResidualBlock):
            nn.init.zeros_(block.narrow.weight)
