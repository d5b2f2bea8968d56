"""Blocks of the mixture of Gaussians against plain autograd over all probabilities at once."""

import pytest
import torch

from stage1_vqvae.bottlenecks import mixture
from stage1_vqvae.bottlenecks.categorical import draw
from stage1_vqvae.bottlenecks.mixture import Draws, Relaxed

G, N, K, D, S = 2, 11, 7, 3, 2


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Of four rows, the last of three."""
    monkeypatch.setitem(mixture.BLOCK, "cpu", 4 * K)


def problem():
    generator = torch.Generator().manual_seed(0)
    z, codebook, uniforms, noise = (torch.randn(*shape, generator=generator, dtype=torch.float64)
                                    for shape in ((G, N, D), (G, K, D), (G, N, S), (G, N, K)))
    p = torch.tensor([0.7, 2.0], dtype=torch.float64)
    normal = torch.distributions.Normal(0.0, 1.0)
    return [x.requires_grad_() for x in (z, codebook, p)], normal.cdf(uniforms), normal.cdf(noise)


def log_q(z, codebook, p):
    distances = (z[:, :, None] - codebook[:, None]).square().sum(-1)
    return (-p[:, None, None] / 2 * distances).log_softmax(-1)


def weights_of(*shapes):
    return [torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64) for shape in shapes]


def check(parts, expected, inputs):
    """Equal values; and equal gradients of one random linear function of all of them."""
    for found, known in zip(parts, expected, strict=True):
        torch.testing.assert_close(found, known)
    factors = weights_of(*(part.shape for part in parts))
    found, known = (torch.autograd.grad(sum((a * b).sum() for a, b in zip(factors, own)), inputs)
                    for own in (parts, expected))
    for own, other in zip(found, known, strict=True):
        torch.testing.assert_close(own, other)
        assert own.abs().min() > 0


def test_draws():
    inputs, uniforms, _ = problem()
    codes, *parts = Draws.apply(*inputs, uniforms)
    logs = log_q(*inputs)
    assert torch.equal(codes, draw(logs.detach(), uniforms)) and codes.unique().numel() == K
    means = logs.exp() @ inputs[1].detach()
    check(parts, [logs.gather(-1, codes), means, (logs.exp() * logs).sum(-1)], inputs)


def test_relaxed_draws():
    inputs, _, uniforms = problem()
    mixed, codes, negentropy = Relaxed.apply(*inputs, uniforms, 0.6)
    logs = log_q(*inputs)
    scores = logs - (-uniforms.log()).log()
    assert torch.equal(codes, scores.argmax(-1)) and codes.unique().numel() > 3
    check([mixed, negentropy], [(scores / 0.6).softmax(-1) @ inputs[1], (logs.exp() * logs).sum(-1)], inputs)
