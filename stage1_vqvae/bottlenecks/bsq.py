"""Binary spherical quantisation: the code of a point of the unit sphere is the signs of its coordinates, no search.

Zhao, Xiong and Krähenbühl, "Image and Video Tokenization with Binary Spherical Quantization" (arXiv 2406.07548).

Axes: b batch, n vectors (positions of all examples), g codebooks, l bits of a code.
"""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from stage1_vqvae.bottlenecks.base import Latent, Quantizer, nmse
from stage1_vqvae.bottlenecks.nearest import squared_distances
from stage1_vqvae.collectives import all_sum, rank_and_world

MOST_BITS = 30  # of a code


class _Corner(torch.autograd.Function):
    """The corner of a point u, exactly, with the gradient of the identity (straight-through)."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, corner: Tensor) -> Tensor:
        return corner.view_as(corner)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class BSQ(Quantizer):
    """An affine map of z gives l = `num_bits` numbers per position, scaled to unit length: u. The code is their signs,
    and z_q an affine map of sign(u) / sqrt(l), which is the nearest of the 2^l corners; the gradient passes the signs
    unchanged. The first bit is the lowest of a code.

    loss = commitment_weight |u - sg[sign(u) / sqrt(l)]|^2 + entropy_weight (H(c | u) - H(c)), the first a mean over
    elements. For the entropies, in nats, a code c has the soft probability of section 3.2, whose bits are independent
    given u: p(c | u) = prod sigmoid(2 temperature c_i u_i), c_i = +-1 / sqrt(l). H(c | u), averaged over vectors, is
    then a sum over bits, and exact; H(c) of their mean is taken as one too. The difference makes bits certain and as
    often set as not. The authors' code weighs it by 0.1 and has no commitment term.
    """

    basis: Tensor  # (l,) int64

    def __init__(
        self,
        num_bits: int = 13,
        dim: int = 64,
        num_codebooks: int = 1,
        commitment_weight: float = 0.0,
        entropy_weight: float = 0.1,
        temperature: float = 2.0,
    ):
        if not 1 <= num_bits <= MOST_BITS:
            raise ValueError(f"num_bits: expected 1 to {MOST_BITS}, found {num_bits}")
        super().__init__(2**num_bits, dim, num_codebooks)
        self.num_bits = num_bits
        self.commitment_weight = commitment_weight
        self.entropy_weight = entropy_weight
        self.temperature = temperature
        self.register_buffer("basis", 2 ** torch.arange(num_bits), persistent=False)
        self.inwards = nn.Linear(dim, num_codebooks * num_bits)
        self.outwards = nn.Linear(num_codebooks * num_bits, dim)

    def forward(self, z: Tensor, step: Tensor | int | None = None, uniforms: Tensor | None = None) -> Latent:
        """z (b, dim, *grid), any floating type: computed in the dtype of the module, float32 or float64."""
        self._check(z)
        with torch.autocast(z.device.type, enabled=False):
            u = self._sphere(rearrange(z, "b d ... -> (b ...) d"))
            positive = u.detach() > 0
            corners = self._corners(positive, u.dtype)
            loss = self.commitment_weight * (u - corners).square().mean()
            if self.entropy_weight:
                conditional, marginal = self.entropies(u)
                loss = loss + self.entropy_weight * (conditional - marginal)
            straight = _Corner.apply(u, corners)  # type: ignore[no-untyped-call]
            codes = (positive * self.basis).sum(-1)
            return self._latent(self.outwards(straight.flatten(1)), codes, z.shape[0], z.shape[2:], loss)

    @property
    def needs_whole_batch(self) -> bool:
        """For H(c)."""
        return self.entropy_weight != 0

    def lookup(self, codes: Tensor) -> Tensor:
        rows, batch, grid = self._to_rows(codes)
        corners = self._corners(self._bits(rows), self.inwards.weight.dtype)
        return self._to_grid(self.outwards(corners.flatten(1)), batch, grid)

    def distances(self, z: Tensor, earlier: Tensor) -> Tensor:
        """On the sphere."""
        u = self._sphere(z)[:, earlier.shape[1]]
        return squared_distances(u, self._corners(self._bits(torch.arange(self.num_codes, device=z.device)), u.dtype))

    def entropies(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """u (n, g, l) -> the means over codebooks of H(c | u) and, over the global batch, H(c), both () in nats.

        The gradient of H(c) that a rank sends back is that of its own rows, times the number of ranks: the mean over
        ranks, which training takes, is the gradient of the whole."""
        logits = 2 * self.temperature * u / self.num_bits**0.5  # of a bit that is set against one that is not
        chances = logits.sigmoid()
        mean = chances.mean(0)
        if (world := rank_and_world()[1]) > 1:
            mean = mean + (all_sum(mean.detach().clone()) / world - mean.detach())
        tiny = torch.finfo(mean.dtype).eps  # the entropy's slope is infinite at 0 and 1
        mean = mean.clamp(tiny, 1 - tiny)
        conditional = F.softplus(logits) - logits * chances
        marginal = torch.special.entr(mean) + torch.special.entr(1 - mean)
        return conditional.sum(-1).mean(), marginal.sum(-1).mean()

    def figures(self, z: Tensor, latent: Latent) -> dict[str, Tensor]:
        """Also `z_q nmse`, of the decoder's input against the affine map of the point on the sphere."""
        with torch.no_grad():
            u = self._sphere(rearrange(z.detach(), "b d ... -> (b ...) d"))
            rows = rearrange(latent.z_q.detach(), "b d ... -> (b ...) d").to(u.dtype)
            return super().figures(z, latent) | {"z_q nmse": nmse(self.outwards(u.flatten(1)), rows)}

    def _sphere(self, rows: Tensor) -> Tensor:
        """z (n, dim) -> (n, g, l) of unit length."""
        numbers = self.inwards(rows.to(self.inwards.weight.dtype))
        return F.normalize(rearrange(numbers, "n (g l) -> n g l", g=self.num_codebooks), dim=-1)

    def _corners(self, positive: Tensor, dtype: torch.dtype) -> Tensor:
        """Bits (..., l) bool -> (..., l) +-1 / sqrt(l)."""
        return (2 * positive.to(dtype) - 1) / self.num_bits**0.5

    def _bits(self, codes: Tensor) -> Tensor:
        """(...) -> (..., l) bool."""
        return (codes[..., None] // self.basis % 2).bool()
