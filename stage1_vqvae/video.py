"""Encoder and decoder of video (b c t h w): networks of images with convolutions over time, or applied to each frame.

The paper (arXiv 1711.00937, section 4.4) encodes video without saying how; the layers here are those of `image.py` in
three dimensions. Encoder and decoder are causal in time: a frame's output depends on it and earlier frames, so
the codes and the reconstructions of the first frames of a video do not depend on what follows.

Each of the s = `num_downsamplings` halves height and width; the innermost also divides time by `temporal_stride`:
(b, 3, 16, 84, 84), s = 2, temporal_stride = 2 -> (b, dim, 8, 21, 21).
Axes: b batch, c channels, t frames, h rows, w columns.
"""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stage1_vqvae.image import ResidualBlock, initialise, units_of_halvings
from stage1_vqvae.transposed import ConvTranspose3d


class CausalConv3d(nn.Conv3d):
    """Divides each axis by its stride s. An output frame sees its own s input frames and earlier ones."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: tuple[int, int, int], stride: tuple[int, int, int]
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding=_padding(kernel_size, stride))
        self.before = kernel_size[0] - stride[0]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 0, 0, 0, self.before, 0)))


class CausalConvTranspose3d(ConvTranspose3d):
    """Multiplies each axis by its stride s. An input frame reaches its own s output frames and later ones."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: tuple[int, int, int], stride: tuple[int, int, int]
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding=_padding(kernel_size, stride))

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[:, :, : x.shape[2] * self.stride[0]]


def _padding(kernel_size: tuple[int, int, int], stride: tuple[int, int, int]) -> tuple[int, int, int]:
    """None in time, which `forward` pads on one side; height and width equally on both sides."""
    return 0, (kernel_size[1] - stride[1]) // 2, (kernel_size[2] - stride[2]) // 2


def _convolution(in_channels: int, out_channels: int, size: int) -> CausalConv3d:
    return CausalConv3d(in_channels, out_channels, (size, size, size), (1, 1, 1))


def _residual_stack(channels: int, hidden: int, num_blocks: int) -> nn.Sequential:
    blocks = (
        ResidualBlock(_convolution(channels, hidden, 3), _convolution(hidden, channels, 1)) for _ in range(num_blocks)
    )
    return nn.Sequential(*blocks, nn.ReLU(inplace=num_blocks > 0))  # without blocks its input is a ReLU's output


def _strides(num_downsamplings: int, temporal_stride: int) -> list[tuple[int, int, int]]:
    """Of the encoder's convolutions, outermost first. The window is twice the stride in every axis."""
    if temporal_stride not in (1, 2):
        raise ValueError(f"temporal_stride: expected 1 or 2, found {temporal_stride}")
    return [(1, 2, 2)] * (num_downsamplings - 1) + [(temporal_stride, 2, 2)]


def _window(stride: tuple[int, int, int]) -> tuple[int, int, int]:
    return 2 * stride[0], 2 * stride[1], 2 * stride[2]


class VideoEncoder(nn.Module):
    """(b, in_channels, t, h, w) in network units -> (b, dim, t / temporal_stride, h / 2^s, w / 2^s).

    ValueError where these do not divide.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        *,
        hidden: int,
        outer_hidden: int,
        residual_hidden: int,
        num_residual_blocks: int,
        num_downsamplings: int,
        temporal_stride: int,
        initial_scale: float,
    ):
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        widths = units_of_halvings(num_downsamplings, hidden, outer_hidden)
        for units, stride in zip(widths, _strides(num_downsamplings, temporal_stride), strict=True):
            layers += [CausalConv3d(channels, units, _window(stride), stride), nn.ReLU(inplace=True)]
            channels = units
        self.layers = nn.Sequential(
            *layers, _residual_stack(hidden, residual_hidden, num_residual_blocks), _convolution(hidden, dim, 1)
        )
        self.stride, self.temporal_stride = 2**num_downsamplings, temporal_stride
        initialise(self, 1.0, initial_scale)

    def forward(self, x: Tensor) -> Tensor:
        _check_axes(x)
        frames, height, width = x.shape[2:]
        if height % self.stride or width % self.stride or frames % self.temporal_stride:
            raise ValueError(
                f"expected height and width divisible by {self.stride} and frames by {self.temporal_stride}, "
                f"found {frames} frames of {height}x{width}"
            )
        return self.layers(x)


class VideoDecoder(nn.Module):
    """(b, dim, t / temporal_stride, h / 2^s, w / 2^s) -> (b, out_channels, t, h, w): the encoder mirrored.

    The first convolution is 3x3x3.
    """

    def __init__(
        self,
        out_channels: int,
        dim: int,
        *,
        hidden: int,
        outer_hidden: int,
        residual_hidden: int,
        num_residual_blocks: int,
        num_downsamplings: int,
        temporal_stride: int,
        initial_scale: float,
    ):
        super().__init__()
        layers: list[nn.Module] = [
            _convolution(dim, hidden, 3), _residual_stack(hidden, residual_hidden, num_residual_blocks)
        ]
        channels = hidden
        widths = [out_channels, *units_of_halvings(num_downsamplings, hidden, outer_hidden)[:-1]]
        strides = _strides(num_downsamplings, temporal_stride)
        for units, stride in zip(reversed(widths), reversed(strides), strict=True):
            layers += [CausalConvTranspose3d(channels, units, _window(stride), stride), nn.ReLU(inplace=True)]
            channels = units
        self.layers = nn.Sequential(*layers[:-1])  # without the last ReLU
        initialise(self, 0.3, initial_scale)  # as for images: grey at first

    def forward(self, z_q: Tensor) -> Tensor:
        _check_axes(z_q)
        return self.layers(z_q)


class PerFrame(nn.Module):
    """A network of images, (b, c, h, w) -> (b, d, h', w'), per frame: (b, c, t, h, w) -> (b, d, t, h', w')."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        _check_axes(x)
        frames = self.network(rearrange(x, "b c t h w -> (b t) c h w"))
        return rearrange(frames, "(b t) c h w -> b c t h w", t=x.shape[2])


def _check_axes(x: Tensor) -> None:
    if x.ndim != 5:
        raise ValueError(f"expected video (b, c, t, h, w), found shape {tuple(x.shape)}")
