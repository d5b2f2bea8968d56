"""A folder of sounds as people have them, made with real encoders: each is read right, or left out by reason."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from pipelines.data.audio_files import SUFFIXES, rate_ratio, read_audio_file
from pipelines.data.audio_folder import AudioFolder
from pipelines.files.errors import InputError
from pipelines.splits.describe import describe

RATE, HZ, SECONDS, LEVEL = 16_000, 440.0, 0.5, 0.5

# name -> (rate, channels, options of soundfile.write)
BY_SOUNDFILE = {
    "u8.wav": (8000, 1, {"subtype": "PCM_U8"}), "s16.wav": (44_100, 2, {"subtype": "PCM_16"}),
    "s24.wav": (96_000, 6, {"subtype": "PCM_24"}), "s32.wav": (192_000, 1, {"subtype": "PCM_32"}),
    "float.wav": (48_000, 1, {"subtype": "FLOAT"}), "double.wav": (22_050, 1, {"subtype": "DOUBLE"}),
    "mulaw.wav": (8000, 1, {"subtype": "ULAW"}), "extensible.wav": (16_000, 1, {"format": "WAVEX"}),
    "big.rf64": (16_000, 1, {}), "long.w64": (11_025, 1, {}), "lossless.flac": (32_000, 2, {"subtype": "PCM_24"}),
    "vorbis.ogg": (44_100, 2, {}), "phone.opus": (48_000, 1, {"format": "OGG", "subtype": "OPUS"}),
    "music.mp3": (44_100, 1, {"format": "MP3", "subtype": "MPEG_LAYER_III"}), "mac.aiff": (44_100, 1, {}),
    "sun.au": (8000, 1, {}), "apple.caf": (48_000, 2, {}), "amiga.svx": (16_000, 1, {}), "sphere.sph":
    (16_000, 1, {"format": "NIST"}), "sound.voc": (16_000, 1, {}), "SHOUT.WAV": (16_000, 1, {}),
    "odd.wav": (12_347, 1, {}), "odder.wav": (999_983, 1, {}), "wave, named.mp3": (16_000, 1, {"format": "WAV"}),
}
# name -> (format of the container, codec, rate, layout)
BY_PYAV = {
    "memo.m4a": ("ipod", "aac", 44_100, "mono"), "lossless.m4a": ("ipod", "alac", 44_100, "stereo"),
    "clip.webm": ("webm", "libopus", 48_000, "stereo"), "old.wma": ("asf", "wmav2", 44_100, "stereo"),
    "stream.aac": ("adts", "aac", 44_100, "mono"), "surround.m4a": ("ipod", "aac", 48_000, "5.1"),
    "m4a, named.wav": ("ipod", "aac", 44_100, "mono"),
}
UNREADABLE = {"empty.wav": "", "nothing.wav": "it contains no samples", "cut.wav": "it ends before the length",
              "cut.flac": "", "cut.m4a": "", "cut off.webm": "it ends after", "nan.wav": "it contains NaN or infinity",
              "text.wav": "Format not recognised", "slow.wav": "its sample rate is 500 Hz",
              "film.mp4": "it contains no audio"}


def tone(rate: int, seconds: float = SECONDS) -> np.ndarray:
    return LEVEL * np.sin(2 * np.pi * HZ * np.arange(round(seconds * rate)) / rate)


def encode(path: Path, container: str, codec: str, rate: int, layout: str, wave: np.ndarray) -> None:
    """A wave (t,) in all channels of a layout, encoded by FFmpeg."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 128_000
        channels = np.repeat(wave[None].astype(np.float32), stream.layout.nb_channels, 0)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(stream.format, layout, rate, frame_size=size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))


