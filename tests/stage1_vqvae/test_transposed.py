"""The layers of stage1_vqvae/transposed.py are PyTorch's, with another way to the bias's gradient."""

import pytest
import torch
from torch import Tensor, nn

from stage1_vqvae.transposed import ConvTranspose2d, ConvTranspose3d

LAYERS = [
    (ConvTranspose2d, nn.ConvTranspose2d, (4, 2, 1), (3, 8, 5, 6)),
    (ConvTranspose3d, nn.ConvTranspose3d, ((2, 4, 4), (1, 2, 2), (0, 1, 1)), (3, 8, 2, 5, 6)),
]


def layers(kind, plain, sizes, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    """Two layers of the same weights."""
    torch.manual_seed(0)
    own, expected = kind(8, 5, *sizes).to(dtype), plain(8, 5, *sizes).to(dtype)
    expected.load_state_dict(own.state_dict())
    return own, expected


def results(layer: nn.Module, x: Tensor, precision: torch.dtype) -> list[Tensor]:
    """The output after a ReLU in place, and the gradients of input and parameters."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        y = nn.ReLU(inplace=True)(layer(x))
    y.float().square().sum().backward()
    return [y.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]


@pytest.mark.parametrize(("kind", "plain", "sizes", "shape"), LAYERS)
def test_the_gradients_are_those_of_finite_differences(kind, plain, sizes, shape):
    own, _ = layers(kind, plain, sizes, torch.float64)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: own(x), (x[:1, :, :3, :3], *own.parameters()))


@pytest.mark.parametrize(("kind", "plain", "sizes", "shape"), LAYERS)
def test_outputs_and_gradients_of_bfloat16_are_the_bits_of_pytorchs_own_layers(kind, plain, sizes, shape):
    found, expected = (results(layer, torch.randn(shape, generator=torch.Generator().manual_seed(1)), torch.bfloat16)
                       for layer in layers(kind, plain, sizes))
    for own, other in zip(found, expected, strict=True):
        assert own.dtype == other.dtype
        torch.testing.assert_close(own, other, rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "plain", "sizes", "shape"), LAYERS)
def test_outputs_of_float32_are_the_bits_and_gradients_equal_up_to_rounding(kind, plain, sizes, shape):
    found, expected = (results(layer, torch.randn(shape, generator=torch.Generator().manual_seed(1)), torch.float32)
                       for layer in layers(kind, plain, sizes))
    for own, other in zip(found[:-1], expected[:-1], strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=0)
    torch.testing.assert_close(found[-1], expected[-1])


def test_a_bias_that_is_frozen_stays_without_a_gradient():
    own, _ = layers(*LAYERS[0][:3])
    own.bias.requires_grad_(False)
    own(torch.randn(LAYERS[0][3])).sum().backward()
    assert own.bias.grad is None and own.weight.grad is not None
