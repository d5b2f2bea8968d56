"""Draws and relaxed draws of q(k) proportional to exp(p (z.e_k - |e_k|^2 / 2)), block by block.

That is the posterior of a mixture of Gaussians of variance 1 / p about the codes e_k. Its n x k probabilities are read
and written by every operation on them: at 32 images of 8x8x10 codes of 512 they are 42 MB, and a step of plain autograd
passes over them some 30 times. Here each block is finished before the next begins, in buffers that stay in the cache,
and its logits are computed anew in the backward pass, which costs less than reading them. All in the dtype of z.

Axes: g codebooks, n vectors, s samples, k codes, d dimension of one codebook.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Probabilities of a block. On a CPU half a megabyte in float32; on a GPU many, since each block is launched apart.
BLOCK = {"cpu": 2**17, "cuda": 2**26}


class Draws(torch.autograd.Function):
    """z (g, n, d), codebook (g, k, d), p (g), uniforms (g, n, s) float64 -> codes (g, n, s), their log q (g, n, s), the
    mean entry under q (g, n, d) and sum q log q (g, n).

    The mean's gradient takes the entries as constants; its way to the codebook is that through q alone."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, codebook: Tensor, p: Tensor, uniforms: Tensor) -> tuple[Tensor, ...]:
        codes = torch.empty(uniforms.shape, dtype=torch.int64, device=z.device)
        log_q, means, negentropy = z.new_empty(uniforms.shape), torch.empty_like(z), z.new_empty(z.shape[:2])
        for i, rows, (logs, probabilities, other) in blocks(z, codebook, p):
            torch.exp(logs, out=probabilities)
            torch.mul(logs, probabilities, out=other)
            torch.sum(other, -1, out=negentropy[i, rows])
            torch.mm(probabilities, codebook[i], out=means[i, rows])
            cdf = torch.cumsum(probabilities, -1, out=other)
            targets = (uniforms[i, rows] * cdf[:, -1:]).to(z.dtype)
            for sample, target in enumerate(targets.unbind(-1)):  # the first code whose cdf exceeds the target
                codes[i, rows, sample] = (cdf <= target[:, None]).sum(-1).clamp(max=codebook.shape[1] - 1)
            log_q[i, rows] = logs.gather(-1, codes[i, rows])
        ctx.save_for_backward(z, codebook, p, codes, means, negentropy)
        ctx.mark_non_differentiable(codes)
        return codes, log_q, means, negentropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: None, to_log_q: Tensor, to_means: Tensor, to_negentropy: Tensor
                 ) -> tuple[Tensor | None, ...]:
        z, codebook, p, codes, means, negentropy = ctx.saved_tensors
        chain = Chain(z, codebook, p, ctx.needs_input_grad[1])
        centre = (to_means * means).sum(-1) + to_log_q.sum(-1) + to_negentropy * negentropy
        for i, rows, (logs, probabilities, other) in blocks(z, codebook, p):
            torch.exp(logs, out=probabilities)
            logs.mul_(to_negentropy[i, rows, None]).sub_(centre[i, rows, None])
            torch.addmm(logs, to_means[i, rows], codebook[i].T, out=other)
            other.mul_(probabilities)
            other.scatter_add_(-1, codes[i, rows], to_log_q[i, rows])
            chain.add(i, rows, other)
        return *chain.gradients(), None


