"""Gumbel: the relaxation's limit, its schedule, its rate, and no noise at evaluation."""

import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from stage1_vqvae.bottlenecks.gumbel import Gumbel

CHI2 = 40.52  # the 1 - 1e-6 quantile of 7 degrees of freedom


def quantizer(**kwargs):
    torch.manual_seed(0)
    return Gumbel(**{"num_codes": 8, "dim": 6, "temperature_steps": 100} | kwargs).double()


def encodings(batch=4, grid=(3, 5), seed=1):
    return torch.randn(batch, 6, *grid, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logits_of(module, z):
    return module.projection(z.movedim(1, -1)).unflatten(-1, (module.num_codebooks, module.num_codes))


@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_near_temperature_0_it_is_the_largest_perturbed_logit(num_codebooks):
    module, z = quantizer(num_codebooks=num_codebooks, last_temperature=1e-6).train(), encodings()
    uniforms = torch.rand(4, num_codebooks * 8, 3, 5, dtype=torch.float64)
    latent = module(z, step=100, uniforms=uniforms)
    noise = -(-uniforms.movedim(1, -1).unflatten(-1, (num_codebooks, 8)).log()).log()
    expected = (logits_of(module, z) + noise).argmax(-1)
    assert torch.equal(latent.codes, expected if num_codebooks > 1 else expected[..., 0])
    torch.testing.assert_close(latent.z_q, module.lookup(latent.codes))
    assert torch.equal(module.eval()(z, uniforms=uniforms).codes, latent.codes)
    assert torch.equal(module(z, uniforms=uniforms).z_q, module.lookup(latent.codes))


def test_codes_are_drawn_from_the_softmax():
    """Pearson's statistic of 50,000 draws has 7 degrees of freedom: above its 1 - 1e-6 quantile once in a million."""
    module = quantizer().train()
    z = encodings(1, ()).expand(50_000, 6)
    codes = module(z, step=0).codes
    expected = 50_000 * logits_of(module, z[:1]).softmax(-1).flatten().detach()
    found = torch.bincount(codes, minlength=8)
    assert ((found - expected).square() / expected).sum() < CHI2
    assert expected.max() > 1.5 * expected.min()


def test_the_temperature_falls_along_a_cosine():
    module = quantizer()
    found = [module.temperature(step) for step in (0, 50, 100, 1000, None, torch.tensor(50))]
    middle = (1 + 1 / 16) / 2
    assert found == pytest.approx([1, middle, 1 / 16, 1 / 16, 1 / 16, middle])
    z, uniforms = encodings(), torch.rand(4, 8, 3, 5, dtype=torch.float64)
    noise = -(-uniforms.movedim(1, -1).log()).log()
    weights = ((logits_of(module, z)[..., 0, :] + noise) / middle).softmax(-1)
    torch.testing.assert_close(module(z, step=50, uniforms=uniforms).z_q, (weights @ module.codebook[0]).movedim(-1, 1))


def test_the_rate_is_the_kl_with_noise_and_log_k_without():
    module, z = quantizer(num_codebooks=2).train(), encodings()
    q = Categorical(logits=logits_of(module, z))
    kl = kl_divergence(q, Categorical(logits=torch.zeros_like(q.logits))).flatten(1).sum(1)
    torch.testing.assert_close(module(z, step=3).rate_nats, kl)
    module.eval()
    torch.testing.assert_close(module(z).rate_nats, torch.full((4,), 30 * math.log(8), dtype=torch.float64))
    torch.testing.assert_close(module(z, uniforms=torch.rand(4, 16, 3, 5).double()).rate_nats, kl)


def test_evaluation_has_no_noise():
    module, z = quantizer().eval(), encodings()
    assert torch.equal(module(z).codes, logits_of(module, z)[..., 0, :].argmax(-1))
    module.train()
    assert not torch.equal(module(z, step=0).z_q, module(z, step=0).z_q)


def test_a_uniform_of_0_is_a_code_that_is_not_drawn():
    module, z = quantizer().train(), encodings().requires_grad_()
    uniforms = torch.full((4, 8, 3, 5), 0.5, dtype=torch.float64)
    uniforms[:, 2:] = 0.0
    latent = module(z, step=0, uniforms=uniforms)
    (latent.z_q.sum() + latent.rate_nats.sum()).backward()
    assert latent.codes.max() < 2 and z.grad.isfinite().all()


def test_temperatures_that_cannot_be_are_refused():
    for wrong in ({"last_temperature": 0.0}, {"first_temperature": 0.01}):
        with pytest.raises(ValueError, match="expected temperatures above 0"):
            Gumbel(**wrong)


def test_from_its_step_on_the_decoder_reads_entries_with_the_gradient_of_the_mixture():
    uniforms = torch.rand(4, 8, 3, 5, dtype=torch.float64)
    found = {}
    for hard_from, step in ((0, 40), (40, 39), (40, 40), (40, torch.tensor(40)), (40, None)):
        module, z = quantizer(hard_from=hard_from).train(), encodings().requires_grad_()
        latent = module(z, step, uniforms)
        latent.z_q.square().sum().backward() if hard_from == 0 or step == 39 else latent.z_q.sum().backward()
        found[hard_from, str(step)] = latent, z.grad, module
    soft, hard = found[0, "40"][0], found[40, "40"][0]
    assert torch.equal(soft.codes, hard.codes)
    torch.testing.assert_close(hard.z_q, found[40, "40"][2].lookup(hard.codes))
    assert not torch.allclose(soft.z_q, hard.z_q)
    torch.testing.assert_close(found[40, "tensor(40)"][0].z_q, hard.z_q)
    assert not torch.allclose(found[40, "39"][0].z_q, found[40, "39"][2].lookup(found[40, "39"][0].codes))
    module, z = quantizer().train(), encodings().requires_grad_()
    module(z, 40, uniforms).z_q.sum().backward()
    torch.testing.assert_close(found[40, "40"][1], z.grad)
    with pytest.raises(ValueError, match="hard_from=-1"):
        Gumbel(hard_from=-1)
