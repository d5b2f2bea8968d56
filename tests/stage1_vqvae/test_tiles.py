"""Data of any size: networks say what they look at, and tiles and chunks give what one pass gives."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stage1_vqvae.audio import CepstralEncoder, SoundEncoder, SoundUpsampler
from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.autoregressive import AutoregressiveDecoder
from stage1_vqvae.bottlenecks.vq import EMAQuantizer
from stage1_vqvae.image import ImageDecoder, ImageEncoder
from stage1_vqvae.likelihoods.gaussian import Gaussian
from stage1_vqvae.likelihoods.mu_law import MuLaw
from stage1_vqvae.receptive_field import Field, NotLocal, receptive_field
from stage1_vqvae.tiles import Tiled, filled_up, tile_size
from stage2_prior.sampling import sample
from stage2_prior.wavenet import WaveNet

CODES = 40


def awake(network: nn.Module) -> nn.Module:
    """With residual branches that start at zero filled, in float64."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return network.double().eval()


class Network(nn.Module):
    """A function of its input, with a 3x1 convolution in front."""

    def __init__(self, function):
        super().__init__()
        self.first, self.function = nn.Conv1d(2, 2, 3, padding=1), function

    def forward(self, x):
        return self.function(self.first(x))


@pytest.mark.parametrize(("network", "expected"), [
    (nn.Conv1d(2, 2, 1), Field(0, 0)), (nn.Conv1d(2, 2, 5, padding=2, dilation=1), Field(2, 2)),
    (nn.Conv1d(2, 2, 3, padding=7, dilation=7), Field(7, 7)),
    (nn.Sequential(nn.ConstantPad1d((4, 0), 0), nn.Conv1d(2, 2, 5)), Field(4, 0)),  # causal
    (nn.Sequential(nn.Conv1d(2, 2, 3, padding=1), nn.ReLU(), nn.Conv1d(2, 2, 3, padding=1)), Field(2, 2)),
    (Network(lambda x: F.interpolate(F.avg_pool1d(x, 2), scale_factor=2)), Field(2, 2, 2)),  # in pairs
    (Network(lambda x: x + (torch.arange(x.shape[-1]) % 5)), Field(1, 1, 5)),  # counts positions
])
def test_a_field_is_as_large_as_the_layers_say(network, expected):
    (field,) = receptive_field(network, 2, [1], [1])
    assert field == expected


def test_strides_and_residual_blocks_count_in_codes():
    """Whatever the weights: those of new residual branches are zero."""
    encoder = SoundEncoder(1, 4, hidden=8, strides=(2, 2, 3), num_residual_blocks=2)
    assert receptive_field(encoder, 1, [12], [1]) == (Field(3, 3),)  # two blocks, and half a window of each stride
    cepstral = CepstralEncoder(4, hidden=8, hop_length=16, window_length=64, sample_rate_hz=8000, num_bands=10,
                               num_coefficients=6, num_residual_blocks=2)
    assert receptive_field(cepstral, 1, [16], [1]) == (Field(5, 5),)  # a window's 1.5 hops, the input, two blocks
    image = ImageEncoder(3, 4, hidden=8, outer_hidden=8, residual_hidden=4, num_residual_blocks=2, num_downsamplings=2,
                         mixing_convolution=True)
    assert receptive_field(image, 3, [4, 4], [1, 1]) == (Field(4, 4), Field(4, 4))


@pytest.mark.parametrize(("function", "reason"), [
    (lambda x: x - x.mean(-1, keepdim=True), "depends on all of its input"),
    (lambda x: F.group_norm(x, 1), "depends on all of its input"),
    (lambda x: F.scaled_dot_product_attention(x.mT, x.mT, x.mT).mT, "depends on all of its input"),
    (lambda x: x + torch.linspace(0, 1, x.shape[-1]), "on where it is"),
    (lambda x: x + torch.ones(1, 1, 16), "takes no input of 32"),
    (lambda x: x[..., ::2], "it makes 8 of 16, not 16"),
])
def test_networks_that_look_at_everything_are_refused(function, reason):
    with pytest.raises(NotLocal, match=reason):
        receptive_field(Network(function), 2, [1], [1])


def images() -> Autoencoder:
    torch.manual_seed(0)
    settings = {"hidden": 8, "outer_hidden": 6, "residual_hidden": 4, "num_residual_blocks": 1, "num_downsamplings": 2,
                "mixing_convolution": True}
    return awake(Autoencoder(ImageEncoder(1, 4, **settings), EMAQuantizer(16, 4), ImageDecoder(1, 4, **settings),
                             Gaussian(sigma="training_mse", variance=4000.0)))


