"""Sound: sizes, which samples a code is made of, what labels change, the spectral guide, the autoregressive decoder."""

import math

import pytest
import torch
from torch import nn
from torchaudio.functional import create_dct

from stage1_vqvae.audio import CepstralEncoder, SoundEncoder, SoundUpsampler, SpectralGuide
from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.autoregressive import AutoregressiveDecoder
from stage1_vqvae.bottlenecks.vq import EMAQuantizer
from stage1_vqvae.likelihoods.mu_law import MuLaw
from stage1_vqvae.spectra import FLOOR, mel_bands


def encoder(strides=(2, 2, 2), blocks=1):
    torch.manual_seed(0)
    return SoundEncoder(1, 6, hidden=8, strides=strides, num_residual_blocks=blocks)


def upsampler(factors=(4, 2), num_classes=(), out_channels=5):
    torch.manual_seed(0)
    return SoundUpsampler(6, out_channels, hidden=8, channels=7, factors=factors, num_residual_blocks=2,
                          num_classes=num_classes)


class Cumulative(nn.Module):
    """The simplest causal network: logits of a symbol from the sum of those before it and the features."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(-1, 1, 256))

    def forward(self, levels, labels, local):
        before = nn.functional.pad(levels[:, :-1].to(self.scale.dtype), (1, 0)).cumsum(1) / 256
        return self.scale[:, None] * (before + local.sum(1))[:, None]


def draw_from(network, uniforms, labels, local, progress=None):
    levels = torch.zeros(uniforms.shape, dtype=torch.int64)
    for t in range(uniforms.shape[1]):
        cdf = network(levels, labels, local)[:, :, t].softmax(1).cumsum(1)
        levels[:, t] = (cdf < uniforms[:, t, None] * cdf[:, -1:]).sum(1)
    return levels


def autoencoder(num_classes=(3,), guide=None):
    torch.manual_seed(0)
    decoder = AutoregressiveDecoder(upsampler((4, 2), num_classes), Cumulative(), draw_from, guide)
    bottleneck = EMAQuantizer(num_codes=16, dim=6, initialise_from_data=False, revive_threshold=0.0)
    return Autoencoder(encoder(), bottleneck, decoder, MuLaw()).double()


@pytest.mark.parametrize("strides", [(2,), (2, 2, 2), (5, 3), (2, 2, 5), (1, 4)])
def test_sizes_down_and_up(strides):
    factor = math.prod(strides)
    z = encoder(strides)(torch.randn(2, 1, 6 * factor))
    assert z.shape == (2, 6, 6)
    assert upsampler(strides[::-1])(z).shape == (2, 5, 6 * factor)


def test_a_length_that_is_no_multiple_is_refused():
    with pytest.raises(ValueError, match="divisible by 8, found 20"):
        encoder()(torch.randn(1, 1, 20))
    with pytest.raises(ValueError, match="expected strides"):
        encoder(())


def test_a_code_is_made_of_the_samples_around_its_own():
    """Without blocks: stride 2, window 4, three times: 22 samples, evenly around the 8 that the code stands for."""
    network, x = encoder(blocks=0), torch.randn(1, 1, 80, requires_grad=True)
    network(x)[0, :, 5].sum().backward()
    seen = x.grad[0, 0].nonzero().flatten()
    assert seen.min() == 5 * 8 - 7 and seen.max() == 5 * 8 + 7 + 7


def cepstral(**changes):
    torch.manual_seed(0)
    given = dict(hidden=8, hop_length=16, window_length=64, sample_rate_hz=8000, num_bands=10, num_coefficients=6,
                 num_residual_blocks=1)
    return CepstralEncoder(5, **{**given, **changes}).double()


def test_cepstra_are_the_cosine_transform_of_the_log_bands_of_the_wave():
    """Against torch.stft and torchaudio's cosine transform, on the linear wave that the compressed one stands for."""
    network, wave = cepstral(), torch.rand(2, 1, 160, dtype=torch.float64) - 0.5
    spectrum = torch.stft(nn.functional.pad(wave[:, 0], (24, 24)), 64, 16, window=torch.hann_window(64).double(),
                          center=False, return_complex=True).mT / 16
    bands = (spectrum.abs().square() + FLOOR**2).sqrt() @ mel_bands(64, 8000, 10).double()
    expected = ((bands.log() + 6) / 2) @ create_dct(6, 10, "ortho").double()
    torch.testing.assert_close(network.cepstra(MuLaw().double().to_network(wave)), expected.mT, rtol=1e-5, atol=1e-5)
    assert network(wave).shape == (2, 5, 10)


