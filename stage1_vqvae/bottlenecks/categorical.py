"""The base of bottlenecks whose q(code | x) spreads over all codes: logits, codebook, draws, choice without noise.

Axes: b batch, n vectors (positions of all examples), s samples, g codebooks, k codes.
"""

import math
from abc import ABC
from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn

from stage1_vqvae.bottlenecks.base import CodebookQuantizer, Latent
from stage1_vqvae.bottlenecks.posterior import Posterior


class CategoricalQuantizer(CodebookQuantizer, ABC):
    """Codes are independent given x, their logits an affine map of z; their prior is uniform.

    Codebook and map are learned by gradient. Without noise the most likely code is chosen, at a rate of log K."""

    rate_is_constant = False

    def __init__(self, num_codes: int, dim: int, num_codebooks: int):
        super().__init__(num_codes, dim, num_codebooks)
        self.codebook = nn.Parameter(self._start())
        self.projection = nn.Linear(dim, num_codebooks * num_codes)

    def _logits(self, z: Tensor) -> Tensor:
        """z (b, dim, *grid) -> (n, g, k), in the dtype of the codebook."""
        self._check(z)
        rows = rearrange(z.to(self.codebook.dtype), "b d ... -> (b ...) d")
        return rearrange(self.projection(rows), "n (g k) -> n g k", g=self.num_codebooks)

    def _most_likely(self, logits: Tensor, batch: int, grid: tuple[int, ...]) -> Latent:
        codes = logits.argmax(-1)
        return self._latent(self._entries(codes), codes, batch, grid, loss=logits.new_zeros(()))

    def posterior(self, z: Tensor) -> "CategoricalPosterior":
        logits = self._logits(z)
        logits = logits.view(len(z), *z.shape[2:], *logits.shape[1:])
        return CategoricalPosterior(logits, self.lookup)


class CategoricalPosterior(Posterior):
    """Samples are codes (b, *grid, g), also for g = 1; their prior is uniform."""

    def __init__(self, logits: Tensor, lookup: Callable[[Tensor], Tensor]):
        """logits (b, *grid, g, k); lookup: codes (b, *grid[, g]) -> their entries (b, dim, *grid)."""
        self.log_q = logits.double().log_softmax(-1)
        self.lookup = lookup
        self.noise = tuple(logits.shape[1:-1])
        self.prior = Uniform(logits.shape[-1])

    def icdf(self, value: Tensor) -> Tensor:
        return draw(self.log_q, value[..., None])[..., 0]

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_q.gather(-1, value[..., None])[..., 0]

    def z_q(self, value: Tensor) -> Tensor:
        return self.lookup(value if value.shape[-1] > 1 else value[..., 0])


class Uniform:
    """The uniform distribution over `num_codes` codes."""

    def __init__(self, num_codes: int):
        self.num_codes = num_codes

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.full(value.shape, -math.log(self.num_codes), dtype=torch.float64, device=value.device)


def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Logits (..., k), uniforms (..., s) float64 -> codes (..., s): the first whose cdf exceeds u cdf[-1]."""
    cdf = logits.double().softmax(-1).cumsum(-1)
    return torch.searchsorted(cdf, (uniforms * cdf[..., -1:]).contiguous(), right=True).clamp(max=logits.shape[-1] - 1)