def pixels(*size: int) -> torch.Tensor:
    return torch.randint(0, 256, (1, 1, *size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_tiles_of_images_give_what_one_pass_gives():
    model, x = images(), pixels(77, 130)
    whole, tiled = Tiled(model, (1, 16, 16)), Tiled(model, (1, 16, 16), at_once=900)
    codes = tiled.encode(x)
    assert codes.shape == (1, 20, 33) and torch.equal(codes, whole.encode(x)) and len(codes.unique()) > 4
    assert torch.equal(codes, model.encode(filled_up(x, (4, 4))))
    torch.testing.assert_close(tiled.embed(x), whole.embed(x), rtol=1e-10, atol=1e-10)
    made = tiled.decode(codes, size=(77, 130))
    assert made.shape == x.shape and torch.equal(made, whole.decode(codes)[..., :77, :130])
    torch.testing.assert_close(tiled.decode_latents(tiled.latents(x), size=(77, 130)), made)
    less = Tiled(model, (1, 16, 16), at_once=900)
    less.encoder = tuple(Field(own.before - 1, own.after - 1) for own in tiled.encoder)
    assert not torch.allclose(less.embed(x), whole.embed(x)), "less context is not enough"


def test_no_tile_is_larger_than_asked_for():
    model, largest = images(), []
    tiled = Tiled(model, (1, 16, 16), at_once=900)
    reach = 2 * 4 * tiled.encoder[0].before
    model.encoder.register_forward_pre_hook(lambda network, inputs: largest.append(max(inputs[0].shape[2:])))
    tiled.encode(pixels(200, 60))
    assert max(largest) <= 900 // 28 + reach, "28 x 32 pixels, and what they depend on"
    assert tile_size([1000, 10], [4, 4], 3600) == [22, 10] and tile_size([50], [64], 100) == [1]


def test_what_divides_stays_and_what_does_not_repeats_its_border():
    x = pixels(6, 8)
    assert filled_up(x, (3, 4)) is x
    more = filled_up(x, (4, 3))
    assert more.shape == (1, 1, 8, 9) and torch.equal(more[..., :6, :8], x)
    assert torch.equal(more[..., 6:, :8], x[..., -1:, :].expand(-1, -1, 2, -1)) and more[0, 0, 7, 8] == x[0, 0, 5, 7]


def sounds(decoder=None) -> Autoencoder:
    encoder = SoundEncoder(1, 4, hidden=8, strides=(2, 2, 3), num_residual_blocks=2)
    return awake(Autoencoder(encoder, EMAQuantizer(16, 4), decoder or upsampler(256), MuLaw()))


def upsampler(channels: int) -> SoundUpsampler:
    return SoundUpsampler(4, channels, hidden=8, channels=5, factors=(3, 4), num_residual_blocks=2)


@pytest.mark.parametrize("at_once", [12, 84, 12 * CODES, 12000])
def test_chunks_of_audio_give_what_one_pass_gives(at_once):
    model, x = sounds(), torch.rand(2, 1, 12 * CODES, dtype=torch.float64) * 2 - 1
    tiled, codes = Tiled(model, (1, 24), at_once), model.encode(x)
    assert torch.equal(tiled.encode(x), codes) and len(codes.unique()) > 3
    parts = list(tiled.chunks(codes, None, 12 * CODES - 5, lambda count: None))
    torch.testing.assert_close(torch.cat(parts, -1), model.decode(codes)[..., :-5], rtol=1e-12, atol=1e-12)
    assert max(part.shape[-1] for part in parts) <= max(at_once, 12)


@pytest.mark.parametrize(("drawn", "looks_at_all"), [(12, False), (60, False), (12 * CODES, False), (60, True)])
def test_a_wavenet_goes_on_from_chunk_to_chunk_as_in_one_pass(drawn, looks_at_all, monkeypatch):
    wavenet = WaveNet(256, residual_channels=4, gate_channels=8, skip_channels=8, num_layers=4, dilation_cycle=4,
                      local_channels=6)
    model = sounds(AutoregressiveDecoder(upsampler(6), wavenet, partial(sample, temperature=1.0)))
    assert wavenet.receptive_field > 12, "longer than a chunk"
    if looks_at_all:
        monkeypatch.setattr(WaveNet, "receptive_field", None)
    codes = torch.randint(0, 16, (2, CODES), generator=torch.Generator().manual_seed(0))
    uniforms = torch.rand(2, 12 * CODES - 5, dtype=torch.float64)
    numbers = iter(uniforms.unbind(1))
    tiled = Tiled(model, (1, 24), drawn=drawn)
    parts = list(tiled.chunks(codes, None, uniforms.shape[1],
                              lambda count: torch.stack([next(numbers) for _ in range(count)], 1)))
    assert torch.equal(torch.cat(parts, -1), model.decode(codes, None, uniforms)) and (
        len(parts) == (1 if looks_at_all else -(-475 // drawn)))
