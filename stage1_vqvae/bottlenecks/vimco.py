"""Categorical latents, trained by samples of their codes without relaxing them.

Mnih and Rezende, "Variational inference for Monte Carlo objectives" (arXiv 1602.06725), compared with VQ-VAE in the
table of arXiv 1711.00937 (50 samples). Beside their estimator there are two of lower variance: with hundreds of
latents, what each learns from is the noise of all others.

Notation: R(z) = -log p(x | z); the latents z_i are independent given x, with entries e(z_i), mean entries m_i = sum_k
q_i(k) e_k and gradients g_i = dR / de(z_i), which the decoder's backward pass gives anyway. S draws z^1 .. z^S take
one pass of the encoder and S of the decoder.

estimator="vimco": the bound is that of several samples, log mean_s f_s; unbiased, see `MultiSample.bound`.

The other two minimise the mean of S bounds of a single sample, E[R(z)] + sum_i KL(q_i || uniform). The KL has an
analytic value and gradient. What is left is the gradient of E[R(z)], which is E[R(z) grad log q_i(z_i)] for latent i.

estimator="first_order": unbiased. Seen from draw t, R(z^s) is about R(z^t) + sum_j <g_j^t, e(z_j^s) - e(z_j^t)>. The
mean P^s of these predictions over t != s is a control variate. Given the other draws it is a constant plus a function
of each z_j^s alone, so E[P^s grad log q_i(z_i^s)] = <mean_t g_i^t, grad m_i> with the entries held fixed, and

    gradient_i = mean_s [ <g_i^s, grad m_i> + (R(z^s) - P^s) grad log q_i(z_i^s) ].

The first term is a straight-through gradient; the second corrects its bias. Where q is far from its optimum nearly
all variance of R is of first order, and gone; near the optimum the second order dominates, and nothing is gained.
(MuProp, arXiv 1511.05176, and Titsias and Shi, arXiv 2111.05300, expand about other points.) Restricting R to the
pixels that z_i can reach would be unbiased too, but a code of Sonnet's decoder reaches four positions each way,
nearly all of an 8x8 grid.

estimator="second_order": biased from the third order on. With the other latents drawn, the gradient of E[R] by q_i is
sum_k grad q_i(k) sum_j q_i(j) (R(k) - R(j)). The trapezoidal rule R(k) - R(j) = 1/2 <g(k) + g(j), e_k - e_j> is exact
for R quadratic in e, and both its halves are expectations over one draw:

    gradient_i = mean_s [ 1/2 <g_i^s, grad m_i> + 1/2 <g_i^s, e(z_i^s) - m_i> grad log q_i(z_i^s) ].

(ReinMax: Liu et al., "Bridging discrete and backpropagation", arXiv 2304.08612, here in the space of entries.) The
learning signal is local: other latents matter only in that g_i is taken at their draws. The second half is the pull
of the curvature towards a narrow q, which a straight-through gradient lacks. One draw per example is enough.

Axes: b batch, s samples, n vectors (positions of all examples), p positions of one, g codebooks, k codes, d dimension
of one codebook.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor
from torch.autograd.function import once_differentiable

from stage1_vqvae.bottlenecks.base import Latent
from stage1_vqvae.bottlenecks.categorical import CategoricalQuantizer, Drawn, Logits
from stage1_vqvae.collectives import global_uniforms

Estimator = Literal["vimco", "first_order", "second_order"]


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


@dataclass(frozen=True)
class Averaged(Latent):
    """S samples per example, folded into the batch as in `MultiSample`. The rate of a sample is the KL."""

    samples: int
    signal: "Signal"

    def bound(self, costs: Tensor, dimensions: Tensor | int) -> Tensor:
        """costs (b s) -> (b,): the mean over the samples."""
        rows = rearrange(costs, "(b s) -> b s", s=self.samples)
        return _ObserveCosts.apply(rows, self.signal).mean(1)  # type: ignore[no-untyped-call]


@dataclass
class Signal:
    """What the backward pass through the costs leaves to that through the samples."""

    weighted_costs: Tensor | None = field(default=None)  # (b, s): each cost times the derivative of the loss by it


class _ObserveCosts(torch.autograd.Function):
    """Costs (b, s) unchanged; in the backward pass they are kept, in units of the loss."""

    @staticmethod
    def forward(ctx: Any, costs: Tensor, signal: Signal) -> Tensor:
        ctx.save_for_backward(costs)
        ctx.signal = signal
        return costs.view_as(costs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (costs,) = ctx.saved_tensors
        ctx.signal.weighted_costs = gradient * costs
        return gradient, None


class _FirstOrder(torch.autograd.Function):
    """Entries (b, s, p, g, d) of draws, unchanged; means (b, p, g, d) and log_q (b, s, p, g) of the draws get the
    gradient of estimator="first_order"."""

    @staticmethod
    def forward(ctx: Any, entries: Tensor, means: Tensor, log_q: Tensor, signal: Signal) -> Tensor:
        ctx.save_for_backward(entries)
        ctx.signal = signal
        return entries.view_as(entries)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (entries,), costs = ctx.saved_tensors, ctx.signal.weighted_costs
        assert costs is not None, "the estimator needs the bound of these draws"
        residual = unpredicted(costs, g.flatten(2), entries.flatten(2))
        return g, g.sum(1), residual[:, :, None, None].expand(g.shape[:-1]), None


def unpredicted(costs: Tensor, gradients: Tensor, entries: Tensor) -> Tensor:
    """Costs (b, s) of draws, their gradients by the entries and the entries (b, s, x) -> (b, s): each cost minus the
    mean of its first-order predictions from the other draws."""
    others = costs.shape[1] - 1
    products = gradients @ entries.mT  # (b, t, s): the gradient at t along the entries of s
    constant = costs - products.diagonal(dim1=1, dim2=2)
    predicted = constant[:, :, None] + products
    own = predicted.diagonal(dim1=1, dim2=2)
    return costs - (predicted.sum(1) - own) / others


def second_order(entries: Tensor, means: Tensor, log_q: Tensor) -> Tensor:
    """Entries (b, s, p, g, d) of draws, unchanged, with the gradient of estimator="second_order" by means (b, p, g, d)
    and log_q (b, s, p, g)."""
    means = means[:, None]
    score = (log_q - log_q.detach())[..., None]
    return entries + ((means - means.detach()) + (entries - means).detach() * score) / 2


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

    The encoder is evaluated once per example, the decoder once per sample."""

    def __init__(
        self,
        num_codes: int = 512,
        dim: int = 64,
        num_codebooks: int = 1,
        num_samples: int = 50,
        estimator: Estimator = "vimco",
        logits: Logits = "affine",
        commitment_weight: float = 0.25,
        likeliest_from: int = 0,
        likeliest_share: float = 0.0,
    ):
        super().__init__(num_codes, dim, num_codebooks, logits, commitment_weight, likeliest_from, likeliest_share)
        if estimator not in ("vimco", "first_order", "second_order"):
            raise ValueError(f"expected estimator=vimco, first_order or second_order, found {estimator}")
        fewest = 1 if estimator == "second_order" else 2
        if num_samples < fewest:
            raise ValueError(f"expected at least {fewest} samples for estimator={estimator}, "
                             f"found num_samples={num_samples}")
        self.num_samples = num_samples
        self.estimator = estimator

    def forward(self, z: Tensor, step: Tensor | int | None = None, uniforms: Tensor | None = None) -> Latent:
        """uniforms (b, s g, *grid) float64: one per sample, codebook and position."""
        batch, samples = len(z), self.num_samples
        with torch.autocast(z.device.type, enabled=False):
            if uniforms is None:
                if not self.training:
                    return self._most_likely(z)
                uniforms = global_uniforms(batch, samples * self.num_codebooks, *z.shape[2:], device=z.device)
            drawn = self._drawn(z, rearrange(uniforms, "b (s g) ... -> (b ...) g s", s=samples))
            chosen = self._read_likeliest(batch, step)
            if chosen is not None:
                vectors = chosen.repeat_interleave(len(drawn.codes) // batch)[:, None, None]
                drawn = Drawn(torch.where(vectors, self._likeliest_codes(z)[..., None], drawn.codes),
                              without_gradient(drawn.log_q, vectors), without_gradient(drawn.means, vectors),
                              without_gradient(drawn.negentropy, vectors[..., 0]))
            codes = rearrange(drawn.codes, "(b p) g s -> (b s p) g", b=batch)
            entries = rearrange(self._entries(codes), "(b s p) g d -> b s p g d", b=batch, s=samples)
            log_q = rearrange(drawn.log_q, "(b p) g s -> b s p g", b=batch)
            means = rearrange(drawn.means, "(b p) g d -> b p g d", b=batch)
            signal = Signal()
            if self.estimator == "first_order":
                entries = _FirstOrder.apply(entries, means, log_q, signal)  # type: ignore[no-untyped-call]
            elif self.estimator == "second_order":
                entries = second_order(entries, means, log_q)
            loss = self._observe(z)  # last: the codes that were drawn are those of before
            latent = self._latent(entries.flatten(0, 2), codes, batch * samples, z.shape[2:], loss)
            if self.estimator == "vimco":
                total = reduce(log_q, "b s p g -> b s", "sum")
                rate = total.flatten() + latent.rate_nats  # log q - log p
                return MultiSample(latent.z_q, latent.codes, rate, latent.loss, total)
            kl = reduce(drawn.negentropy, "(b p) g -> b", "sum", b=batch) + latent.rate_nats[::samples]
            return Averaged(latent.z_q, latent.codes, repeat(kl, "b -> (b s)", s=samples), latent.loss, samples, signal)


def without_gradient(x: Tensor, where: Tensor) -> Tensor:
    """x, through which no gradient passes where that is true."""
    return torch.where(where, x.detach(), x)