class Relaxed(torch.autograd.Function):
    """z (g, n, d), codebook (g, k, d), p (g), uniforms (g, n, k) and a temperature t -> the entries' mean under the
    weights softmax((logits + Gumbel noise) / t), (g, n, d), the codes of the largest weights (g, n), and
    sum q log q (g, n)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, codebook: Tensor, p: Tensor, uniforms: Tensor, temperature: Tensor | float
                ) -> tuple[Tensor, ...]:
        mixed, negentropy = torch.empty_like(z), z.new_empty(z.shape[:2])
        codes = torch.empty(z.shape[:2], dtype=torch.int64, device=z.device)
        weights = torch.empty_like(uniforms)
        for i, rows, (logs, probabilities, other) in blocks(z, codebook, p):
            torch.exp(logs, out=probabilities)
            torch.mul(logs, probabilities, out=other)
            torch.sum(other, -1, out=negentropy[i, rows])
            torch.log(uniforms[i, rows], out=other)
            other.neg_().log_()
            scores = logs.sub_(other)
            codes[i, rows] = scores.argmax(-1)
            torch.softmax(scores.div_(temperature), -1, out=weights[i, rows])
            torch.mm(weights[i, rows], codebook[i], out=mixed[i, rows])
        ctx.save_for_backward(z, codebook, p, weights, mixed, negentropy)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(codes)
        return mixed, codes, negentropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_mixed: Tensor, _: None, to_negentropy: Tensor
                 ) -> tuple[Tensor | None, ...]:
        z, codebook, p, weights, mixed, negentropy = ctx.saved_tensors
        chain, direct = Chain(z, codebook, p, ctx.needs_input_grad[1]), torch.zeros_like(codebook)
        centre, scaled = (to_mixed * mixed).sum(-1) / ctx.temperature, to_mixed / ctx.temperature
        for i, rows, (logs, probabilities, other) in blocks(z, codebook, p):
            own = weights[i, rows]
            if chain.codes_learn:
                direct[i].addmm_(own.T, to_mixed[i, rows])
            torch.exp(logs, out=probabilities)
            logs.sub_(negentropy[i, rows, None]).mul_(to_negentropy[i, rows, None])
            torch.addmm(-centre[i, rows, None], scaled[i, rows], codebook[i].T, out=other)
            chain.add(i, rows, other.mul_(own).addcmul_(logs, probabilities))
        to_z, to_codebook, to_p = chain.gradients()
        return to_z, None if to_codebook is None else to_codebook + direct, to_p, None, None


def blocks(z: Tensor, codebook: Tensor, p: Tensor) -> Iterator[tuple[int, slice, tuple[Tensor, Tensor, Tensor]]]:
    """The codebook, the rows, log q (rows, k) of them, and two buffers of that shape."""
    (g, n, _), k = z.shape, codebook.shape[1]
    size = max(1, min(n, BLOCK.get(z.device.type, BLOCK["cuda"]) // k))
    buffers = [z.new_empty(size, k) for _ in range(3)]
    lengths, scaled = codebook.square().sum(-1) * p[:, None] / -2, z * p[:, None, None]
    for i in range(g):
        for start in range(0, n, size):
            rows = slice(start, min(start + size, n))
            logs, other, last = (buffer[: rows.stop - start] for buffer in buffers)
            torch.addmm(lengths[i], scaled[i, rows], codebook[i].T, out=other)
            torch.log_softmax(other, -1, out=logs)
            yield i, rows, (logs, other, last)


class Chain:
    """The gradients by z, codebook and p, from those by the logits, block by block."""

    def __init__(self, z: Tensor, codebook: Tensor, p: Tensor, codes_learn: bool):
        self.codes_learn = codes_learn
        self.z, self.codebook, self.p = z, codebook, p
        self.to_z = torch.empty_like(z)  # of z, codebook and lengths as if p were 1
        self.products, self.sums = torch.zeros_like(codebook), torch.zeros_like(codebook[..., 0])

    def add(self, i: int, rows: slice, to_logits: Tensor) -> None:
        torch.mm(to_logits, self.codebook[i], out=self.to_z[i, rows])
        if self.codes_learn:
            self.products[i].addmm_(to_logits.T, self.z[i, rows])
        self.sums[i] += to_logits.sum(0)

    def gradients(self) -> tuple[Tensor, Tensor | None, Tensor]:
        p, halves = self.p[:, None, None], self.codebook.square().sum(-1) / 2
        to_p = (self.to_z * self.z).sum((1, 2)) - (self.sums * halves).sum(1)
        to_codebook = (self.products - self.sums[..., None] * self.codebook) * p if self.codes_learn else None
        return self.to_z * p, to_codebook, to_p
