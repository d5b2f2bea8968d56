"""What the bottlenecks with q(code | x) spread over all codes share: logits, codebook, and the choice without noise."""

from abc import ABC

from einops import rearrange
from torch import Tensor, nn

from stage1_vqvae.bottlenecks.base import CodebookQuantizer, Latent


class CategoricalQuantizer(CodebookQuantizer, ABC):
    """Codes are independent given x, their logits an affine map of z; their prior is uniform.

    Codebook and map are learned by gradient. Without noise the most likely code is chosen: its rate is log K."""

    rate_is_constant = False

    def __init__(self, num_codes: int, dim: int, num_codebooks: int):
        super().__init__(num_codes, dim, num_codebooks)
        self.codebook = nn.Parameter(self._start())
        self.projection = nn.Linear(dim, num_codebooks * num_codes)

    def _logits(self, z: Tensor) -> Tensor:
        """z (b, dim, *grid) -> (n, g, k), in the codebook's type."""
        self._check(z)
        rows = rearrange(z.to(self.codebook.dtype), "b d ... -> (b ...) d")
        return rearrange(self.projection(rows), "n (g k) -> n g k", g=self.num_codebooks)

    def _most_likely(self, logits: Tensor, batch: int, grid: tuple[int, ...]) -> Latent:
        codes = logits.argmax(-1)
        return self._latent(self._entries(codes), codes, batch, grid, loss=logits.new_zeros(()))
