"""A likelihood in one file: the exponential family of two moments over the 256 levels.

Axes: b batch, c channels, *grid height and width, n parameters of a value, k levels.
"""

import torch
from einops import rearrange
from torch import Tensor

from stage1_vqvae.likelihoods.base import LEVELS, ExactMass


class TwoMoments(ExactMass):
    """Level k has mass proportional to exp(p_0 t + p_1 t^2), t = 2 k / 255 - 1: decoder channels (c n), n fastest."""

    params_per_value = 2

    def log_mass(self, params: Tensor, x: Tensor) -> Tensor:
        return self._log_p(params).gather(-1, x.long()[..., None])[..., 0]

    def expectation(self, params: Tensor) -> Tensor:
        return self._log_p(params).exp() @ torch.arange(LEVELS, dtype=params.dtype, device=params.device)

    def _log_p(self, params: Tensor) -> Tensor:
        first, second = rearrange(params, "b (c n) ... -> n b c ... 1", n=2)
        t = torch.linspace(-1, 1, LEVELS, dtype=params.dtype, device=params.device)
        return (first * t + second * t**2).log_softmax(-1)
