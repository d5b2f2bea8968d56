"""Audio of a decoder that makes a whole wave at once: trained by its spectrum, its mass that of mu-law symbols.

Axes: b batch, c channels, t samples, n parameters per value, k levels.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from einops import rearrange
from torch import Tensor

from stage1_vqvae.likelihoods.base import LEVELS, each_level
from stage1_vqvae.likelihoods.logistic import log_interval
from stage1_vqvae.likelihoods.mu_law import MuLawSymbols, expand
from stage1_vqvae.spectra import SpectralLoss

LOG_SCALE_LIMIT = 8.0  # e^-8 is 0.0003 of full scale


class MuLawWave(MuLawSymbols):
    """Decoder channels (c n): per channel of the data the wave, and the log-scale of a logistic around it.

    Codes at some hundred per second do not determine the phase of a wave. The likeliest wave is therefore the mean over
    all phases, which is muffled; what is heard is the spectrum. Training minimises

        spectral loss + nll_weight * (-log mass per sample),

    and the mass, of the logistic over the range of amplitudes of each symbol, is exact: its bits are a bound like any
    other likelihood's. The scale is at least half the width of a symbol: the wave then is the mean of its symbols, up
    to what lies beyond full scale."""

    params_per_value = 2

    def __init__(self, window_lengths: Sequence[int], sample_rate_hz: int, num_bands: int, nll_weight: float):
        super().__init__()
        if not nll_weight > 0:
            raise ValueError(f"nll_weight: expected a number above 0, found {nll_weight}")
        self.spectral_loss = SpectralLoss(window_lengths, sample_rate_hz, num_bands)
        self.nll_weight = nll_weight

    def objective(self, params: Tensor, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        params = self._precise(params)
        nll = self.counted(-self._log_mass(params, self.levels(x)), lengths)
        spectral = self.spectral_loss(self._parts(params)[0], x.to(params.dtype), lengths)
        dimensions = x[0].numel() if lengths is None else lengths * x.shape[1]
        return self.nll_weight * nll + dimensions * spectral

    def value_nats(self, params: Tensor, x: Tensor) -> Tensor:
        return -self._log_mass(params.double(), self.levels(x))

    def mean(self, params: Tensor) -> Tensor:
        return self._parts(self._precise(params))[0].clamp(-1, 1)

    def level_logits(self, params: Tensor) -> Tensor:
        shape = (len(params), params.shape[1] // self.params_per_value, *params.shape[2:])
        return each_level(partial(self._log_mass, params.double()), shape, params.device)

    def _parts(self, params: Tensor) -> tuple[Tensor, Tensor]:
        wave, log_scale = rearrange(params, "b (c n) ... -> n b c ...", n=2)
        return wave, log_scale

    def _log_mass(self, params: Tensor, levels: Tensor) -> Tensor:
        """Levels (b, c, t) of any integer type -> log p (b, c, t), of params' dtype."""
        wave, log_scale = self._parts(params)
        half_width = (wave.abs().clamp(max=1) + 1 / self.MU) * (math.log(LEVELS) / self.MU)
        scale = half_width + log_scale.clamp(-LOG_SCALE_LIMIT, LOG_SCALE_LIMIT).exp()
        centre = levels.to(wave.dtype)
        lower, upper = (expand((centre + side) / self.MU * 2 - 1) for side in (-0.5, 0.5))
        first, last = levels == 0, levels == self.MU
        a = torch.where(first, -math.inf, (lower - wave) / scale)
        b = torch.where(last, math.inf, (upper - wave) / scale)
        return log_interval(a, b, torch.where(first | last, math.inf, (upper - lower) / scale))
