"""A symmetric density on a line, integrated over the bin of each level: the base of logistic and logit-Laplace.

Axes: b batch, c channels, *grid height and width, n parameters per value.
"""

import math
from abc import abstractmethod

import torch
from einops import rearrange
from torch import Tensor

from stage1_vqvae.likelihoods.base import LEVELS, ExactMass

LOG_SCALE_LIMIT = 8.0  # e^-8 of the range is 0.09 levels: 0.994 of a logistic lies on its mean's level


class Binned(ExactMass):
    """Decoder channels (c n): per channel of the data its location, then its log-scale.

    Level x owns [x - 1/2, x + 1/2] in data units; levels 0 and 255 take the tails. Log-scales are clamped to
    +-LOG_SCALE_LIMIT, so that no mass and no gradient overflows.
    """

    params_per_value = 2

    @abstractmethod
    def coordinate(self, x: Tensor) -> Tensor:
        """Data units (floating point) -> coordinates of the density; increasing."""

    @abstractmethod
    def cdf(self, t: Tensor) -> Tensor:
        """F(t) of the density with location 0 and scale 1."""

    @abstractmethod
    def log_interval(self, a: Tensor, b: Tensor, width: Tensor) -> Tensor:
        """log(F(b) - F(a)) for a < b, accurate in the far tails. width: b - a without the rounding of a and b; inf
        where a is -inf or b is inf."""

    def log_mass(self, params: Tensor, x: Tensor) -> Tensor:
        location, log_scale = rearrange(params, "b (c n) ... -> n b c ...", n=2)
        return self._log_bin(location, log_scale, x)

    def expectation(self, params: Tensor) -> Tensor:
        return self._expected_level(*rearrange(params, "b (c n) ... -> n b c ...", n=2))

    def _log_bin(self, location: Tensor, log_scale: Tensor, x: Tensor) -> Tensor:
        """Location and log_scale (..., b, c, *grid), x (b, c, *grid) -> (..., b, c, *grid)."""
        scale, level = _scale(log_scale), x.to(location.dtype)
        lower, upper = self.coordinate(level - 0.5), self.coordinate(level + 0.5)
        first, last = x == 0, x == LEVELS - 1
        a = torch.where(first, -math.inf, (lower - location) / scale)
        b = torch.where(last, math.inf, (upper - location) / scale)
        return self.log_interval(a, b, torch.where(first | last, math.inf, (upper - lower) / scale))

    def _expected_level(self, location: Tensor, log_scale: Tensor) -> Tensor:
        """E x = sum over k < 255 of P(x > k), one after another: 255 values at once may not fit into memory."""
        scale = _scale(log_scale)
        edges = self.coordinate(torch.arange(LEVELS - 1, dtype=location.dtype, device=location.device) + 0.5)
        return sum((self.cdf((location - edge) / scale) for edge in edges), start=torch.zeros_like(location))


def _scale(log_scale: Tensor) -> Tensor:
    return log_scale.clamp(-LOG_SCALE_LIMIT, LOG_SCALE_LIMIT).exp()
