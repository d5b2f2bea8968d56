"""The video networks: shapes on any grid, causality in time, how they start, and images' networks frame by frame."""

import pytest
import torch
from torch import nn

from stage1_vqvae.image import ImageDecoder, ImageEncoder
from stage1_vqvae.video import PerFrame, VideoDecoder, VideoEncoder

SMALL = {
    "hidden": 8,
    "outer_hidden": 4,
    "residual_hidden": 6,
    "num_residual_blocks": 2,
    "num_downsamplings": 2,
    "temporal_stride": 1,
    "initial_scale": 1.0,
}
IMAGE = {name: value for name, value in SMALL.items() if name != "temporal_stride"} | {"mixing_convolution": True}


def layers(module):
    """(in, out, kernel, stride) of each convolution, in order of use; a transposed one's stride is negative."""
    return [
        (m.in_channels, m.out_channels, m.kernel_size, tuple(s * (-1 if m.transposed else 1) for s in m.stride))
        for m in module.modules()
        if isinstance(m, (nn.Conv3d, nn.ConvTranspose3d))
    ]


def test_layers():
    residual = [(8, 6, (3, 3, 3), (1, 1, 1)), (6, 8, (1, 1, 1), (1, 1, 1))] * 2
    arguments = SMALL | {"temporal_stride": 2, "num_downsamplings": 3}
    assert layers(VideoEncoder(3, 5, **arguments)) == [
        (3, 4, (2, 4, 4), (1, 2, 2)),
        (4, 8, (2, 4, 4), (1, 2, 2)),
        (8, 8, (4, 4, 4), (2, 2, 2)),
        *residual,
        (8, 5, (1, 1, 1), (1, 1, 1)),
    ]
    assert layers(VideoDecoder(3, 5, **arguments)) == [
        (5, 8, (3, 3, 3), (1, 1, 1)),
        *residual,
        (8, 8, (4, 4, 4), (-2, -2, -2)),
        (8, 4, (2, 4, 4), (-1, -2, -2)),
        (4, 3, (2, 4, 4), (-1, -2, -2)),
    ]


