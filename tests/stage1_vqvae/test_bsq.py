"""BSQ: corners, codes and entropies as its paper has them, and vector-quantize-pytorch's. The contract:
tests/contracts."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from stage1_vqvae.bottlenecks.bsq import BSQ


def plain(bits, **kwargs):
    """The signs alone: z goes in and comes out through identities."""
    module = BSQ(bits, dim=bits, **kwargs).double()
    with torch.no_grad():
        for layer in (module.inwards, module.outwards):
            layer.weight.copy_(torch.eye(bits))
            layer.bias.zero_()
    return module


def encodings(bits, seed=0, n=40):
    return torch.randn(n, bits, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_every_code_is_reached_and_stands_for_its_own_corner_of_unit_length():
    module = plain(5).eval()
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=5)), dtype=torch.float64)
    latent = module(3 * signs)
    assert latent.codes.tolist() == ((signs > 0) * 2 ** torch.arange(5)).sum(1).tolist()
    assert latent.codes.sort().values.tolist() == list(range(32)) and module.num_codes == 32
    torch.testing.assert_close(latent.z_q, signs / 5**0.5)
    torch.testing.assert_close(latent.z_q.norm(dim=1), torch.ones(32, dtype=torch.float64))


def test_the_loss_is_the_formula_s():
    """In NumPy, over all 2^l codes: p(c | u) = exp(t c.u) / sum, H(c | u), and H(c) as a sum over bits."""
    module, z = plain(4, commitment_weight=0.3, entropy_weight=0.2, temperature=7.0), encodings(4)
    u = (z / z.norm(dim=1, keepdim=True)).numpy()
    codes = np.array(list(itertools.product((-1, 1), repeat=4))) / 2
    p = np.exp(7.0 * u @ codes.T)
    p /= p.sum(1, keepdims=True)
    conditional = -(p * np.log(p)).sum(1).mean()
    bits = np.stack([p.mean(0)[codes[:, bit] > 0].sum() for bit in range(4)])
    marginal = -(bits * np.log(bits) + (1 - bits) * np.log(1 - bits)).sum()
    commitment = ((u - np.sign(u) / 2) ** 2).mean()
    found = [float(entropy) for entropy in module.entropies(torch.from_numpy(u)[:, None])]
    assert found == pytest.approx([conditional, marginal], rel=1e-12)
    expected = 0.3 * commitment + 0.2 * (conditional - marginal)
    assert module(z).loss.item() == pytest.approx(expected, rel=1e-12)


def test_it_agrees_with_vector_quantize_pytorch():
    """Their code has the highest bit first, and the entropy of the mean over all codes: not of one, which is compared
    for a single bit. Their probabilities are those of a doubled temperature."""
    package = pytest.importorskip("vector_quantize_pytorch", reason="of the extra `dev`")
    for bits, compared in ((4, 1), (1, 2)):
        module, z, other = plain(bits, temperature=3.0), encodings(bits, 1).requires_grad_(), encodings(bits, 1)
        other.requires_grad_()
        theirs = package.LFQ(dim=bits, codebook_size=2**bits, spherical=True, commitment_loss_weight=1.0,
                             entropy_loss_weight=0.0, force_quantization_f32=False).double()
        result, parts = theirs(other[None], inv_temperature=1.5, return_loss_breakdown=True)
        latent = module(z)
        reverse = 2 ** torch.arange(bits).flip(0)
        assert torch.equal(latent.codes, ((result.indices[0, :, None] // reverse % 2) * 2 ** torch.arange(bits)).sum(1))
        torch.testing.assert_close(latent.z_q, result.quantized[0], rtol=1e-6, atol=1e-6)
        u = z / z.norm(dim=1, keepdim=True)
        own = module.entropies(u[:, None])
        for entropy, expected in list(zip(own, (parts.per_sample_entropy, parts.batch_entropy)))[:compared]:
            torch.testing.assert_close(entropy, expected, rtol=1e-6, atol=1e-6)
        pull = encodings(bits, 2)
        (latent.z_q * pull).sum().backward()
        (result.quantized[0] * pull).sum().backward()
        torch.testing.assert_close(z.grad, other.grad, rtol=1e-6, atol=1e-6)


def test_the_entropies_make_bits_even():
    """Encodings that all have all bits set are drawn apart."""
    module = plain(3, entropy_weight=1.0, temperature=10.0)
    z = nn.Parameter(encodings(3).abs())
    optimizer = torch.optim.Adam([z], lr=0.05)
    assert len(module(z).codes.unique()) == 1
    for _ in range(60):
        optimizer.zero_grad()
        module(z).loss.backward()
        optimizer.step()
    assert len(module(z).codes.unique()) > 4


def test_certain_bits_have_a_finite_gradient():
    module = plain(3, temperature=1e6).float()
    z = torch.ones(5, 3, requires_grad=True)
    module(z).loss.backward()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("bits", [0, 31])
def test_bits_that_cannot_be_are_refused(bits):
    with pytest.raises(ValueError, match=f"num_bits: expected 1 to 30, found {bits}"):
        BSQ(bits)
