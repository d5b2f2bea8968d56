"""configs/autoencoder/pixelcnn_decoder.yaml, made small: it trains, no pixel sees itself or a later one, it samples."""

import pytest
import torch

from pipelines.files.errors import InputError
from pipelines.runs.config import build, composed
from pipelines.runs.facts import complete
from pipelines.splits.base import Batch
from pipelines.training.autoencoder import AutoencoderTask, check_fit
from stage2_prior.rule import Rule
from stage2_prior.sampling import draw

HEIGHT, WIDTH = 8, 12
REACH = 7 // 2 + 1  # first_kernel_size // 2 + (num_layers - 1) * (kernel_size // 2)
SMALL = [
    "experiment=mnist", "autoencoder=pixelcnn_decoder", "autoencoder.bottleneck.num_codes=16",
    "autoencoder.bottleneck.dim=6", "autoencoder.bottleneck.initialise_from_data=false",
    "autoencoder.encoder.hidden=8", "autoencoder.encoder.outer_hidden=8", "autoencoder.encoder.residual_hidden=8",
    "autoencoder.decoder.upsampler.out_channels=8", "autoencoder.decoder.network.channels=16",
    "autoencoder.decoder.network.num_layers=2", "autoencoder.decoder.network.head_channels=32",
]


class Pixels:
    kind, label_names, classes, facts = "image", (), (), {}

    def __init__(self, channels=1):
        self.shape = (channels, HEIGHT, WIDTH)
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randint(0, 256, (2, *self.shape), generator=generator, dtype=torch.uint8)


def small_autoencoder(data):
    config = complete(composed(SMALL), data)
    torch.manual_seed(0)
    return build(config)


def test_it_trains_all_that_it_is_made_of():
    data = Pixels()
    model = small_autoencoder(data)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    bounds = []
    for step in range(20):
        output = model(data.x, step=step)
        optimizer.zero_grad()
        output.loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        model.bottleneck.after_step(optimizer)
        bounds.append(output.bound.mean().item())
    assert bounds[-1] < bounds[0] - 0.5  # nats a pixel, of log 256 = 5.5


def test_gradient_reaches_the_pixels_before_and_the_latents_and_nothing_else():
    data = Pixels()
    model = small_autoencoder(data).double()
    embedded = []
    model.decoder.network.embeddings[0].register_forward_hook(lambda module, inputs, output: embedded.append(output))
    z_q = torch.randn(1, 6, HEIGHT // 4, WIDTH // 4, dtype=torch.float64, requires_grad=True)
    logits = model.decoder.predict(z_q, None, data.x[:1].long()).params
    probe = torch.randn(256, dtype=torch.float64)
    rows, columns = torch.arange(HEIGHT)[:, None], torch.arange(WIDTH)
    for row, column in ((0, 0), (0, 5), (3, 0), (5, 7), (HEIGHT - 1, WIDTH - 1)):
        pixels, latents = torch.autograd.grad(probe @ logits[0, :, row, column], [embedded[0], z_q], retain_graph=True)
        near = ((rows - row).abs() <= REACH) & ((columns - column).abs() <= REACH)
        before = (rows < row) | ((rows == row) & (columns < column))
        assert torch.equal(pixels[0].abs().amax(-1) > 0, near & before), (row, column)
        assert (latents != 0).any()


def test_samples_are_draws_from_what_the_network_says_of_them():
    data = Pixels()
    model = small_autoencoder(data).double()
    uniforms = torch.rand(2, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    codes = model.encode(data.x)
    assert codes.shape == (2, HEIGHT // 4, WIDTH // 4)
    x = model.decode(codes, uniforms=uniforms)
    assert x.shape == data.x.shape and x.dtype == torch.uint8
    assert torch.equal(x, model.evaluate(data.x, uniforms=uniforms).reconstruction)
    with torch.no_grad():
        logits = model.eval().decoder.predict(model.bottleneck.lookup(codes), None, x.long()).params
    again = draw(logits.movedim(1, -1).flatten(0, -2), uniforms.flatten(), Rule())
    assert torch.equal(again.view(2, HEIGHT, WIDTH), x[:, 0].long())


def test_the_figure_is_the_probability_of_the_pixels_one_after_another():
    data = Pixels()
    model = small_autoencoder(data).double().eval()
    result = model.evaluate(data.x)
    assert result.reconstruction is None
    network = model.decoder.network
    log_p = network.log_prob(data.x[:, 0].long(), local=model.decoder.upsampler(result.latent.z_q))
    torch.testing.assert_close(result.nll_nats, -log_p)


def test_colours_are_refused_in_one_line():
    data = Pixels(channels=3)
    task = AutoencoderTask(small_autoencoder(data), columns=[], show=lambda *_: None)
    with pytest.raises(InputError, match="^autoencoder: expected one channel for an autoregressive decoder, found 3"):
        check_fit(task, Batch(data.x[:1], torch.zeros(1, 0, dtype=torch.int64)))
