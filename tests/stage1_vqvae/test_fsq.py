"""FSQ: levels and codes as its paper has them."""

import itertools
import math

import pytest
import torch
from torch import nn

from stage1_vqvae.bottlenecks.fsq import FSQ

# arXiv 2309.15505, table 1: the powers of two that its levels stand for
TABLE = {8: [8, 6, 5], 10: [8, 5, 5, 5], 12: [7, 5, 5, 5, 5], 14: [8, 8, 8, 6, 5], 16: [8, 8, 8, 5, 5, 5]}


def plain(levels):
    """The rounding alone: z goes in and comes out through identities."""
    module = FSQ(levels, dim=len(levels)).double()
    module.norm = nn.Identity()
    with torch.no_grad():
        for layer in (module.inwards, module.outwards):
            layer.weight.copy_(torch.eye(len(levels)))
            layer.bias.zero_()
    return module.eval()


@pytest.mark.parametrize("bits, levels", TABLE.items())
def test_the_number_of_codes_is_about_that_of_the_table(bits, levels):
    module = FSQ(levels)
    assert module.num_codes == math.prod(levels) and module.num_codebooks == 1
    assert abs(math.log2(module.num_codes) - bits) < 0.15  # [7, 5, 5, 5, 5]: 12.1


@pytest.mark.parametrize("levels", [[8, 5, 5], [7, 2, 3], [6, 4]])
def test_every_code_is_reached_and_stands_for_its_own_levels(levels):
    module = plain(levels)
    integers = torch.tensor(list(itertools.product(*(range(-(n // 2), n - n // 2) for n in levels)))).double()
    sizes = torch.tensor(levels, dtype=torch.float64)
    half, offset = (sizes - 1) / 2, (sizes % 2 == 0) / 2
    inside = ((integers + offset) / (half + 0.0005)).clamp(-1 + 1e-12, 1 - 1e-12)
    z = torch.atanh(inside) - torch.atanh(offset / (half + 0.0005))  # what is bounded to exactly these integers
    latent = module(z)
    torch.testing.assert_close(latent.z_q, integers / (sizes // 2))
    assert torch.equal(latent.codes.sort().values, torch.arange(math.prod(levels)))
    radix = [math.prod(levels[:place]) for place in range(len(levels))]
    digits = (integers + sizes // 2).long()
    assert latent.codes.tolist() == (digits * torch.tensor(radix)).sum(1).tolist()
    assert torch.equal(module.lookup(latent.codes), latent.z_q)


def test_nothing_lies_outside_the_levels_however_large_it_is():
    for dtype in (torch.float32, torch.float64):
        module = plain([8, 5, 2, 1001]).to(dtype)
        for size in (1e6, -1e6):
            codes = module(torch.full((1, 4), size, dtype=dtype)).codes
            assert codes.item() == (module.num_codes - 1 if size > 0 else 0)


def test_zero_is_the_middle_level():
    assert torch.equal(plain([8, 5, 3, 2])(torch.zeros(1, 4).double()).z_q, torch.zeros(1, 4).double())


def test_the_gradient_passes_the_rounding_unchanged():
    module = plain([8, 5])
    z = torch.randn(9, 2, dtype=torch.float64).requires_grad_()
    module(z).z_q.sum().backward()
    bounded = module._bounded(z)
    (expected,) = torch.autograd.grad((bounded / torch.tensor([4.0, 2.0])).sum(), z)
    torch.testing.assert_close(z.grad, expected)
    assert z.grad.abs().min() > 0


@pytest.mark.parametrize("levels", [[9, 5, 3], [8, 5, 2]])
def test_the_sigmoid_is_ifsq_s(levels):
    """2 sigmoid(1.6 x) - 1 in the place of tanh(x), of the same range; odd levels need no shift."""
    module = FSQ(levels, dim=3, bounding="sigmoid").double()
    x = 3 * torch.randn(50, 3, dtype=torch.float64)
    sizes = torch.tensor(levels, dtype=torch.float64)
    half, offset = (sizes - 1 + 1e-3) / 2, (sizes % 2 == 0) / 2
    shift = torch.atanh(offset / half) / 0.8
    expected = (2 * torch.sigmoid(1.6 * (x + shift)) - 1) * half - offset
    torch.testing.assert_close(module._bounded(x), expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(module._bounded(x), plain(levels)._bounded(x))


def test_the_sigmoid_makes_levels_of_normal_numbers_even():
    """9,000 quantiles of a normal distribution -> nine levels."""
    x = torch.special.ndtri((torch.arange(9000, dtype=torch.float64) + 0.5) / 9000)[:, None].expand(-1, 2)
    shares = {}
    for bounding in ("tanh", "sigmoid"):
        levels = FSQ([9, 9], dim=2, bounding=bounding).double()._bounded(x)[:, 0].round()
        shares[bounding] = levels.unique(return_counts=True)[1][1:-1].double() / 1000  # the outermost are half as wide
    assert (shares["sigmoid"] - 1).abs().max() < (shares["tanh"] - 1).abs().max()


def test_a_bounding_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="expected bounding=tanh or bounding=sigmoid, found clip"):
        FSQ([8, 5], bounding="clip")


def test_two_codebooks_are_two_of_one():
    levels = [5, 4, 3]
    torch.manual_seed(0)
    both = FSQ(levels, dim=6, num_codebooks=2).double().eval()
    both.norm = nn.Identity()
    with torch.no_grad():
        for layer in (both.inwards, both.outwards):
            layer.weight.copy_(torch.eye(6))
            layer.bias.zero_()
    z = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    latent, parts = both(z), [plain(levels)(half) for half in z.chunk(2, 1)]
    assert latent.codes.shape == (2, 3, 5, 2) and not torch.equal(*latent.codes.unbind(-1))
    assert torch.equal(latent.codes, torch.stack([part.codes for part in parts], -1))
    assert torch.equal(latent.z_q, torch.cat([part.z_q for part in parts], 1))
    assert torch.equal(both.lookup(latent.codes), latent.z_q)
    torch.testing.assert_close(latent.rate_nats, sum(part.rate_nats for part in parts))


def test_an_encoder_that_drifts_away_keeps_its_codes_and_its_gradient():
    torch.manual_seed(0)
    module = FSQ([8, 5, 5, 5], dim=16).double()
    z = torch.randn(64, 16, dtype=torch.float64)
    far = (40 * z + 1000).requires_grad_()
    latent = module(far)
    assert torch.equal(latent.codes, module(z).codes) and len(latent.codes.unique()) > 20
    latent.z_q.square().sum().backward()
    assert (40 * far.grad).norm() > 1e-3 * 64**0.5
    module.norm = nn.Identity()
    assert len(module(far).codes.unique()) <= 2, "else there was nothing to normalise"


def test_one_dimension_cannot_be_normalised():
    with pytest.raises(ValueError, match="dim: expected 2 or more, .* found 1"):
        FSQ([5], dim=1)


def test_levels_below_two_are_refused():
    for levels in ([], [5, 1]):
        with pytest.raises(ValueError, match="expected levels of at least 2 each, found"):
            FSQ(levels)
