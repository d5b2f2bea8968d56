"""The decoder that makes a whole wave: sizes, what a sample depends on, sources that come from no clip, chunks."""

import pytest
import torch
from torch import nn

from stage1_vqvae.audio import SoundEncoder, SpectralGuide
from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.bottlenecks.vq import EMAQuantizer
from stage1_vqvae.likelihoods.mu_law_wave import MuLawWave
from stage1_vqvae.receptive_field import receptive_field
from stage1_vqvae.tiles import Tiled
from stage1_vqvae.wave_decoder import WaveDecoder, noise_and_tones

FACTOR, CODES = 12, 40


def decoder(num_classes=(), **changes) -> WaveDecoder:
    """With residual branches that start at zero filled, in float64."""
    torch.manual_seed(0)
    chosen = {"hidden": 8, "num_residual_blocks": 2, "factors": [3, 4], "channels": [6, 5], "dilations": [[1, 3], [2]],
              "source_stage": 0, "num_noises": 2, "num_tones": 3, "num_classes": num_classes}
    network = WaveDecoder(4, 2, **(chosen | changes))
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return network.double().eval()


def latents(number=1, count=CODES) -> torch.Tensor:
    return torch.randn(number, 4, count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("changes", [{}, {"factors": [12], "channels": [6], "dilations": [[]]},
                                     {"factors": [2, 2, 3], "channels": [6, 5, 4], "dilations": [[1], [], [9]],
                                      "source_stage": 2}])
def test_a_code_becomes_as_many_samples_as_the_factors_say_and_reaches_so_far(changes):
    network, z = decoder(**changes), latents()
    assert network(z).shape == (1, 2, CODES * FACTOR)
    at, moved = CODES // 2, z.clone()
    moved[..., at] += 1
    changed = (network(moved) != network(z))[0].any(0).view(CODES, FACTOR).any(1).nonzero().flatten() - at
    assert changed.min() < 0 < changed.max(), "codes before and after a sample shape it"
    (field,) = receptive_field(network, 4, [1], [FACTOR])
    assert max(0, -changed.min()) <= field.after and changed.max() <= field.before
    assert field.period == WaveDecoder.period, "noise and tones begin anew"


def test_batchmates_do_not_matter_and_labels_do():
    network, z = decoder(num_classes=(3,)), latents(3)
    labels = torch.tensor([[0], [2], [1]])
    whole = network(z, labels)
    torch.testing.assert_close(network(z[1:2], labels[1:2]), whole[1:2])
    assert not torch.allclose(network(z, labels.roll(1, 0)), whole)
    for wrong in (None, torch.zeros(3, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match="labels: expected 1 columns"):
            network(z, wrong)


def test_equal_codes_do_not_come_out_as_one_wave_repeated():
    z = latents(count=1).expand(-1, -1, 30)
    middle = decoder()(z)[0, 0].view(30, FACTOR)[8:-8]
    assert (middle - middle[0]).abs()[1:].amax(1).min() > 1e-3
    silent = decoder()
    silent.sources.zero_()
    middle = silent(z)[0, 0].view(30, FACTOR)[8:-8]
    assert (middle - middle[0]).abs().max() < 1e-12


def test_sources_have_unit_power_and_whole_periods():
    made = noise_and_tones(4096, 2, 5).double()
    assert made.shape == (12, 4096)
    torch.testing.assert_close(made[2:].square().mean(1), torch.ones(10, dtype=torch.float64), rtol=1e-4, atol=1e-4)
    assert made[:2].std(1).sub(1).abs().max() < 5 / 8192**0.5  # five standard errors
    spectra = torch.fft.rfft(made[2:]).abs()
    assert ((spectra > 1e-2 * spectra.amax(1, keepdim=True)).sum(1) == 1).all(), "one line each"
    assert torch.equal(noise_and_tones(4096, 2, 5), noise_and_tones(4096, 2, 5))


@pytest.mark.parametrize("codes_at_once", [7, 64, 100])
def test_long_recordings_are_decoded_in_chunks_as_in_one_piece(codes_at_once):
    """Longer than the period of the sources."""
    torch.manual_seed(0)
    encoder = SoundEncoder(1, 4, hidden=8, strides=(2, 2, 3), num_residual_blocks=1)
    likelihood = MuLawWave([16, 64], sample_rate_hz=8000, num_bands=6, nll_weight=0.1)
    model = Autoencoder(encoder, EMAQuantizer(16, 4), decoder(), likelihood).double()
    codes = torch.randint(16, (2, 150), generator=torch.Generator().manual_seed(0))
    whole = model.decode(codes)
    assert whole.shape == (2, 1, 150 * FACTOR) and whole.std() > 0.01
    tiled = Tiled(model, (1, FACTOR), at_once=codes_at_once * FACTOR)
    parts = list(tiled.chunks(codes, None, whole.shape[-1], lambda count: None))
    assert len(parts) > 1
    torch.testing.assert_close(torch.cat(parts, -1), whole)


@pytest.mark.parametrize("changes, words", [
    ({"channels": [6]}, "channels and dilations for each of 2 factors, found 1 and 2"),
    ({"source_stage": 2}, "source_stage: expected a stage from 0 to 1, found 2"),
    ({"factors": [0, 4]}, "strides"),
    ({"num_noises": 0, "num_tones": 0}, "num_noises: expected at least one noise or tone, found 0 and 0"),
])
def test_settings_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        decoder(**changes)


def test_the_objective_of_a_clip_is_its_spectral_loss_and_its_mass_without_padding():
    likelihood = MuLawWave([16, 64], sample_rate_hz=8000, num_bands=6, nll_weight=0.5).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 1, 96, generator=generator, dtype=torch.float64) - 0.5
    params = torch.randn(2, 2, 96, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([96, 40])
    found = likelihood.objective(params, x, lengths)
    expected = (0.5 * likelihood.nll_nats(params, x, lengths)
                + lengths * likelihood.spectral_loss(params[:, :1], x, lengths))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found[1:], likelihood.objective(params[1:, :, :40], x[1:, :, :40]))
    assert torch.equal(likelihood.mean(params), params[:, :1].clamp(-1, 1))
    with pytest.raises(ValueError, match="nll_weight: expected a number above 0, found 0"):
        MuLawWave([16], 8000, 6, 0)


def test_the_guide_teaches_the_features_and_counts_in_no_figure():
    torch.manual_seed(0)
    encoder = SoundEncoder(1, 4, hidden=8, strides=(2, 2, 3), num_residual_blocks=1)
    guide = SpectralGuide(8, hop_length=FACTOR, sample_rate_hz=8000, num_bands=3, weight=2.0)
    likelihood = MuLawWave([16, 64], sample_rate_hz=8000, num_bands=6, nll_weight=0.1)
    guided = Autoencoder(encoder, EMAQuantizer(16, 4, initialise_from_data=False), decoder(guide=guide), likelihood)
    guided = guided.double().eval()
    x = torch.rand(2, 1, 5 * FACTOR, dtype=torch.float64) - 0.5
    output = guided(x)
    features = guided.decoder.features(output.latent.z_q, None)
    assert features.shape == (2, 8, 5)
    expected = guide(features.repeat_interleave(FACTOR, -1), likelihood.levels(x))  # at either rate
    torch.testing.assert_close(output.auxiliary - output.latent.loss, expected.double())
    assert expected > 0
    output.auxiliary.backward()
    assert guide.out.weight.grad.any() and guided.encoder.out.weight.grad.any()
    assert all(weight.grad is None for weight in guided.decoder.out.parameters())
    guided.decoder.guide = None
    assert torch.equal(guided(x).objective, output.objective)
