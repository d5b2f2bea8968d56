"""Audio as files: every sample in its place, plots whose panels can be compared."""

import math
import os

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.figure import Figure
from PIL import Image

from pipelines.media import audio as sound_media

RATE = 8000


def tone(frequency_hz: float, seconds: float, amplitude: float = 1.0) -> torch.Tensor:
    return amplitude * torch.sin(2 * math.pi * frequency_hz * torch.arange(round(seconds * RATE)) / RATE)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are written."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *arguments, **options: (
        figures.append(self), save(self, *arguments, **options))[1])
    return figures


def test_a_wave_comes_back_to_half_a_step(tmp_path):
    wave = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 1.999 - 1
    sound_media.write_wav(tmp_path / "a.wav", wave, RATE)
    samples, rate = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert rate == RATE and samples.shape == (1000,) and soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"
    assert np.abs(samples / 32768 - wave.double().numpy()).max() <= 0.5 / 32768
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_what_is_too_loud_is_cut_off_and_does_not_wrap(tmp_path):
    sound_media.write_wav(tmp_path / "a.wav", torch.tensor([1.5, 1.0, -1.0, -7.0, 0.25]), RATE)
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert samples.tolist() == [32767, 32767, -32768, -32768, 8192]


@pytest.mark.parametrize("wave", [torch.tensor([0.0, torch.nan]), torch.zeros(1, 5), torch.zeros(5, dtype=torch.int16)])
def test_only_waves_are_written(wave, tmp_path):
    with pytest.raises(AssertionError):
        sound_media.write_wav(tmp_path / "a.wav", wave, RATE)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_sound(tmp_path, monkeypatch):
    sound_media.write_wav(tmp_path / "a.wav", torch.zeros(10), RATE)
    before = (tmp_path / "a.wav").read_bytes()
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError):
        sound_media.write_wav(tmp_path / "a.wav", torch.ones(10), RATE)
    assert (tmp_path / "a.wav").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_full_scale_sine_has_0_db_at_its_frequency():
    power = sound_media.decibels(tone(1000, 0.5), RATE)
    bins, frames = power.shape
    frequency = power[:, frames // 2].argmax().item() * RATE / 2 / (bins - 1)
    assert frequency == 1000 and power[:, frames // 2].max().item() == pytest.approx(0, abs=0.01)
    half = sound_media.decibels(tone(1000, 0.5, amplitude=0.5), RATE)
    assert half.max().item() == pytest.approx(-6.02, abs=0.01)


def test_sounds_are_drawn_in_reading_order_on_the_same_axes(tmp_path, drawn):
    waves = [tone(500 * place, 0.1 * place, 1 / place) for place in range(1, 6)]
    sound_media.spectrograms(tmp_path / "a.png", waves, list("abcde"), RATE, columns=3)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width == 1440
    panels = [axis for axis in drawn[0].axes if axis.get_visible() and axis.images]
    above = [axis for axis in drawn[0].axes if axis.get_visible() and axis.lines]
    assert [axis.get_title() for axis in above] == list("abcde")
    assert [len(axis.lines[0].get_ydata()) for axis in above] == [len(wave) for wave in waves]
    assert {axis.get_xlim() for axis in panels + above} == {(0, 0.5)}
    assert len({axis.get_ylim() for axis in above}) == 1 and len({axis.images[0].get_clim() for axis in panels}) == 1
    for place, axis in enumerate(panels, 1):  # a panel ends where its clip does, and at half the sample rate
        picture = axis.images[0]
        assert picture.get_extent() == pytest.approx([0, 0.1 * place, 0, RATE / 2000])
        assert picture.get_array().sum(1).argmax() * RATE / 2 / (picture.get_array().shape[0] - 1) == 500 * place


def test_rows_are_titled_and_clips_keep_their_columns(tmp_path, drawn):
    rows = {"original": [tone(500, 0.2), tone(1000, 0.1)], "conversion": [tone(1500, 0.2), tone(2000, 0.1)]}
    sound_media.comparison(tmp_path / "a.png", rows, {"conversion": ["as theo", "as lucas"]}, RATE)
    above = [axis for axis in drawn[0].axes if axis.lines]
    assert [axis.get_ylabel() for axis in above] == ["original", "", "conversion", ""]
    assert [axis.get_title() for axis in above] == ["", "", "as theo", "as lucas"]
    waves = [wave.numpy() for row in rows.values() for wave in row]
    assert all(np.array_equal(axis.lines[0].get_ydata(), wave) for axis, wave in zip(above, waves, strict=True))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width == 1440


def test_silence_and_a_single_sample_are_drawn(tmp_path):
    sound_media.spectrograms(tmp_path / "a.png", [torch.zeros(4000), torch.ones(1)], ["silence", "a sample"], RATE)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width == 1440 and len(picture.convert("L").getcolors()) > 2


def test_each_wave_has_a_caption(tmp_path):
    with pytest.raises(ValueError, match="zip"):
        sound_media.spectrograms(tmp_path / "a.png", [tone(500, 0.1)] * 2, ["one"], RATE)
