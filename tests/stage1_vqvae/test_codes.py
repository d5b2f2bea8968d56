"""Codes as data: their likelihood, and the networks around those of images."""

import math

import pytest
import torch

from stage1_vqvae.codes import CodeEncoder, CroppedDecoder
from stage1_vqvae.image import ImageDecoder, ImageEncoder
from stage1_vqvae.likelihoods.codes import Codes

SMALL = {"hidden": 8, "outer_hidden": 8, "residual_hidden": 4, "num_residual_blocks": 1, "num_downsamplings": 2,
         "mixing_convolution": True}


def drawn(*shape, num_codes=7):
    return torch.randint(0, num_codes, shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_the_mass_of_codes_is_their_softmax(memory):
    likelihood, codes = Codes(7), drawn(3, 2, 4, 5)
    params = torch.randn(3, 14, 4, 5, dtype=torch.float64).contiguous(memory_format=memory)
    logs = params.unflatten(1, (2, 7)).log_softmax(2)
    expected = -logs.gather(2, codes[:, :, None]).sum((1, 2, 3, 4))
    torch.testing.assert_close(likelihood.nll_nats(params, codes), expected)
    torch.testing.assert_close(likelihood.objective(params, codes), expected)
    assert torch.equal(likelihood.mean(params), logs.argmax(2)) and likelihood.params_per_value == 7


def test_the_masses_of_all_grids_sum_to_one():
    likelihood, params = Codes(3).double(), torch.randn(1, 3, 1, 2, dtype=torch.float64)
    grids = torch.cartesian_prod(torch.arange(3), torch.arange(3)).reshape(9, 1, 1, 2)
    assert (-likelihood.nll_nats(params.expand(9, -1, -1, -1), grids)).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_an_encoder_reads_codes_as_they_are_and_refuses_pixels():
    likelihood, codes = Codes(300), drawn(2, 1, 3, 3, num_codes=300)
    assert torch.equal(likelihood.to_network(codes), codes)
    assert torch.equal(likelihood.from_levels(likelihood.levels(codes)), codes)
    with pytest.raises(ValueError, match="expected codes of type torch.int64, found torch.uint8"):
        likelihood.to_network(codes.byte())
    with pytest.raises(ValueError, match="num_codes: expected 2 or more, found 1"):
        Codes(1)


@pytest.mark.parametrize(("grid", "encoded"), [((21, 21), (6, 6)), ((4, 7), (1, 2))])
@pytest.mark.parametrize("books", [1, 3])
def test_any_grid_of_codes_passes(grid, encoded, books):
    encoder = CodeEncoder(ImageEncoder(5, 6, **SMALL), num_codes=7, in_channels=books, channels=5)
    z = encoder(drawn(2, books, *grid))
    assert z.shape == (2, 6, *encoded)
    whole = ImageDecoder(4, 6, **SMALL)
    assert torch.equal(CroppedDecoder(whole, list(grid))(z), whole(z)[:, :, : grid[0], : grid[1]])
    with pytest.raises(ValueError, match="expected a decoder to .* or more, found"):
        CroppedDecoder(whole, [grid[0] + 4, grid[1]])(z)


def test_every_code_of_every_codebook_is_read_by_its_own_table():
    encoder = CodeEncoder(ImageEncoder(5, 6, **SMALL), num_codes=7, in_channels=2, channels=5)
    codes = drawn(1, 2, 5, 6)
    before = encoder(codes)
    for book in (0, 1):
        for row, column in ((0, 0), (4, 5), (2, 3)):
            changed = codes.clone()
            changed[0, book, row, column] = (changed[0, book, row, column] + 1) % 7
            assert not torch.equal(encoder(changed), before)
    assert not torch.equal(encoder(codes.flip(1)), before)


def test_embedded_codes_have_unit_variance():
    encoder = CodeEncoder(torch.nn.Identity(), num_codes=512, in_channels=4, channels=64)
    encoder.encoder.stride = 1
    variance = encoder(drawn(8, 4, 16, 16, num_codes=512)).var().item()
    # tables of 32,768 weights: their variance deviates by about sqrt(2 / 32,768) = 0.8 % of itself; 10 % is 12 of them
    assert math.isclose(variance, 1, rel_tol=0.1)
