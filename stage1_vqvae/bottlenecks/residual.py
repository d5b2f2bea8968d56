"""Residual vector quantisation: each codebook describes what the ones before it leave.

Zeghidour et al., "SoundStream" (arXiv 2107.03312), section III-C, algorithm 1.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.optim import Optimizer

from stage1_vqvae.bottlenecks.base import Latent, Quantizer, nmse
from stage1_vqvae.bottlenecks.nearest import nearest_codes
from stage1_vqvae.bottlenecks.vq import EMAQuantizer


class Residual(Quantizer):
    """A chain of `num_codebooks` EMA quantisers, each of all dimensions: z_q is the sum of their entries.

    The loss is the sum of their commitment losses; the gradient of z_q reaches z unchanged."""

    def __init__(
        self,
        num_codes: int = 512,
        dim: int = 64,
        num_codebooks: int = 4,
        decay: float = 0.99,
        commitment_weight: float = 0.25,
        epsilon: float = 1e-5,
        revive_threshold: float = 0.05,
        initialise_from_data: bool = True,
    ):
        super().__init__(num_codes, dim, num_codebooks)
        self.levels: Sequence[EMAQuantizer] = nn.ModuleList(  # type: ignore[assignment]
            EMAQuantizer(
                num_codes,
                dim,
                decay=decay,
                commitment_weight=commitment_weight,
                epsilon=epsilon,
                revive_threshold=revive_threshold,
                initialise_from_data=initialise_from_data,
            )
            for _ in range(num_codebooks)
        )

    @property
    def encodings_to_initialise(self) -> int:
        return self.levels[0].encodings_to_initialise

    @property
    def needs_initialisation(self) -> bool:
        return any(level.needs_initialisation for level in self.levels)

    @torch.no_grad()
    def initialise(self, z: Tensor) -> None:
        """Each codebook from the residual of encodings (n, dim) after the codebooks before it."""
        z = z.to(self.levels[0].codebook.dtype)
        for level in self.levels:
            level.initialise(z)
            z = z - level.lookup(nearest_codes(z[:, None], level.codebook)[:, 0])

    def forward(self, z: Tensor, step: Tensor | int | None = None, uniforms: Tensor | None = None) -> Latent:
        """z (b, dim, *grid), any floating type: computed in the dtype of the codebooks, float32 or float64."""
        self._check(z)
        left = z.to(self.levels[0].codebook.dtype)
        latents = []
        for level in self.levels:
            latents.append(level(left))
            left = left - latents[-1].z_q.detach()
        first, *others = latents
        codes = torch.stack([latent.codes for latent in latents], -1)
        return Latent(
            z_q=sum((latent.z_q.detach() for latent in others), start=first.z_q),  # straight-through, once
            codes=codes if self.num_codebooks > 1 else first.codes,
            rate_nats=sum(latent.rate_nats for latent in latents),
            loss=sum(latent.loss for latent in latents),
        )

    def figures(self, z: Tensor, latent: Latent) -> dict[str, Tensor]:
        rows, entries = (rearrange(x.detach().float(), "b d ... -> (b ...) d") for x in (z, latent.z_q))
        return super().figures(z, latent) | {"z_q nmse": nmse(rows, entries)}

    def lookup(self, codes: Tensor) -> Tensor:
        parts = codes.unbind(-1) if self.num_codebooks > 1 else [codes]
        first, *others = (level.lookup(part) for level, part in zip(self.levels, parts, strict=True))
        return sum(others, start=first)

    def distances(self, z: Tensor, earlier: Tensor) -> Tensor:
        left = z.to(self.levels[0].codebook.dtype)
        for level, codes in zip(self.levels, earlier.unbind(1)):
            left = left - level.lookup(codes)
        return self.levels[earlier.shape[1]].distances(left, earlier[:, :0])

    def after_step(self, optimizer: Optimizer) -> None:
        for level in self.levels:
            level.after_step(optimizer)
