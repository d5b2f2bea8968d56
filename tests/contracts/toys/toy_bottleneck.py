"""A bottleneck in one file: the sign of each dimension, 2^dim codes.

Yu et al., "Language Model Beats Diffusion" (arXiv 2310.05737), section 3.1, without its entropy loss.
"""

import torch
from einops import rearrange
from torch import Tensor

from stage1_vqvae.bottlenecks.base import Latent, Quantizer


class Signs(Quantizer):
    """z_q is -1 or 1 in each dimension, with the gradient of z; bit i of a code is the sign of dimension i."""

    def __init__(self, dim: int):
        super().__init__(2**dim, dim, num_codebooks=1)
        self.register_buffer("bits", 2 ** torch.arange(dim), persistent=False)

    def forward(self, z: Tensor, step: Tensor | int | None = None, uniforms: Tensor | None = None) -> Latent:
        self._check(z)
        rows = rearrange(z.to(torch.promote_types(z.dtype, torch.float32)), "b d ... -> (b ...) d")
        codes = ((rows > 0) * self.bits).sum(1, keepdim=True)
        signs = self._signs(codes).to(rows.dtype)
        through = signs if not rows.requires_grad else signs + (rows - rows.detach())
        return self._latent(through, codes, len(z), z.shape[2:], loss=rows.new_zeros(()))

    def lookup(self, codes: Tensor) -> Tensor:
        rows, batch, grid = self._to_rows(codes)
        return self._to_grid(self._signs(rows).to(torch.get_default_dtype()), batch, grid)

    def _signs(self, codes: Tensor) -> Tensor:
        return (codes // self.bits % 2) * 2 - 1