def test_cepstra_of_low_order_describe_formants_and_not_pitch():
    """Two vowels at two pitches: the envelope of the spectrum tells the vowels apart, whatever the pitch."""
    t = torch.arange(4000, dtype=torch.float64) / 8000

    def vowel(pitch_hz, formants_hz):
        harmonics = torch.arange(1, int(4000 / pitch_hz)) * pitch_hz
        heights = sum(1 / (1 + ((harmonics - formant) / 120) ** 2) for formant in formants_hz)
        wave = (heights[:, None] * torch.cos(2 * math.pi * harmonics[:, None] * t)).sum(0)
        return MuLaw().double().to_network(0.9 * wave / wave.abs().max())[None, None]

    network = cepstral(hop_length=64, window_length=256, num_bands=40, num_coefficients=13)
    low, high, other = (network.cepstra(vowel(*settings))[0, 1:, 10:-10].mean(1)
                        for settings in ((100, (300, 2300)), (160, (300, 2300)), (100, (700, 1200))))
    assert (low - high).norm() < (low - other).norm() / 3


@pytest.mark.parametrize(("changes", "words"), [
    ({"num_coefficients": 11}, "num_coefficients: expected 1 to 10, found 11"),
    ({"window_length": 15}, "window_length: expected 16 or more by an even number, found 15"),
    ({"window_length": 65}, "window_length: expected 16 or more by an even number, found 65"),
])
def test_settings_that_no_cepstra_have_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        cepstral(**changes)
    with pytest.raises(ValueError, match="divisible by 16, found 40"):
        cepstral()(torch.zeros(1, 1, 40, dtype=torch.float64))


def test_items_of_a_batch_do_not_mix():
    """Bug 5 of the field: permuting the batch permutes the codes, and nothing else."""
    model, x = autoencoder(), torch.rand(4, 1, 40, dtype=torch.float64) - 0.5
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(model.encode(x[order]), model.encode(x)[order])


