"""Categorical latents, trained on a bound of several samples without relaxing them.

Mnih and Rezende, "Variational inference for Monte Carlo objectives" (arXiv 1602.06725), compared with VQ-VAE in
the table of arXiv 1711.00937 (50 samples).

Axes: b batch, s samples, n vectors (positions of all examples), p positions of one, g codebooks, k codes.
"""

import math
from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from torch import Tensor

from stage1_vqvae.bottlenecks.base import Latent
from stage1_vqvae.bottlenecks.categorical import CategoricalQuantizer, draw
from stage1_vqvae.collectives import global_uniforms


@dataclass(frozen=True)
class MultiSample(Latent):
    """S samples of q(z | x) per example, folded into the batch: rows (b s) of z_q, codes and rate_nats.

    The rate of a sample is log q(z | x) - log p(z)."""

    log_q: Tensor  # (b, s)

    def bound(self, costs: Tensor, dimensions: Tensor | int) -> Tensor:
        """costs (b s) -> (b,): minus log mean_s f_s, f_s = p(x, z_s) / q(z_s | x), with VIMCO's gradient (equation 7).

        Through f it is the gradient of the samples, weighted by f_s / sum f; through the choice of sample j it is the
        score grad log q(z_j | x), times the gain in the bound over f_j replaced by the geometric mean of the others.
        """
        log_f = -dimensions * rearrange(costs, "(b s) -> b s", b=len(self.log_q))
        bound = log_mean_exp(log_f)
        signal = (bound[:, None] - bound_without_each(log_f)).detach()
        score = (signal * (self.log_q - self.log_q.detach())).sum(1)  # its value is 0, its gradient is not
        return -(bound + score) / dimensions


def log_mean_exp(log_f: Tensor) -> Tensor:
    """(..., s) -> (...)."""
    return log_f.logsumexp(-1) - math.log(log_f.shape[-1])


def bound_without_each(log_f: Tensor) -> Tensor:
    """(b, s), s > 1 -> (b, s): the bound with f_j replaced by the geometric mean of the others."""
    samples = log_f.shape[1]
    others = (log_f.sum(1, keepdim=True) - log_f) / (samples - 1)
    own = torch.eye(samples, dtype=torch.bool, device=log_f.device)
    return log_mean_exp(torch.where(own, others[:, :, None], log_f[:, None, :]))


class VIMCO(CategoricalQuantizer):
    """`num_samples` draws of all codes per example in training, and in eval mode where uniforms are given.

    A step costs as many evaluations of the decoder."""

    def __init__(self, num_codes: int = 512, dim: int = 64, num_codebooks: int = 1, num_samples: int = 50):
        super().__init__(num_codes, dim, num_codebooks)
        if num_samples < 2:
            raise ValueError(f"expected at least 2 samples to compare, found num_samples={num_samples}")
        self.num_samples = num_samples

    def forward(self, z: Tensor, step: Tensor | int | None = None, uniforms: Tensor | None = None) -> Latent:
        """uniforms (b, s g, *grid) float64: one per sample, codebook and position."""
        batch, grid, g = len(z), z.shape[2:], self.num_codebooks
        with torch.autocast(z.device.type, enabled=False):
            logits = self._logits(z)
            if uniforms is None:
                if not self.training:
                    return self._most_likely(logits, batch, grid)
                uniforms = global_uniforms(batch, self.num_samples * g, *grid, device=z.device)
            draws = rearrange(uniforms, "b (s g) ... -> (b ...) g s", s=self.num_samples)
            codes = draw(logits.detach(), draws)
            log_q = reduce(logits.log_softmax(-1).gather(-1, codes), "(b p) g s -> b s", "sum", b=batch)
            rows = rearrange(codes, "(b p) g s -> (b s p) g", b=batch)
            latent = self._latent(self._entries(rows), rows, batch * self.num_samples, grid, loss=logits.new_zeros(()))
            return MultiSample(
                z_q=latent.z_q,
                codes=latent.codes,
                rate_nats=log_q.flatten() + latent.rate_nats,  # log q - log p
                loss=latent.loss,
                log_q=log_q,
            )
