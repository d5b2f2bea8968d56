"""Audio metrics: values worked out by hand, and independence of padding."""

import math
import warnings

import numpy as np
import pytest
import torch
from pystoi import stoi as stoi_of_arrays

from pipelines.metrics.clicks import click_score
from pipelines.metrics.dc_offset import dc_offset
from pipelines.metrics.intelligibility import speech_frames, stoi
from pipelines.metrics.spectral_distance import log_spectral_distance

RATE = 8000


def noise(number: int, samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(number, 1, samples, generator=torch.Generator().manual_seed(seed))


def speech_like(number: int, samples: int, seed: int = 0) -> torch.Tensor:
    """Noise that swells and fades four times a second, as syllables do."""
    return noise(number, samples, seed) * (0.6 + 0.4 * torch.sin(2 * math.pi * 4 * torch.arange(samples) / RATE))


def with_garbage(waves: torch.Tensor, lengths: torch.Tensor, samples: int) -> torch.Tensor:
    """The same clips in longer padding with a roar in it."""
    longer = torch.cat([waves, torch.zeros(*waves.shape[:2], samples)], -1)
    after = torch.arange(longer.shape[-1]) >= lengths[:, None, None]
    return torch.where(after, noise(len(waves), longer.shape[-1], 99) * 9, longer)


def full(waves: torch.Tensor) -> torch.Tensor:
    return torch.full((len(waves),), waves.shape[-1])


def test_a_clip_has_no_distance_from_itself_or_its_negative():
    waves = speech_like(3, 3000)
    assert (log_spectral_distance(waves, waves, RATE, full(waves)) == 0).all()
    assert (log_spectral_distance(waves, -waves, RATE, full(waves)) == 0).all()


def test_half_the_amplitude_is_6_db_away():
    """A bin of white noise lies u below its mean power with probability about u. The peak is about 10 times the mean,
    so some 10^-5 of the bins reach the floor 60 dB below it and count for less than 6.02 dB."""
    waves = noise(3, 8000)
    distance = log_spectral_distance(waves, waves / 2, RATE, full(waves))
    assert distance.dtype == torch.float64 and distance.tolist() == pytest.approx([20 * math.log10(2)] * 3, abs=1e-3)


def test_distance_is_what_its_formula_says():
    real, made = speech_like(1, 1234, 1), speech_like(1, 1234, 2)
    window, powers = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(200) / 200), []
    for wave in (real, made):
        sound = np.pad(wave[0, 0].double().numpy(), (0, 6))  # 1240 = 200 + 13 * 80: the frames that cover 1234
        frames = [sound[start : start + 200] * window for start in range(0, 1041, 80)]
        powers.append(np.abs(np.fft.rfft(frames)) ** 2)
    floor = powers[0].max() * 1e-6
    decibels = [10 * np.log10(np.maximum(power, floor)) for power in powers]
    expected = np.sqrt(((decibels[0] - decibels[1]) ** 2).mean(1)).mean()
    found = log_spectral_distance(real, made, RATE, full(real)).item()
    assert found == pytest.approx(expected, rel=1e-9)


def test_silence_is_at_most_60_db_away_and_finite():
    waves = torch.cat([speech_like(1, 3000), torch.zeros(1, 1, 3000)])
    lengths = torch.tensor([3000, 100])  # the other is shorter than a window, and silent
    distance = log_spectral_distance(waves, torch.zeros_like(waves), RATE, lengths)
    assert 20 < distance[0] <= 60 and distance[1] == 0
    assert log_spectral_distance(waves.flip(0), waves, RATE, full(waves)).isfinite().all()


def test_padding_changes_no_figure():
    waves, lengths = speech_like(3, 6000), torch.tensor([6000, 5000, 150])
    made = speech_like(3, 6000, 1)
    longer, made_longer = with_garbage(waves, lengths, 1111), with_garbage(made, lengths, 1111)
    borders = torch.arange(64, 7000, 64)
    for before, after in (
        (log_spectral_distance(waves, made, RATE, lengths),
         log_spectral_distance(longer, made_longer, RATE, lengths)),
        (stoi(waves, made, RATE, lengths)[0], stoi(longer, made_longer, RATE, lengths)[0]),
        (dc_offset(waves, lengths), dc_offset(longer, lengths)),
        (click_score(waves, lengths, borders), click_score(longer, lengths, borders)),
    ):
        torch.testing.assert_close(before, after, rtol=1e-12, atol=1e-15, equal_nan=True)
    alone = log_spectral_distance(waves[2:, :, :150], made[2:, :, :150], RATE, lengths[2:])
    torch.testing.assert_close(alone, log_spectral_distance(waves, made, RATE, lengths)[2:])