def silent_film(path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        file.mux(stream.encode(None))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> Path:
    """All of them in one flat folder; PyAV is there, as an extra of the tests."""
    root = tmp_path_factory.mktemp("odd") / "sounds"
    root.mkdir()
    for name, (rate, channels, options) in BY_SOUNDFILE.items():
        soundfile.write(root / name, np.repeat(tone(rate)[:, None], channels, 1), rate, **options)
    for name, (container, codec, rate, layout) in BY_PYAV.items():
        encode(root / name, container, codec, rate, layout, tone(rate))
    soundfile.write(root / "silent.wav", np.zeros(4000), 8000)
    soundfile.write(root / "one sample.wav", np.full(1, 0.5), 16_000)
    (root / "empty.wav").touch()
    soundfile.write(root / "nothing.wav", np.zeros(0), 16_000)
    for name, source in (("cut.wav", "s16.wav"), ("cut.flac", "lossless.flac"), ("cut.m4a", "memo.m4a")):
        content = (root / source).read_bytes()
        (root / name).write_bytes(content[: len(content) // 2])
    encode(root / "cut off.webm", "webm", "libopus", 48_000, "mono", tone(48_000, 3))
    content = (root / "cut off.webm").read_bytes()
    (root / "cut off.webm").write_bytes(content[: len(content) // 2])
    soundfile.write(root / "nan.wav", np.where(np.arange(4000) == 100, np.nan, 0), 16_000, subtype="FLOAT")
    (root / "text.wav").write_text("#EXTM3U\nfile:///etc/hostname\n" * 9)
    soundfile.write(root / "slow.wav", tone(8000), 500)
    silent_film(root / "film.mp4")
    (root / "notes.txt").write_text("not a sound")
    (root / ".hidden.wav").write_bytes((root / "s16.wav").read_bytes())
    return root


@pytest.mark.parametrize("name", [*BY_SOUNDFILE, *BY_PYAV])
def test_each_format_is_read_at_its_pitch_level_and_length(sounds, name):
    wave = read_audio_file(sounds / name, RATE)
    assert wave.dtype == np.float32 and abs(len(wave) / RATE - SECONDS) < 0.06, len(wave)
    middle = wave[len(wave) // 4 : 3 * len(wave) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 2**17))
    assert abs(spectrum.argmax() * RATE / 2**17 - HZ) < 1, spectrum.argmax() * RATE / 2**17
    expected = LEVEL / np.sqrt(2) * (5 / 6 if name == "surround.m4a" else 1)  # AAC keeps no 440 Hz in a subwoofer
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(expected, rel=0.05)


def test_silence_and_a_single_sample_are_sounds(sounds):
    assert not read_audio_file(sounds / "silent.wav", RATE).any()
    assert len(read_audio_file(sounds / "one sample.wav", RATE)) == 1


def folder(sounds: Path, cache: Path) -> AudioFolder:
    return AudioFolder(str(sounds), str(cache), sample_rate_hz=RATE, crop=1024, length=4096, workers=1,
                       validation_fraction=0.3)


def test_a_folder_of_odd_sounds_is_read_whole_or_left_out_by_reason(sounds, tmp_path, capsys):
    data = folder(sounds, tmp_path)
    assert {Path(path).name for path in data.unreadable} == set(UNREADABLE)
    for path, reason in data.unreadable.items():
        assert UNREADABLE[Path(path).name] in reason and "\n" not in reason, (path, reason)
    count = len(BY_SOUNDFILE) + len(BY_PYAV) + 2 + len(UNREADABLE)
    assert f"left out {len(UNREADABLE)} of {count} audio files, which cannot be read" in capsys.readouterr().err
    recordings = {tuple(bounds) for split in data.splits for bounds in data.split(split).bounds.tolist()}
    assert len(recordings) == count - len(UNREADABLE)
    assert f"left out: {len(UNREADABLE)} unreadable recordings" in describe(data)


def test_the_order_of_a_directory_changes_nothing(sounds, tmp_path, monkeypatch):
    first, scandir, listdir = folder(sounds, tmp_path / "a"), os.scandir, os.listdir

    class Reversed:
        def __init__(self, path="."):
            self.entries = iter(sorted(scandir(path), key=lambda entry: entry.name, reverse=True))

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        close = __exit__

        def __iter__(self):
            return self

        def __next__(self):
            return next(self.entries)

    monkeypatch.setattr(os, "scandir", Reversed)
    monkeypatch.setattr(os, "listdir", lambda path=".": sorted(listdir(path), reverse=True))
    assert next(Reversed(sounds)).name == "wave, named.mp3"
    second = folder(sounds, tmp_path / "b")
    assert describe(first) == describe(second) and torch.equal(first.samples, second.samples)
    for split in first.splits:
        everything = torch.arange(len(first.split(split)))
        one, other = (data.split(split).batch(everything, seed=1, epoch=3) for data in (first, second))
        assert torch.equal(one.x, other.x) and torch.equal(one.lengths, other.lengths)


def test_without_pyav_its_files_are_left_out_with_the_extra_that_reads_them(sounds, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)  # as if it were not installed
    left_out = {Path(path).name: reason for path, reason in folder(sounds, tmp_path).unreadable.items()}
    needing = {name for name, reason in left_out.items() if "neural-discrete-representations[video]" in reason}
    assert needing == {name for name in [*BY_PYAV, "cut.m4a", "cut off.webm", "film.mp4"] if name != "m4a, named.wav"}
    assert "Format not recognised" in left_out["m4a, named.wav"]


def test_a_folder_of_nothing_readable_is_refused(tmp_path):
    (tmp_path / "sounds").mkdir()
    for number in range(2):
        (tmp_path / "sounds" / f"{number}.m4a").write_bytes(b"no sound" * 100)
    with pytest.raises(InputError, match=r"0.m4a: expected an audio file, found it cannot be opened .*; none of 2 can"):
        folder(tmp_path / "sounds", tmp_path / "cache")


@pytest.mark.parametrize("rate", [999_983, 44_101, 191_999, 7993, 2**31 - 1])
def test_an_odd_rate_is_off_by_less_than_a_cent_in_bounded_time(rate, tmp_path):
    for wanted in (8000, 16_000, 44_100, 48_000):
        ratio = rate_ratio(rate, wanted)
        assert abs(1200 * np.log2(float(ratio) * wanted / rate)) < 1
        assert ratio.numerator * ratio.denominator <= 2**21 or ratio.denominator == 1
    if rate < 10**6:
        soundfile.write(tmp_path / "odd.wav", tone(rate, 2), rate)
        start = time.process_time()
        assert abs(len(read_audio_file(tmp_path / "odd.wav", RATE)) - 2 * RATE) < 20
        assert time.process_time() - start < 3  # 13 s with a filter for the exact ratio of 999,983 to 16,000


def test_usual_rates_are_exact():
    usual = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000, 176_400,
             192_000)
    assert all(float(rate_ratio(rate, wanted)) == rate / wanted for rate in usual for wanted in usual)


def test_suffixes_are_those_of_the_formats_that_soundfile_knows():
    """A new format of soundfile shows here: its suffix is to be added, or it is not audio."""
    left_out = {"RAW", "MAT4", "MAT5", "SD2"}
    assert set(soundfile.available_formats()) - left_out == {
        "AIFF", "AU", "AVR", "CAF", "FLAC", "HTK", "SVX", "MPC2K", "MP3", "OGG", "PAF", "PVF", "RF64", "SDS", "IRCAM",
        "VOC", "W64", "WAV", "NIST", "WAVEX", "WVE", "XI"}
    assert {".m4a", ".mp4", ".webm", ".wma", ".opus", ".rf64", ".voc"} <= SUFFIXES