def test_labels_change_the_features_and_must_be_given():
    network, z = upsampler(num_classes=(3,)), torch.randn(2, 6, 4)
    one, other = (network(z, torch.full((2, 1), label)) for label in (0, 1))
    assert torch.equal(one, other)  # the branches start at zero
    with torch.no_grad():
        for block in network.blocks:
            nn.init.normal_(block.narrow.weight)
    one, other = (network(z, torch.full((2, 1), label)) for label in (0, 1))
    assert not torch.allclose(one, other)
    for wrong in (None, torch.zeros(2, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match="labels: expected 1 columns"):
            network(z, wrong)


def test_codes_do_not_depend_on_the_speaker_that_the_decoder_is_conditioned_on():
    model, x = autoencoder(), torch.rand(2, 1, 40, dtype=torch.float64) - 0.5
    latents = [model(x, torch.full((2, 1), speaker)).latent for speaker in (0, 2)]
    assert torch.equal(latents[0].codes, latents[1].codes)
    assert torch.equal(model.eval().encode(x), model(x, torch.full((2, 1), 1)).latent.codes)


def test_the_decoder_is_taught_and_drawn_from_alike():
    """Replaying what was drawn through the likelihood: each symbol is where the uniform number fell in its cdf."""
    model, codes = autoencoder().eval(), torch.randint(0, 16, (3, 5))
    labels, uniforms = torch.tensor([[0], [1], [2]]), torch.rand(3, 40, dtype=torch.float64)
    wave = model.decode(codes, labels, uniforms)
    assert wave.shape == (3, 1, 40) and wave.abs().max() <= 1
    levels = model.likelihood.levels(wave)
    z_q = model.bottleneck.lookup(codes)
    cdf = model.decoder.predict(z_q, labels, levels).params.softmax(1).cumsum(1)
    upper = cdf.gather(1, levels)[:, 0]
    lower = torch.where(levels[:, 0] > 0, cdf.gather(1, (levels - 1).clamp(min=0))[:, 0], 0)
    assert bool((lower <= uniforms + 1e-12).all() and (uniforms <= upper + 1e-12).all())


def test_fewer_uniforms_draw_the_beginning():
    model, codes, labels = autoencoder().eval(), torch.randint(0, 16, (2, 5)), torch.zeros(2, 1, dtype=torch.int64)
    uniforms = torch.rand(2, 40, dtype=torch.float64)
    whole, part = model.decode(codes, labels, uniforms), model.decode(codes, labels, uniforms[:, :13])
    assert part.shape == (2, 1, 13) and torch.equal(whole[..., :13], part)
    with pytest.raises(ValueError, match="uniforms: expected some"):
        model.decode(codes, labels)


def test_padding_counts_for_nothing():
    """The objective and the bound of a clip, whatever lies after its end in the decoder's input."""
    model, labels = autoencoder().eval(), torch.zeros(2, 1, dtype=torch.int64)
    x, lengths = torch.rand(2, 1, 40, dtype=torch.float64) - 0.5, torch.tensor([40, 20])
    found = model.evaluate(x, labels, lengths=lengths)
    other = x.clone()
    other[1, :, 39] = 0.9  # 19 samples after the end: no code of the first 20 samples sees it
    assert torch.allclose(found.nll_nats, model.evaluate(other, labels, lengths=lengths).nll_nats)
    assert not torch.allclose(found.nll_nats, model.evaluate(other, labels).nll_nats)
    assert found.rate_nats.tolist() == pytest.approx([5 * math.log(16), 3 * math.log(16)])  # 20 samples: 2.5 codes
    output = model(x, labels, lengths=lengths)
    assert torch.allclose(output.objective, found.nll_nats / lengths)
    assert torch.allclose(output.bound, (found.nll_nats + found.rate_nats) / lengths)
    assert found.reconstruction is None


def test_every_parameter_learns():
    guide = SpectralGuide(5, hop_length=4, sample_rate_hz=8000, num_bands=3, weight=0.5)
    model = autoencoder(guide=guide).train()
    for block in model.decoder.upsampler.blocks:
        nn.init.normal_(block.narrow.weight)
    output = model(torch.rand(2, 1, 40, dtype=torch.float64) - 0.5, torch.tensor([[0], [2]]))
    output.loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert output.loss.item() == pytest.approx(
        (output.objective + output.latent.rate_nats / 40).mean().item() + output.auxiliary.item())
    assert output.auxiliary > output.latent.loss  # the guide's is in it


@pytest.mark.parametrize("window_length", [None, 160, 48])
def test_the_guide_hears_the_wave(window_length):
    """A sine is loudest in the band that holds its frequency, in every frame but those cut at the ends."""
    guide, likelihood = SpectralGuide(5, 64, 8000, 20, 1.0, window_length).double(), MuLaw().double()
    size = window_length or 256
    time = torch.arange(1024, dtype=torch.float64) / 8000
    for hz in (300.0, 1000.0, 3000.0):
        bands = guide.log_bands(likelihood.levels(0.8 * torch.sin(2 * math.pi * hz * time)[None, None]))
        assert bands.shape == (1, 16, 20)
        loudest = mel_bands(size, 8000, 20)[round(hz / 8000 * size)].argmax()
        assert bands[0, 2:-2].argmax(1).eq(loudest).all(), hz


def test_mel_bands_are_averages_that_miss_no_band():
    for size, bands in ((256, 40), (64, 40), (512, 80)):
        weights = mel_bands(size, 8000, bands)
        assert weights.shape == (size // 2 + 1, bands) and bool((weights >= 0).all())
        assert torch.allclose(weights.sum(0), torch.ones(bands))