@pytest.mark.parametrize("rate", [8000, 10_000, 16_000])
def test_a_clip_is_intelligible_as_itself_and_less_so_in_noise(rate):
    waves = speech_like(2, 12_000)
    same, measured = stoi(waves, waves / 3, rate, full(waves))
    assert measured.all() and same.tolist() == pytest.approx([1, 1], abs=1e-6)
    made = waves + noise(2, 12_000, 5)
    noisy, _ = stoi(waves, made, rate, full(waves))
    assert (noisy < 0.9).all() and (noisy > 0.2).all()
    # the order of arguments matters: silence of the first is left out, and the second clipped 15 dB above it
    assert noisy[0].item() == pytest.approx(stoi_of_arrays(waves[0, 0].numpy(), made[0, 0].numpy(), rate), rel=1e-4)
    silent, measured = stoi(waves, torch.zeros_like(waves), rate, full(waves))
    assert measured.all() and silent.tolist() == pytest.approx([0, 0], abs=1e-6)  # nothing is understood: a figure


def test_clips_with_too_little_speech_have_no_intelligibility():
    waves = speech_like(5, 12_000)
    waves[1, :, 2000:] = 0  # long, but a quarter of a second of it speech
    waves[2, :, 2000:] *= 1e-3  # or 60 dB weaker
    waves[3] = 0
    lengths = torch.tensor([12_000, 12_000, 12_000, 12_000, 180])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values, measured = stoi(waves, waves, RATE, lengths)
    assert measured.tolist() == [True, False, False, False, False]
    assert values[0] == pytest.approx(1) and values[1:].isnan().all()


def test_thirty_frames_are_counted_as_the_measure_counts_them():
    """At its own 10 kHz, 31 frames of 256 every 128 begin before the last 256 of 31 * 128 + 256 samples; put together
    again and cut once more they are 30."""
    wave = noise(1, 31 * 128 + 256)[0, 0]
    assert speech_frames(wave, 10_000) == 30 and speech_frames(wave[:-128], 10_000) == 29
    values, measured = stoi(wave[None, None], wave[None, None], 10_000, torch.tensor([len(wave)]))
    assert measured.all() and values.item() == pytest.approx(1)
    shorter = wave[:-128].numpy()
    with pytest.warns(RuntimeWarning, match="Not enough STFT frames"):
        assert stoi_of_arrays(shorter, shorter, 10_000) == 1e-5
    assert not stoi(wave[None, None], wave[None, None], 10_000, torch.tensor([len(wave) - 128]))[1].any()


def test_offset_is_the_mean_of_the_clip():
    waves = torch.tensor([[[0.5, -0.25, 0.5, 9]], [[-1, 1, -1, 1]]])
    assert dc_offset(waves, torch.tensor([3, 4])).tolist() == [0.25, 0]


def test_clicks_are_found_where_they_are():
    """Of white noise the score of 8,128 samples with 127 borders is about 1: its squares at the borders, 254 numbers,
    hardly depend on each other, so that their mean deviates by about sqrt(2 / 254) * 1.3 = 12 %. 50 % is 4 of them."""
    waves, borders = noise(4, 8128), torch.arange(64, 8128, 64)
    score = click_score(waves, full(waves), borders)
    assert ((score > 0.5) & (score < 1.5)).all()
    steps = 0.5 * (torch.arange(8128) // 64 % 2)  # half of full scale up or down at each border
    clicked = click_score(waves + steps, full(waves), borders)
    # second differences of noise have power 6 * 0.1^2 = 0.06; a step adds 0.5^2 = 0.25 to each of the two beside it
    assert clicked.tolist() == pytest.approx([1 + 0.25 / 0.06] * 4, rel=0.5) and (clicked > 3).all()
    assert (click_score(waves + steps, full(waves), borders + 32) < 1).all()


def test_the_two_samples_beside_a_border_are_its_own():
    wave = torch.zeros(1, 1, 40)
    wave[..., 10:] = 1  # second differences 1 and -1 at samples 9 and 10
    wave[..., 30] += 0.5  # 0.5, -1 and 0.5 at 29, 30 and 31
    score = click_score(wave, torch.tensor([40]), torch.tensor([10]))
    assert score.item() == pytest.approx(1 / (1.5 / 36))  # of 38 second differences 36 are elsewhere


def test_no_border_or_no_sound_has_no_score():
    waves = torch.cat([noise(1, 300), torch.zeros(1, 1, 300)])
    assert click_score(waves, torch.tensor([60, 300]), torch.tensor([64, 128])).isnan().all()
