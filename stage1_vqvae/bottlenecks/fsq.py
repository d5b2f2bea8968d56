"""Finite scalar quantisation: without a codebook, each of a few dimensions is rounded to a few levels.

Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple" (arXiv 2309.15505). Levels of its table 1 and the
approximate number of codes: [8, 6, 5] 2^8, [8, 5, 5, 5] 2^10, [7, 5, 5, 5, 5] 2^12, [8, 8, 8, 6, 5] 2^14, [8, 8, 8, 5,
5, 5] 2^16.

Axes: b batch, n vectors (positions of all examples), g codebooks, l rounded dimensions of each.
"""

import math
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from stage1_vqvae.bottlenecks.base import Latent, Quantizer
from stage1_vqvae.bottlenecks.nearest import squared_distances


class _Round(torch.autograd.Function):
    """Rounds, with the gradient of the identity (straight-through)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class FSQ(Quantizer):
    """An affine map of z gives g l numbers per position, l = len(levels), which are bounded by tanh and rounded: L_i
    levels are the integers -floor(L_i / 2) .. ceil(L_i / 2) - 1. z_q is an affine map of them, scaled to [-1, 1].

    bounding="sigmoid" is iFSQ's (arXiv 2601.17124): 2 sigmoid(1.6 x) - 1 in the place of tanh(x), which makes normal
    numbers almost uniform, so that levels are used evenly. It equals tanh(0.8 x): under a learned affine map the two
    differ in where training starts and in its pace, not in what they can learn.

    z is first normalised over its dimensions, position by position: no commitment loss keeps the numbers from where
    tanh is flat, and encoders without normalisation drift there within 25 updates of Adam at 1e-3.

    A code is the l numbers of its codebook in mixed radix, the first fastest: digit_i = integer_i + floor(L_i / 2).
    """

    sizes: Tensor  # (l,) int64
    basis: Tensor  # (l,) int64

    def __init__(
        self,
        levels: list[int],
        dim: int = 64,
        num_codebooks: int = 1,
        bounding: Literal["tanh", "sigmoid"] = "tanh",
    ):
        if not levels or min(levels) < 2:
            raise ValueError(f"expected levels of at least 2 each, found {levels}")
        if dim < 2:
            raise ValueError(f"dim: expected 2 or more, so that z can be normalised, found {dim}")
        if bounding not in ("tanh", "sigmoid"):
            raise ValueError(f"expected bounding=tanh or bounding=sigmoid, found {bounding}")
        super().__init__(math.prod(levels), dim, num_codebooks)
        self.slope = 1.0 if bounding == "tanh" else 0.8  # 2 sigmoid(1.6 x) - 1 = tanh(0.8 x)
        sizes = torch.tensor(levels)
        self.register_buffer("sizes", sizes, persistent=False)
        self.register_buffer("basis", torch.cumprod(sizes, 0) // sizes, persistent=False)  # 1, L_1, L_1 L_2, ...
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.inwards = nn.Linear(dim, num_codebooks * len(levels))
        self.outwards = nn.Linear(num_codebooks * len(levels), dim)

    def forward(self, z: Tensor, step: Tensor | int | None = None, uniforms: Tensor | None = None) -> Latent:
        """z (b, dim, *grid), any floating type: computed in the dtype of the module, float32 or float64."""
        self._check(z)
        with torch.autocast(z.device.type, enabled=False):
            integers = _Round.apply(self._bounded(self._numbers(rearrange(z, "b d ... -> (b ...) d"))))  # type: ignore[no-untyped-call]
            codes = ((integers.detach().long() + self.sizes // 2) * self.basis).sum(-1)
            return self._latent(self._vectors(integers), codes, z.shape[0], z.shape[2:], loss=integers.new_zeros(()))

    def lookup(self, codes: Tensor) -> Tensor:
        rows, batch, grid = self._to_rows(codes)
        integers = rows[..., None] // self.basis % self.sizes - self.sizes // 2
        return self._to_grid(self._vectors(integers.to(self.inwards.weight.dtype)), batch, grid)

    def distances(self, z: Tensor, earlier: Tensor) -> Tensor:
        """In the numbers that are rounded, as far apart as the levels."""
        numbers = self._bounded(self._numbers(z)[:, earlier.shape[1]])
        digits = torch.arange(self.num_codes, device=z.device)[:, None] // self.basis % self.sizes
        return squared_distances(numbers, (digits - self.sizes // 2).to(numbers.dtype))

    def _numbers(self, rows: Tensor) -> Tensor:
        """z (n, dim) -> (n, g, l)."""
        numbers = self.inwards(self.norm(rows.to(self.inwards.weight.dtype)))
        return rearrange(numbers, "n (g l) -> n g l", g=self.num_codebooks)

    def _bounded(self, x: Tensor) -> Tensor:
        """(..., l) -> (..., l), within the range that rounds to the levels; 0 stays 0.

        The paper's appendix A.1, with the inverse of tanh where its listing has a tangent: otherwise 0 would move."""
        half = (self.sizes.to(x.dtype) - 1 + 1e-3) / 2  # the outermost levels are reached
        offset = (self.sizes % 2 == 0).to(x.dtype) / 2  # an even number of levels has one more below 0
        return torch.tanh(self.slope * x + torch.atanh(offset / half)) * half - offset

    def _vectors(self, integers: Tensor) -> Tensor:
        """(n, g, l) -> (n, dim)."""
        return self.outwards((integers / (self.sizes // 2)).flatten(1))
