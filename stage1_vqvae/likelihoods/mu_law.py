"""Audio: a float wave in [-1, 1], as mu-law symbols; network units are those of the compressed wave.

Axes: b batch, c channels, t samples.
"""

import math

import torch
from torch import Tensor

from stage1_vqvae.likelihoods.base import LEVELS, Likelihood
from stage1_vqvae.likelihoods.categorical import Categorical


class MuLawSymbols(Likelihood):
    """Audio in [-1, 1] as 256 mu-law symbols (the curve of ITU-T G.711, rounded as torchaudio does).

    The mass is that of the symbols: figures are bits per symbol. Symbol 128 is silence, 0 and 255 are -1 and 1.
    """

    MU = LEVELS - 1
    exact = False

    def to_network(self, x: Tensor) -> Tensor:
        """Waves (b, c, t) -> the compressed waves: sign(x) log(1 + 255 |x|) / log(256)."""
        if not x.is_floating_point():
            raise ValueError(f"expected waves of floating type in [-1, 1], found {x.dtype}")
        return self._compressed(x.to(self.scale.dtype))

    def levels(self, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        return ((self._compressed(wide) + 1) / 2 * self.MU + 0.5).long().clamp(0, self.MU)

    def from_levels(self, levels: Tensor) -> Tensor:
        return expand(levels.to(self.scale.dtype) / self.MU * 2 - 1)

    def _compressed(self, x: Tensor) -> Tensor:
        return x.sign() * torch.log1p(self.MU * x.abs()) / math.log1p(self.MU)


class MuLaw(MuLawSymbols, Categorical):
    """One logit for each symbol."""

    def mean(self, params: Tensor) -> Tensor:
        return self.expectation(params)


def expand(compressed: Tensor) -> Tensor:
    """The wave from a mu-law compressed wave: sign(y) ((256^|y|) - 1) / 255."""
    return compressed.sign() * torch.expm1(compressed.abs() * math.log(LEVELS)) / (LEVELS - 1)
