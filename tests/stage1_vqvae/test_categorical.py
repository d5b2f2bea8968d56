"""Logits by distance, their start at the data, and likeliest codes in training."""

import copy

import pytest
import torch
from torch.distributions import Normal

from stage1_vqvae.bottlenecks.gumbel import Gumbel
from stage1_vqvae.bottlenecks.vimco import VIMCO

BOTTLENECKS = [Gumbel, VIMCO]


def encodings(count=400, dim=4):
    torch.manual_seed(0)
    return torch.randn(count, dim, dtype=torch.float64)


def by_distance(bottleneck, **settings):
    torch.manual_seed(1)
    module = bottleneck(num_codes=6, dim=4, num_codebooks=2, logits="distance", **settings).double()
    module.initialise(encodings())
    return module


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_by_distance_q_is_the_posterior_of_a_mixture_of_gaussians(bottleneck):
    module, z = by_distance(bottleneck).eval(), encodings(12).view(3, 2, 2, 4).movedim(-1, 1)
    with torch.no_grad():
        module.width.copy_(torch.tensor([0.03, -0.1]))
    variance = module.error * torch.tensor([0.3, -1.0]).exp()
    own = z.movedim(1, -1).unflatten(-1, (2, 1, 2))  # (b, h, w, g, 1, d)
    density = Normal(module.vectors(), variance.sqrt()[:, None, None]).log_prob(own).sum(-1)
    torch.testing.assert_close(module.posterior(z).log_q, density.log_softmax(-1))
    nearest = (own - module.vectors()).square().sum(-1).argmin(-1)
    assert torch.equal(module(z).codes, nearest)


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_codes_start_at_the_encodings_and_q_near_them(bottleneck):
    module, z = by_distance(bottleneck).eval(), encodings()
    assert not module.needs_initialisation and bottleneck(logits="distance").needs_initialisation
    error = (module(z).z_q - z).square().unflatten(1, (2, 2)).mean((0, 2))
    assert (error < 0.5).all()  # six codes of two dimensions of variance 1
    torch.testing.assert_close(module.error, error)
    likeliest = module.posterior(z).log_q.exp().max(-1).values.mean()
    affine = bottleneck(num_codes=6, dim=4, num_codebooks=2).double().posterior(z).log_q.exp().max(-1).values.mean()
    assert likeliest > 0.5 > affine


def test_as_many_encodings_as_codes_leave_a_spread():
    module = VIMCO(num_codes=8, dim=4, logits="distance").double()
    module.initialise(encodings(8))
    assert module.error.item() == pytest.approx(1e-3 * encodings(8).var().item())


@pytest.mark.parametrize("settings", [{"num_samples": 3}, {"num_samples": 2, "estimator": "first_order"},
                                      {"num_samples": 1, "estimator": "second_order"}, None])
def test_likeliest_codes_reach_the_decoder_and_teach_no_encoder(settings):
    """Half of four examples, from step 5 on. The other half is what it was."""
    def run(step, share=0.5):
        torch.manual_seed(1)
        bottleneck, own = (Gumbel, {"temperature_steps": 10}) if settings is None else (VIMCO, settings)
        module = bottleneck(num_codes=5, dim=4, num_codebooks=2, logits="distance", likeliest_from=5,
                            likeliest_share=share, **own).double()
        module.initialise(encodings())
        before = copy.deepcopy(module).eval()  # its codes move
        z = encodings(24).view(4, 2, 3, 4).movedim(-1, 1).requires_grad_()
        torch.manual_seed(2)
        latent = module.train()(z, step)
        costs = (latent.z_q ** 3).flatten(1).sum(1) + latent.rate_nats
        latent.bound(costs, 1).sum().backward()
        return before, z, latent

    module, z, latent = run(step=5)
    rows = len(latent.z_q) // 4
    likeliest = module(z).codes.repeat_interleave(rows, 0)
    assert torch.equal(latent.codes[: 2 * rows], likeliest[: 2 * rows])
    torch.testing.assert_close(latent.z_q[: 2 * rows], module.lookup(likeliest)[: 2 * rows])
    assert (z.grad[:2] == 0).all() and (z.grad[2:] != 0).any()
    _, untouched, without = run(step=5, share=0.0)
    torch.testing.assert_close(z.grad[2:], untouched.grad[2:])
    torch.testing.assert_close(latent.z_q[2 * rows :], without.z_q[2 * rows :])
    assert not torch.equal(latent.codes[: 2 * rows], without.codes[: 2 * rows])
    assert torch.equal(run(step=4)[2].z_q, run(step=4, share=0.0)[2].z_q)
    assert torch.equal(run(step=torch.tensor(5))[2].z_q, latent.z_q)
    assert torch.equal(run(step=torch.tensor(4))[2].z_q, run(step=4)[2].z_q)
    assert (run(step=5, share=1.0)[1].grad == 0).all()


@pytest.mark.parametrize("wrong, message", [
    ({"logits": "cosine"}, "found cosine"),
    ({"commitment_weight": -1.0}, "commitment_weight=-1"),
    ({"likeliest_share": 1.5}, "likeliest_share=1.5"),
    ({"likeliest_from": -1}, "likeliest_from=-1"),
])
@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_settings_that_cannot_be_are_refused(bottleneck, wrong, message):
    with pytest.raises(ValueError, match=message):
        bottleneck(**wrong)


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_codes_and_their_error_follow_the_encodings(bottleneck):
    """As those of a VQ-VAE that sees the same."""
    module, z = by_distance(bottleneck, commitment_weight=0.5).train(), 3 * encodings(40)
    vq, error = copy.deepcopy(module.vq), module.error.clone()
    z.requires_grad_()
    latent = module(z, 0)
    expected = vq(z)
    torch.testing.assert_close(latent.loss, expected.loss)
    torch.testing.assert_close(module.vectors(), vq.vectors())
    new = (z - expected.z_q).detach().square().unflatten(1, (2, 2)).mean((0, 2))
    torch.testing.assert_close(module.error, 0.99 * error + 0.01 * new)
    assert module.codebooks() == []
    before = module.vectors().clone()
    module.eval()(z, uniforms=torch.full((40, 2 * (module.num_samples if bottleneck is VIMCO else 6)), 0.5).double())
    assert torch.equal(module.vectors(), before)


def test_an_affine_map_is_not_initialised_from_data():
    module = VIMCO()
    assert not module.needs_initialisation
    with pytest.raises(ValueError, match="initialised from data"):
        module.initialise(encodings())
