"""The discrete variational autoencoder: codes relaxed by Gumbel noise.

Ramesh et al., "Zero-Shot Text-to-Image Generation" (arXiv 2102.12092), section 2.1 and appendix A.2; the relaxation is
that of Jang, Gu and Poole (arXiv 1611.01144). The paper's weight of the KL, 0 -> 6.6 over 5,000 updates, is set by
the autoencoder's `beta` and `beta_warmup_steps`: in both, the loss is (nll + beta KL) / data dimensions. The paper has
192 of them per code, so a code's KL weighs 6.6 / 192 = 0.034 of the mean nll of a value. At the 16 and 4.8 values per
code of the family on MNIST and CIFAR-10, beta = 0.55 and 0.17 weigh it as much; beta = 1 is the bound.

Axes: b batch, n vectors (positions of all examples), g codebooks, k codes, d dimension of one codebook.
"""

import math
from dataclasses import replace

import torch
from einops import rearrange, reduce
from torch import Tensor

from stage1_vqvae.bottlenecks.base import Latent
from stage1_vqvae.bottlenecks.categorical import CategoricalQuantizer, Logits
from stage1_vqvae.bottlenecks.mixture import Relaxed
from stage1_vqvae.collectives import global_uniforms
from stage1_vqvae.schedules import progress


class Gumbel(CategoricalQuantizer):
    """In training z_q mixes all entries by softmax((logits + Gumbel noise) / tau); tau falls along a cosine.

    With noise the rate is the KL of q to the uniform prior. `codes` have the largest weights: they are draws from q
    (the Gumbel-max trick). In eval mode z_q is their entries, with noise only where uniforms are given.

    From step `hard_from` on (0: never) the decoder reads the entries of `codes` in training too, with the gradient of
    the mixture (straight-through): it learns what it is given in evaluation.
    """

    def __init__(
        self,
        num_codes: int = 512,
        dim: int = 64,
        num_codebooks: int = 1,
        first_temperature: float = 1.0,
        last_temperature: float = 0.0625,
        temperature_steps: int = 150_000,
        hard_from: int = 0,
        logits: Logits = "affine",
        commitment_weight: float = 0.25,
        likeliest_from: int = 0,
        likeliest_share: float = 0.0,
    ):
        super().__init__(num_codes, dim, num_codebooks, logits, commitment_weight, likeliest_from, likeliest_share)
        if not 0 < last_temperature <= first_temperature:
            raise ValueError(
                "expected temperatures above 0, the last not above the first, "
                f"found first_temperature={first_temperature}, last_temperature={last_temperature}"
            )
        if hard_from < 0:
            raise ValueError(f"expected hard_from >= 0, found hard_from={hard_from}")
        self.hard_from = hard_from
        self.first_temperature = first_temperature
        self.last_temperature = last_temperature
        self.temperature_steps = temperature_steps

    def temperature(self, step: Tensor | int | None) -> Tensor | float:
        """The first at step 0, the last from `temperature_steps` on."""
        share = progress(step, max(1, self.temperature_steps))
        cosine = torch.cos(math.pi * share) if isinstance(share, Tensor) else math.cos(math.pi * share)
        rise = (self.first_temperature - self.last_temperature) * (1 + cosine) / 2
        return self.last_temperature + rise

    def _hard(self, step: Tensor | int | None) -> Tensor | float:
        """1 where the decoder reads entries, 0 where it reads mixtures."""
        if not self.hard_from:
            return 0.0
        if isinstance(step, Tensor):
            return (step >= self.hard_from).double()
        return float(step is None or step >= self.hard_from)

    def forward(self, z: Tensor, step: Tensor | int | None = None, uniforms: Tensor | None = None) -> Latent:
        """uniforms (b, g k, *grid)."""
        batch, grid, g, k = len(z), z.shape[2:], self.num_codebooks, self.num_codes
        dtype = self.vectors().dtype
        with torch.autocast(z.device.type, enabled=False):
            if uniforms is not None:
                below_1 = uniforms.to(dtype).clamp(max=1 - torch.finfo(dtype).eps / 2)
                uniforms = rearrange(below_1, "b (g k) ... -> (b ...) g k", g=g)
            elif self.training:
                uniforms = global_uniforms(batch, *grid, g, k, device=z.device, dtype=dtype).view(-1, g, k)
            else:
                return self._most_likely(z)
            mixed, codes, negentropy = self._relaxed(z, uniforms, self.temperature(step))
            chosen = self._read_likeliest(batch, step)
            if chosen is not None:
                chosen = chosen.repeat_interleave(len(codes) // batch)[:, None]
                codes = torch.where(chosen, self._likeliest_codes(z), codes)
                negentropy = torch.where(chosen, negentropy.detach(), negentropy)
            vectors = self._entries(codes)
            if self.training:
                relaxed = mixed + (vectors - mixed).detach() * self._hard(step)
                vectors = relaxed if chosen is None else torch.where(chosen[..., None], vectors, relaxed)
            kl = reduce(negentropy + math.log(k), "(b p) g -> b", "sum", b=batch)
            loss = self._observe(z)  # last: the codes that were drawn are those of before
            latent = self._latent(vectors, codes, batch, grid, loss)
            return replace(latent, rate_nats=kl)

    def _relaxed(self, z: Tensor, uniforms: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Mixtures of entries (n, g, d), the codes of their largest weights (n, g), and sum q log q (n, g)."""
        if self.by_distance:
            vectors = rearrange(self._rows(z), "n (g d) -> g n d", g=self.num_codebooks)
            parts = Relaxed.apply(  # type: ignore[no-untyped-call]
                vectors, self.vectors().clone(), self._precision(), uniforms.transpose(0, 1), temperature
            )
            mixed, codes, negentropy = (part.transpose(0, 1) for part in parts)
            return mixed, codes, negentropy
        logits = self._logits(z)
        scores = logits - (-uniforms.log()).log()
        weights = (scores / temperature).softmax(-1)
        log_q = logits.log_softmax(-1)
        mixed = torch.einsum("n g k, g k d -> n g d", weights, self.codebook)
        return mixed, scores.argmax(-1), (log_q.exp() * log_q).sum(-1)