@pytest.mark.parametrize("num_downsamplings", [1, 2])
@pytest.mark.parametrize("temporal_stride", [1, 2])
@pytest.mark.parametrize("frames", [2, 6])
def test_shapes(num_downsamplings, temporal_stride, frames):
    arguments = SMALL | {"num_downsamplings": num_downsamplings, "temporal_stride": temporal_stride}
    x = torch.randn(2, 3, frames, 8, 12)
    z = VideoEncoder(3, 5, **arguments)(x)
    assert z.shape == (2, 5, frames // temporal_stride, 8 >> num_downsamplings, 12 >> num_downsamplings)
    assert VideoDecoder(7, 5, **arguments)(z).shape == (2, 7, frames, 8, 12)


def reached(output, x):
    """Which frames of x (1, c, t, h, w) have a gradient of each frame of output (1, c, t', h', w')."""
    gradients = [torch.autograd.grad(frame.square().sum(), x, retain_graph=True)[0] for frame in output.unbind(2)]
    return torch.stack([gradient[0].abs().amax((0, 2, 3)) > 0 for gradient in gradients])


def with_open_branches(network):
    """Residual branches start at zero: as if trained, they take part."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.double()


@pytest.mark.parametrize("temporal_stride", [1, 2])
def test_a_frame_sees_itself_and_earlier_frames_only(temporal_stride):
    arguments = SMALL | {"temporal_stride": temporal_stride, "num_residual_blocks": 3}
    x = torch.randn(1, 3, 6, 8, 12, dtype=torch.float64, requires_grad=True)
    output = with_open_branches(VideoEncoder(3, 5, **arguments))(x)
    # three blocks of 3 frames alone reach 3 * 2 frames of codes back: all of a clip this short
    codes = torch.arange(6 // temporal_stride)[:, None]
    assert torch.equal(reached(output, x), torch.arange(6) < (codes + 1) * temporal_stride)
    z = torch.randn(1, 5, 6 // temporal_stride, 2, 3, dtype=torch.float64, requires_grad=True)
    output = with_open_branches(VideoDecoder(3, 5, **arguments))(z)
    assert torch.equal(reached(output, z), torch.arange(6)[:, None] >= codes.T * temporal_stride)


@pytest.mark.parametrize("temporal_stride", [1, 2])
def test_the_beginning_of_a_video_stays_what_it_is_whatever_follows(temporal_stride):
    arguments = SMALL | {"temporal_stride": temporal_stride}
    encoder, decoder = (with_open_branches(network(3, 5, **arguments)) for network in (VideoEncoder, VideoDecoder))
    x = torch.randn(2, 3, 8, 8, 12, dtype=torch.float64)
    z = encoder(x)
    context = z[:, :, : 6 // temporal_stride]
    torch.testing.assert_close(encoder(x[:, :, :6]), context, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(decoder(context), decoder(z)[:, :, :6], rtol=1e-12, atol=1e-12)


def test_every_pixel_of_a_frame_is_read_and_written():
    arguments = SMALL | {"temporal_stride": 2}
    x = torch.randn(1, 3, 4, 8, 12, dtype=torch.float64, requires_grad=True)
    y = with_open_branches(VideoDecoder(3, 5, **arguments))(with_open_branches(VideoEncoder(3, 5, **arguments))(x))
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert gradient.all() and y.std(dim=(0, 1, 2)).min() > 0


def test_weights_start_as_the_images_networks_do():
    """He et al.: a sum that a ReLU reads has a second moment of 2; what comes out has the images' networks'."""
    torch.manual_seed(0)
    arguments = SMALL | {"hidden": 128, "outer_hidden": 128, "num_residual_blocks": 1, "temporal_stride": 2}
    encoder, decoder = VideoEncoder(3, 128, **arguments), VideoDecoder(128, 128, **arguments)
    before = []
    for network in (encoder, decoder):
        for module in network.layers:
            if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
                module.register_forward_hook(lambda m, i, o: before.append(o[:, :, 3:, 2:-2, 2:-2].square().mean()))
    z = encoder(torch.randn(2, 3, 10, 24, 28))
    assert not any(block.branch[-1].weight.any() for block in (encoder.layers[-2][0], decoder.layers[1][0]))
    decoder(torch.randn_like(z))
    expected = torch.tensor([2.0, 2.0, 1.0, 2.0, 2.0, 0.3**2])
    # After a ReLU the mean dominates: at worst a channel's moment is a chi-squared of one degree, and the mean of 128
    # has a deviation of sqrt(2 / 128) = 12 %. A stride that is forgotten among the taps makes a factor of 2 or more.
    torch.testing.assert_close(torch.stack(before), expected, rtol=0.45, atol=0)
    half = VideoEncoder(3, 128, **arguments | {"initial_scale": 0.5})
    for i, ratio in ((0, 0.5), (-1, 1.0)):
        assert (half.layers[i].weight.std() / encoder.layers[i].weight.std()).item() == pytest.approx(ratio, rel=0.1)


def test_per_frame_is_the_network_of_images_on_each_frame():
    torch.manual_seed(0)
    encoder, decoder = ImageEncoder(3, 5, **IMAGE).double(), ImageDecoder(7, 5, **IMAGE).double()
    x = torch.randn(2, 3, 4, 8, 12, dtype=torch.float64)
    z = PerFrame(encoder)(x)
    y = PerFrame(decoder)(z)
    assert z.shape == (2, 5, 4, 2, 3) and y.shape == (2, 7, 4, 8, 12)
    for t in range(4):
        torch.testing.assert_close(z[:, :, t], encoder(x[:, :, t]), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(y[:, :, t], decoder(z[:, :, t]), rtol=1e-12, atol=1e-12)


def test_a_video_does_not_depend_on_its_batchmates():
    encoder = with_open_branches(VideoEncoder(3, 5, **SMALL))
    x = torch.randn(3, 3, 4, 8, 12, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(encoder(x)[1].square().sum(), x)
    assert gradient[1].any() and not gradient[[0, 2]].any()


def test_what_cannot_be_is_refused():
    arguments = SMALL | {"temporal_stride": 2}
    message = "expected height and width divisible by 4 and frames by 2, found 3 frames of 12x8$"
    with pytest.raises(ValueError, match=message):
        VideoEncoder(3, 5, **arguments)(torch.zeros(1, 3, 3, 12, 8))
    with pytest.raises(ValueError, match="found 4 frames of 12x10$"):
        VideoEncoder(3, 5, **arguments)(torch.zeros(1, 3, 4, 12, 10))
    with pytest.raises(ValueError, match="expected height and width divisible by 4, found 12x10$"):
        PerFrame(ImageEncoder(3, 5, **IMAGE))(torch.zeros(1, 3, 4, 12, 10))
    for network in (VideoEncoder(3, 5, **SMALL), VideoDecoder(3, 3, **SMALL), PerFrame(ImageEncoder(3, 5, **IMAGE))):
        with pytest.raises(ValueError, match=r"expected video \(b, c, t, h, w\), found shape \(1, 3, 12, 8\)$"):
            network(torch.zeros(1, 3, 12, 8))
    with pytest.raises(ValueError, match="temporal_stride: expected 1 or 2, found 3"):
        VideoDecoder(3, 5, **SMALL | {"temporal_stride": 3})
    with pytest.raises(ValueError, match="expected at least one downsampling, found num_downsamplings=0"):
        VideoEncoder(3, 5, **SMALL | {"num_downsamplings": 0})
