"""The base of bottlenecks whose q(code | x) spreads over all codes: logits, codebook, draws, choice without noise.

Axes: b batch, n vectors (positions of all examples), s samples, g codebooks, k codes, d dimension of one codebook.
"""

import math
from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.optim import Optimizer

from stage1_vqvae.bottlenecks.base import CodebookQuantizer, Latent
from stage1_vqvae.bottlenecks.mixture import Draws
from stage1_vqvae.bottlenecks.nearest import nearest_codes
from stage1_vqvae.bottlenecks.posterior import Posterior
from stage1_vqvae.bottlenecks.vq import EMAQuantizer
from stage1_vqvae.collectives import from_first_rank, learn_from_sum, rank_and_world

Logits = Literal["affine", "distance"]
WIDTH_RATE = 10.0  # of log v by its parameter: Adam moves that by lr per step, and q widens by e^3 in hundreds of steps
LEAST_ERROR = 1e-3  # of the variance of the encodings


class CategoricalQuantizer(CodebookQuantizer, ABC):
    """Codes are independent given x; their prior is uniform. Without noise the most likely code is chosen, at a rate of
    log K.

    logits="affine": logits are a learned affine map of z, apart from the codebook. q starts near uniform, so the first
    samples are noise, and a code far from z is as likely as its neighbours.

    logits="distance": q(k | x) is proportional to exp(-|z - e_k|^2 / (2 v)), the posterior of a mixture of Gaussians
    about the codes, and the most likely code is the nearest, as in a VQ-VAE. The codes are those of a VQ-VAE too: they
    start at k-means centres, follow the encodings that are nearest to them as moving averages and are revived, and
    encodings are committed to them (`EMAQuantizer`). A codebook that learned by the gradient of the decoder would be
    left behind: Adam turns z faster than the codes, and far from all codes q is a single one of the outermost. v is the
    moving mean of the squared error of a dimension times a learned factor, 1 at first, for each codebook: q does not
    depend on the scale of z, and is concentrated on neighbours from the first step.

    From step `likeliest_from` on (0: never) the decoder reads the most likely codes of a share `likeliest_share` of the
    examples, the first of the global batch. Decoder and codebook learn from them, the encoder does not: q stays what it
    is, and the decoder learns to read what it is given where nothing is drawn.
    """

    rate_is_constant = False

    def __init__(
        self,
        num_codes: int,
        dim: int,
        num_codebooks: int,
        logits: Logits,
        commitment_weight: float,
        likeliest_from: int,
        likeliest_share: float,
    ):
        super().__init__(num_codes, dim, num_codebooks)
        if logits not in ("affine", "distance"):
            raise ValueError(f"expected logits=affine or logits=distance, found {logits}")
        if commitment_weight < 0:
            raise ValueError(f"expected commitment_weight >= 0, found commitment_weight={commitment_weight}")
        if likeliest_from < 0 or not 0 <= likeliest_share <= 1:
            raise ValueError(
                "expected likeliest_from >= 0 and a likeliest_share from 0 to 1, "
                f"found likeliest_from={likeliest_from}, likeliest_share={likeliest_share}"
            )
        self.by_distance = logits == "distance"
        self.likeliest_from = likeliest_from
        self.likeliest_share = likeliest_share
        self.error: Tensor
        if self.by_distance:
            self.vq = EMAQuantizer(num_codes, dim, num_codebooks, commitment_weight=commitment_weight)
            self.register_buffer("error", torch.ones(num_codebooks))
            self.width = nn.Parameter(torch.zeros(num_codebooks))
        else:
            self.codebook = nn.Parameter(self._start())
            self.projection = nn.Linear(dim, num_codebooks * num_codes)

    @property
    def needs_initialisation(self) -> bool:
        return self.by_distance and self.vq.needs_initialisation

    @property
    def encodings_to_initialise(self) -> int:
        return self.vq.encodings_to_initialise if self.by_distance else 0

    @torch.no_grad()
    def initialise(self, z: Tensor) -> None:
        """Encodings (n, dim), n >= num_codes; codes start as those of `EMAQuantizer`."""
        if not self.by_distance:
            super().initialise(z)
        self.vq.initialise(z)
        vectors = rearrange(z.to(self.error.dtype), "n (g d) -> n g d", g=self.num_codebooks)
        error = (vectors - self._entries(nearest_codes(vectors, self.vectors()))).square().mean((0, 2))
        self.error.copy_(torch.maximum(error, LEAST_ERROR * vectors.var((0, 2))))
        from_first_rank(self.error)

    def after_step(self, optimizer: Optimizer) -> None:
        if self.by_distance:
            self.vq.after_step(optimizer)

    def codebooks(self) -> list[nn.Parameter]:
        return [] if self.by_distance else super().codebooks()

    def vectors(self) -> Tensor:
        return self.vq.vectors() if self.by_distance else self.codebook

    def _observe(self, z: Tensor) -> Tensor:
        """Codes and their mean error follow the encodings of a training batch -> the loss of commitment ()."""
        if not self.by_distance:
            return z.new_zeros(())
        latent = self.vq(z)
        if self.training:
            with torch.no_grad():
                difference = rearrange((z - latent.z_q).to(self.error.dtype), "b (g d) ... -> g (b d ...)",
                                       g=self.num_codebooks)
                world = rank_and_world()[1]

                def learn(total: Tensor) -> None:
                    self.error.lerp_(total / world, 1 - self.vq.decay)

                learn_from_sum(difference.square().mean(1), learn)
        return latent.loss

    def _logits(self, z: Tensor) -> Tensor:
        """z (b, dim, *grid) -> (n, g, k), in the dtype of the codebook, up to a constant per vector."""
        rows = self._rows(z)
        if not self.by_distance:
            return rearrange(self.projection(rows), "n (g k) -> n g k", g=self.num_codebooks)
        codebook, precision = self.vectors(), self._precision()
        scaled = rearrange(rows, "n (g d) -> g n d", g=self.num_codebooks) * precision[:, None, None]
        lengths = codebook.square().sum(-1) * (precision / 2)[:, None]
        return torch.baddbmm(lengths[:, None], scaled, codebook.mT, beta=-1).transpose(0, 1)

    def _rows(self, z: Tensor) -> Tensor:
        self._check(z)
        return rearrange(z.to(self.vectors().dtype), "b d ... -> (b ...) d")

    def _precision(self) -> Tensor:
        """1 / v (g,)."""
        return (-WIDTH_RATE * self.width).exp() / self.error.clone()  # which is updated before the backward pass

    def _drawn(self, z: Tensor, uniforms: Tensor) -> "Drawn":
        """z (b, dim, *grid), uniforms (n, g, s) float64."""
        if self.by_distance:
            vectors = rearrange(self._rows(z), "n (g d) -> g n d", g=self.num_codebooks)
            parts = Draws.apply(  # type: ignore[no-untyped-call]
                vectors, self.vectors().clone(), self._precision(), uniforms.transpose(0, 1)
            )
            return Drawn(*(part.transpose(0, 1) for part in parts))
        log_q = self._logits(z).log_softmax(-1)
        q = log_q.exp()
        codes = draw(log_q.detach(), uniforms)
        means = torch.einsum("n g k, g k d -> n g d", q, self.codebook.detach())
        return Drawn(codes, log_q.gather(-1, codes), means, (q * log_q).sum(-1))

    def _read_likeliest(self, batch: int, step: Tensor | int | None) -> Tensor | None:
        """Which examples (b,) of a training batch are decoded from their most likely codes; None: none."""
        rank, world = rank_and_world()
        count = round(world * batch * self.likeliest_share) if self.training and self.likeliest_from else 0
        if not count or step is None or (not isinstance(step, Tensor) and step < self.likeliest_from):
            return None
        chosen = torch.arange(batch, device=self.vectors().device) + rank * batch < count
        return chosen & (step >= self.likeliest_from) if isinstance(step, Tensor) else chosen

    def _likeliest_codes(self, z: Tensor) -> Tensor:
        """(n, g)."""
        if not self.by_distance:
            return self._logits(z).argmax(-1)
        vectors = rearrange(self._rows(z), "n (g d) -> n g d", g=self.num_codebooks)
        return nearest_codes(vectors.detach(), self.vectors())

    def _most_likely(self, z: Tensor) -> Latent:
        codes = self._likeliest_codes(z)
        entries = self._entries(codes)
        return self._latent(entries, codes, len(z), z.shape[2:], loss=entries.new_zeros(()))

    def posterior(self, z: Tensor) -> "CategoricalPosterior":
        logits = self._logits(z)
        logits = logits.reshape(len(z), *z.shape[2:], *logits.shape[1:])
        return CategoricalPosterior(logits, self.lookup)


@dataclass(frozen=True)
class Drawn:
    """Draws from q of n vectors."""

    codes: Tensor  # (n, g, s)
    log_q: Tensor  # (n, g, s) of the codes
    means: Tensor  # (n, g, d) the mean entry under q; the entries are constants
    negentropy: Tensor  # (n, g) sum q log q


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

