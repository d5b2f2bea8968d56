"""The page Voices: an original, its reconstruction and its conversion, each to hear and to see."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from pipelines import load
from pipelines.explorer.page import Arguments, Context, Upload
from pipelines.explorer.pages import voices
from pipelines.explorer.pages.voices import Voices
from pipelines.files.errors import InputError
from pipelines.generation.recordings import decoded_recordings
from pipelines.runs.find import PRETRAINED

RATE = 8000


@pytest.fixture(scope="module")
def run():
    return load(PRETRAINED / "fsdd", "cpu")


@pytest.fixture
def hear(run):
    """hear(content of a WAV file, **arguments) -> what the call gives, by version."""

    def own(content: bytes | None = None, **arguments):
        upload = {} if content is None else {"file": "key"}
        context = Context(run, Path("runs"), None, {})
        given = Arguments(upload | arguments, {"key": Upload("own.wav", content)}.__getitem__)
        return {found["version"]: found for found in Voices().hear(context, given)}

    return own


def tone(seconds: float, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, 0.5 * np.sin(np.arange(round(seconds * rate)) / 9), rate, format="WAV")
    return file.getvalue()


def heard(address: str) -> tuple[np.ndarray, int]:
    return soundfile.read(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def test_three_versions_of_the_same_length(run, hear):
    found = hear(tone(0.1, 16000), spoken="theo", other="lucas", seed=3)
    assert [*found] == ["original", "reconstruction", "conversion"]
    assert [own["voice"] for own in found.values()] == [None, "theo", "lucas"]
    for own in found.values():
        wave, rate = heard(own["audio"])
        assert (len(wave), rate, own["seconds"], own["khz"]) == (800, RATE, 0.1, 4)
        assert Image.open(io.BytesIO(base64.b64decode(own["image"].partition(",")[2]))).mode == "RGB"
    original = torch.from_numpy(heard(found["original"]["audio"])[0]).float()
    for version, speaker in (("reconstruction", "theo"), ("conversion", "lucas")):
        label = torch.tensor([[run.classes["speaker"].index(speaker)]])
        expected = next(decoded_recordings(run._loaded.stage1, [original], label, 3, 1))
        np.testing.assert_allclose(heard(found[version]["audio"])[0], expected, atol=2**-15)


def test_without_a_file_the_prior_speaks(hear, monkeypatch):
    short = 300

    def sample(self, n, seed, labels):
        assert (n, seed, labels) == (1, 5, {"speaker": "theo"})
        return type("Drawn", (), {"x": torch.zeros(1, 1, 8192), "lengths": torch.tensor([short])})

    monkeypatch.setattr("pipelines.api.TrainedRun.sample", sample)
    found = hear(spoken="theo", other="george", seed=5)
    assert [own["seconds"] for own in found.values()] == [short / RATE] * 3


def test_what_does_not_fit_is_refused_in_words(hear):
    with pytest.raises(InputError, match="^spoken: expected one of george, jackson, .*, found 'nobody'$"):
        hear(tone(0.1), spoken="nobody")
    with pytest.raises(InputError, match="own.wav: "):
        hear(b"no sound")
    with pytest.raises(InputError, match=r"^file: expected at most 20 s of audio, found 20\.5 s$"):
        hear(tone(20.5))


def test_the_page_is_of_runs_with_voices_alone(run):
    context = Context(run, Path("runs"), None, {})
    assert Voices().why_not(run) is None and voices.voice_label(context) == "speaker"
    assert Voices().why_not(load(PRETRAINED / "mnist", "cpu")).startswith("this run is on image")
