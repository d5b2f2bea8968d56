"""The image networks: their published layers, shapes on any grid, and independence of batchmates."""

import pytest
import torch
from torch import nn

from stage1_vqvae.image import ImageDecoder, ImageEncoder

PAPER = {
    "hidden": 256,
    "outer_hidden": 256,
    "residual_hidden": 256,
    "num_residual_blocks": 2,
    "num_downsamplings": 2,
    "mixing_convolution": False,
}
COMPACT = PAPER | {"hidden": 128, "outer_hidden": 64, "residual_hidden": 32, "mixing_convolution": True}
SMALL = COMPACT | {"hidden": 8, "outer_hidden": 4, "residual_hidden": 2}


def layers(module):
    """(in, out, kernel, stride) of each convolution, in order of use; a transposed one's stride is negative."""
    return [
        (m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0] * (-1 if m.transposed else 1))
        for m in module.modules()
        if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))
    ]


def test_paper_network():
    residual = [(256, 256, 3, 1), (256, 256, 1, 1)] * 2
    encoder, decoder = ImageEncoder(3, 64, **PAPER), ImageDecoder(3, 64, **PAPER)
    assert layers(encoder) == [(3, 256, 4, 2), (256, 256, 4, 2), *residual, (256, 64, 1, 1)]
    assert layers(decoder) == [(64, 256, 1, 1), *residual, (256, 256, 4, -2), (256, 3, 4, -2)]


def test_compact_network_is_sonnets():
    residual = [(128, 32, 3, 1), (32, 128, 1, 1)] * 2
    encoder, decoder = ImageEncoder(3, 64, **COMPACT), ImageDecoder(3, 64, **COMPACT)
    assert layers(encoder) == [(3, 64, 4, 2), (64, 128, 4, 2), (128, 128, 3, 1), *residual, (128, 64, 1, 1)]
    assert layers(decoder) == [(64, 128, 3, 1), *residual, (128, 64, 4, -2), (64, 3, 4, -2)]


@pytest.mark.parametrize("num_downsamplings", [1, 2, 3])
@pytest.mark.parametrize("mixing_convolution", [False, True])
def test_each_downsampling_halves(num_downsamplings, mixing_convolution):
    arguments = SMALL | {"num_downsamplings": num_downsamplings, "mixing_convolution": mixing_convolution}
    x = torch.randn(2, 3, 16, 24)
    z = ImageEncoder(3, 5, **arguments)(x)
    assert z.shape == (2, 5, 16 >> num_downsamplings, 24 >> num_downsamplings)
    assert ImageDecoder(7, 5, **arguments)(z).shape == (2, 7, 16, 24)


@pytest.mark.parametrize("num_downsamplings, units", [(1, [8]), (2, [4, 8]), (3, [4, 8, 8])])
def test_units_of_the_strided_convolutions(num_downsamplings, units):
    arguments = SMALL | {"num_downsamplings": num_downsamplings}
    assert [out for _, out, _, stride in layers(ImageEncoder(3, 5, **arguments)) if stride == 2] == units
    assert [into for into, _, _, stride in layers(ImageDecoder(3, 5, **arguments)) if stride == -2] == units[::-1]


def test_residual_stack_by_hand():
    stack = ImageEncoder(3, 5, **SMALL).layers[-2]
    block = stack[0]
    x = torch.randn(2, 8, 4, 6)
    before = x.clone()
    first, second = block.branch[1], block.branch[3]
    nn.init.normal_(second.weight)  # whatever a block starts at
    expected = x + nn.functional.conv2d(first(x.relu()).relu(), second.weight, second.bias)
    assert torch.equal(block(x), expected) and torch.equal(x, before)
    assert torch.equal(stack(x), stack[1](block(x)).relu())


def test_an_image_does_not_depend_on_its_batchmates():
    torch.manual_seed(0)
    encoder, decoder = ImageEncoder(3, 5, **SMALL).double(), ImageDecoder(3, 5, **SMALL).double()
    x = torch.randn(4, 3, 8, 12, dtype=torch.float64, requires_grad=True)
    y = decoder(encoder(x))
    torch.testing.assert_close(decoder(encoder(x[2:3]))[0], y[2], rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(y[2].sum(), x)
    assert gradient[2].any() and not gradient[[0, 1, 3]].any()


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="expected height and width divisible by 4, found 12x10"):
        ImageEncoder(3, 5, **SMALL)(torch.zeros(1, 3, 12, 10))
    with pytest.raises(ValueError, match="expected at least one downsampling, found num_downsamplings=0"):
        ImageDecoder(3, 5, **SMALL | {"num_downsamplings": 0})
