"""A softmax over the levels of each value, 256 for images.

Axes: b batch, c channels, *grid height and width, or samples, k levels.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from stage1_vqvae.likelihoods.base import LEVELS, Likelihood


class Categorical(Likelihood):
    """A softmax over the `params_per_value` levels of each value: decoder channels (c k), k fastest."""

    params_per_value = LEVELS

    def _nll(self, params: Tensor, x: Tensor) -> Tensor:
        """-> (b, c, *grid), at least float32. In channels-last memory the logits of a value are contiguous: as rows
        they are neither copied nor strided, five times faster than along the second axis."""
        params, levels = self._precise(params), self.levels(x)
        if params.stride(1) == 1:
            logits = rearrange(params, "b (c k) ... -> (b ... c) k", k=self.params_per_value)
            nll = F.cross_entropy(logits, rearrange(levels, "b c ... -> (b ... c)"), reduction="none")
            return nll.view(len(x), *x.shape[2:], x.shape[1]).movedim(-1, 1)
        logits = rearrange(params, "b (c k) ... -> b k c ...", k=self.params_per_value)
        return F.cross_entropy(logits, levels, reduction="none")

    def objective(self, params: Tensor, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.counted(self._nll(params, x), lengths)

    def value_nats(self, params: Tensor, x: Tensor) -> Tensor:
        return self._nll(params, x).double()

    def level_logits(self, params: Tensor) -> Tensor:
        return rearrange(params.double(), "b (c k) ... -> b c ... k", k=self.params_per_value)

    def mean(self, params: Tensor) -> Tensor:
        return self.expectation(params).round().to(torch.uint8)

    def expectation(self, params: Tensor) -> Tensor:
        values = self.from_levels(torch.arange(LEVELS, device=params.device))
        p = rearrange(self._precise(params), "b (c k) ... -> b c ... k", k=LEVELS).softmax(-1)
        return (p * values.to(p.dtype)).sum(-1)
