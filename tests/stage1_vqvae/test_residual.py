"""Residual quantisation: each level describes what is left, and all of it learns."""

import pytest
import torch

from stage1_vqvae.bottlenecks.residual import Residual
from stage1_vqvae.bottlenecks.vq import EMAQuantizer


def encodings(n=400, dim=6, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quantizer(num_codebooks=3, **kwargs):
    torch.manual_seed(0)
    return Residual(**{"num_codes": 16, "dim": 6, "num_codebooks": num_codebooks} | kwargs).double()


def test_each_level_reconstructs_better():
    """Held-out encodings, after initialisation and a few steps."""
    module, optimizer = quantizer(decay=0.9), torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    assert module.needs_initialisation
    module.initialise(encodings())
    assert not module.needs_initialisation
    for step in range(10):
        module.train()(encodings(seed=step))
        module.after_step(optimizer)
    z = encodings(seed=99)
    latent = module.eval()(z)
    parts = [level.lookup(codes) for level, codes in zip(module.levels, latent.codes.unbind(-1))]
    errors = [(z - sum(parts[:used])).square().mean() for used in range(4)]
    # 4 bits per level over 6 Gaussian dimensions: at best 2^(-2 4/6) = 0.40 of the error is left, without learning all
    assert all(after < 0.8 * before for before, after in zip(errors, errors[1:]))
    torch.testing.assert_close(errors[-1], (z - latent.z_q).square().mean())


def test_levels_are_separate_quantisers_of_what_is_left():
    module, z = quantizer().eval(), encodings().requires_grad_()
    latent = module(z)
    left, loss = z, 0.0
    for level, codes in zip(module.levels, latent.codes.unbind(-1)):
        own = level(left)
        assert torch.equal(own.codes, codes)
        left, loss = left - own.z_q.detach(), loss + own.loss
    torch.testing.assert_close(latent.loss, loss)
    torch.testing.assert_close(z - left, latent.z_q)
    upstream = encodings(seed=3)
    (gradient,) = torch.autograd.grad(latent.z_q, z, upstream)
    assert torch.equal(gradient, upstream), "straight through, once"


def test_one_level_is_the_ema_quantiser():
    module = quantizer(1)
    torch.manual_seed(0)
    single = EMAQuantizer(16, 6).double()
    z = encodings()
    for step in range(3):
        torch.manual_seed(step)
        mine = module(z)
        torch.manual_seed(step)
        other = single(z)
        assert torch.equal(mine.codes, other.codes) and torch.equal(mine.z_q, other.z_q)
        assert torch.equal(mine.loss, other.loss)


def test_dead_codes_of_every_level_are_revived():
    module, optimizer = quantizer(decay=0.5), torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    for level in module.levels:
        level.codebook[0, 1:] = 1e3
    for _ in range(12):
        module.train()(encodings())
        module.after_step(optimizer)
    assert all((level.codebook < 500).all() for level in module.levels)


def test_a_dim_need_not_be_divided():
    assert Residual(num_codes=4, dim=5, num_codebooks=3).dim == 5
    with pytest.raises(ValueError, match="num_codebooks=0"):
        Residual(num_codebooks=0)


def test_the_figure_of_the_error_is_that_of_the_sum_of_all_levels():
    module, z = quantizer(), encodings()
    module.initialise(z)
    latent = module.eval()(z)
    expected = (z - latent.z_q).square().sum() / (z - z.mean(0)).square().sum()
    assert float(module.figures(z, latent)["z_q nmse"]) == pytest.approx(float(expected), rel=1e-5)
