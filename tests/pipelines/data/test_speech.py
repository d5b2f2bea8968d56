"""Synthetic speech: bytes that repeat, phonemes that fit the audio, and the errors for bad settings and files."""

import json
import signal
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipelines.data import speech
from pipelines.data.speech import (
    PHONEMES,
    SAMPLE_RATE_HZ,
    SILENCE,
    SPELLINGS,
    VOICES,
    WORDS,
    generate_speech,
    intervals,
    plan,
    read_speech,
)
from pipelines.files.errors import InputError

VOWELS = {"aa", "ae", "ah", "ao", "aw", "ax", "ay", "ea", "eh", "er", "ey", "ia", "ih", "iy", "oh", "ow", "oy", "ua",
          "uh", "uw"}
CLIPS = 24
needs_extra = pytest.mark.skipif(find_spec("espeakng_loader") is None, reason="the extra [speech] is not installed")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> Path:
    """24 single words by 6 voices, never changed by a test."""
    if find_spec("espeakng_loader") is None:
        pytest.skip("the extra [speech] is not installed")
    return generate_speech(tmp_path_factory.mktemp("speech"), CLIPS, 1, 6, 0, workers=1)


@pytest.fixture
def described(tmp_path):
    """described(key=..., clip={...}) -> a folder whose clips.json, of one clip, is changed so."""

    def make(clip: dict | None = None, **changes) -> Path:
        one = {"file": "00000.flac", "voice": "en-us+f1", "words": ["one"], "samples": 30,
               "phonemes": [["_", 0, 10], ["w", 10, 30]]}
        content = {"version": 1, "sample_rate_hz": SAMPLE_RATE_HZ, "voices": ["en-us+f1"], "words": ["one"],
                   "clips": [one | (clip or {})]}
        (tmp_path / "clips.json").write_text(json.dumps(content | changes))
        return tmp_path

    return make


def test_bytes_repeat_whatever_the_number_of_workers(spoken, tmp_path):
    again = generate_speech(tmp_path, CLIPS, 1, 6, 0, workers=3)
    assert again.name == spoken.name
    assert contents(again) == contents(spoken) and len(contents(again)) == CLIPS + 1


@needs_extra
def test_a_clip_does_not_depend_on_what_was_spoken_before_it(tmp_path, monkeypatch):
    """Every voice, the breathy ones too, in two opposite orders."""
    settings = len(VOICES), 2, len(VOICES), 5
    forwards = generate_speech(tmp_path, *settings)
    monkeypatch.setattr(speech, "plan", lambda *arguments: plan(*arguments)[::-1])
    backwards = generate_speech(tmp_path, *settings)
    clips = read_speech(forwards).clips, read_speech(backwards).clips[::-1]
    assert {clip.voice for clip in clips[0]} == set(VOICES)
    for there, back in zip(*clips, strict=True):
        assert there.words == back.words and there.phonemes == back.phonemes
        assert (forwards / there.file).read_bytes() == (backwards / back.file).read_bytes(), there.voice


def test_what_is_there_whole_is_not_made_again(spoken, monkeypatch):
    monkeypatch.setattr(speech, "find_spec", lambda name: None)  # so that it could not be
    before = (spoken / "clips.json").stat().st_mtime_ns
    assert generate_speech(spoken.parent, CLIPS, 1, 6, 0) == spoken
    assert (spoken / "clips.json").stat().st_mtime_ns == before


def test_the_library_is_never_loaded_here(spoken):
    assert "espeakng_loader" not in sys.modules
    assert "espeak" not in Path("/proc/self/maps").read_text()


def test_phonemes_tile_the_clip_and_fit_the_sound(spoken):
    description = read_speech(spoken)
    assert description.sample_rate_hz == SAMPLE_RATE_HZ and len(description.clips) == CLIPS
    levels = {"vowels": [], "silence": []}
    for clip in description.clips:
        wave, rate = soundfile.read(spoken / clip.file)
        assert rate == SAMPLE_RATE_HZ and wave.shape == (clip.samples,) and 0.02 < np.abs(wave).max() < 1
        assert clip.phonemes[0].start == 0 and clip.phonemes[-1].end == clip.samples
        assert all(before.end == after.start for before, after in zip(clip.phonemes, clip.phonemes[1:]))
        for phoneme in clip.phonemes:
            level = np.sqrt(np.mean(wave[phoneme.start : phoneme.end] ** 2))
            if phoneme.symbol in VOWELS:
                levels["vowels"].append(level)
            elif phoneme.symbol == SILENCE:
                levels["silence"].append(level)
        for before, after in zip(clip.phonemes, clip.phonemes[1:]):
            sound = np.flatnonzero(wave[before.start : before.end])
            if SILENCE not in (before.symbol, after.symbol) and len(sound):  # a closure is the stop's, not the vowel's
                assert before.end - before.start - 1 - sound[-1] < speech.SHORTEST_CLOSURE, (clip.words, before, after)
        # the sound ends with the last phoneme: 6 ms is the longest fade-out of these voices
        end = [phoneme.end for phoneme in clip.phonemes if phoneme.symbol != SILENCE][-1]
        assert 0 <= end - np.flatnonzero(np.abs(wave) > 0.004)[-1] < 0.006 * rate
    assert len(levels["vowels"]) >= CLIPS
    assert min(levels["vowels"]) > 0.02 and max(levels["silence"]) < 0.001  # measured: 0.058 and 0


def test_words_and_voices_are_balanced_and_no_two_clips_are_alike():
    utterances = plan(3 * len(WORDS), 1, 5, 7)
    assert set(Counter(utterance.words for utterance in utterances).values()) == {3}
    assert set(Counter(utterance.voice for utterance in utterances).values()) == {3 * len(WORDS) // 5}
    assert len(set(utterances)) == len(utterances)
    assert {len(utterance.words) for utterance in plan(40, 4, 5, 7)} == {4}
    assert plan(40, 4, 5, 7)[:10] == plan(10, 4, 5, 7) != plan(10, 4, 5, 8)
    speeds, pitches = ({getattr(utterance, name) for utterance in utterances} for name in ("speed_wpm", "pitch"))
    # 450 draws of 41 and 21 values: one of them is missing with a probability below 41 (40/41)^450 = 6e-4
    assert speeds == set(range(150, 191)) and pitches == set(range(40, 61))


def test_the_lists_are_as_documented():
    assert len(WORDS) == len(set(WORDS)) == 150 and len(VOICES) == len(set(VOICES)) == 24 and len(PHONEMES) == 45
    names = [name for spelled in SPELLINGS.values() for name in spelled.split()]
    assert len(names) == len(set(names)), "no name of the library stands for two phonemes"


def test_events_become_intervals():
    events = [("T", 20), ("r", 30), ("'i:", 40), ("_:", 80), ("_", 90), ("_", 100)]
    expected = [("_", 0, 20), ("th", 20, 30), ("r", 30, 40), ("iy", 40, 80), ("_", 80, 100)]
    assert intervals(events, 100, "en-us+f1") == expected
    letter = [("3", 0)]
    assert [intervals(letter, 9, voice)[0].symbol for voice in ("en-us+f1", "en-gb+f1")] == ["er", "ax"]
    with pytest.raises(InputError, match="found 'Q' from 5 to 9; install the version"):
        intervals([("Q", 5)], 9, "en-us+f1")


def test_closures_belong_to_the_stop():
    wave = np.zeros(1000, np.int16)
    wave[100:500] = 1  # a vowel, its stop's closure up to 800, then the release
    wave[800:] = 1
    events = [("a", 100), ("t", 800), ("_", 1000)]
    assert speech._from_closures(wave, events) == [("a", 100), ("t", 500), ("_", 1000)]
    assert speech._from_closures(wave, [("_", 100), *events[1:]]) == [("_", 100), *events[1:]]


@needs_extra
def test_without_forks_each_clip_has_its_own_process_and_the_same_bytes(spoken, tmp_path, capfd):
    speech._speak_spawned(tmp_path, 2, speech.plan(CLIPS, 1, 6, 0)[:2])
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [number for number, _, _ in lines] == [0, 1]
    for number in (0, 1):
        assert (tmp_path / f"{number:05d}.flac").read_bytes() == (spoken / f"{number:05d}.flac").read_bytes()


@needs_extra
def test_a_killed_synthesiser_leaves_nothing_that_looks_whole(spoken, tmp_path, monkeypatch):
    class Killed(subprocess.Popen):
        """Is killed when its first line is read: with 24 clips to speak that is long before its end."""

        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.stdout = self.read_one_and_kill(self.stdout)

        def read_one_and_kill(self, stream):
            with stream:
                yield next(stream)
                self.kill()
                yield from stream

        def __exit__(self, *arguments):
            self.wait()

    with monkeypatch.context() as patch:
        patch.setattr(speech.subprocess, "Popen", Killed)
        message = f"expected {CLIPS} clips, found that the synthesiser ended after .* status -9"
        with pytest.raises(InputError, match=message):
            generate_speech(tmp_path, CLIPS, 1, 6, 0, workers=1)
    folder = tmp_path / spoken.name
    assert (folder / "00000.flac").exists() and not (folder / "clips.json").exists()
    assert contents(generate_speech(tmp_path, CLIPS, 1, 6, 0, workers=1)) == contents(spoken)


@needs_extra
def test_a_killed_caller_is_waited_for_and_then_made_good(spoken, tmp_path, limited):
    """The synthesiser, about to write the third clip, kills the process that has started it."""
    code = ("from pathlib import Path; from pipelines.data.speech import generate_speech; "
            f"generate_speech(Path({str(tmp_path)!r}), {CLIPS}, 1, 6, 0, 1)")
    caller = limited(sys.executable, "-c", code, signal_at="open 00002.flac 1 SIGKILL parent")
    assert caller.returncode == -signal.SIGKILL, caller.stderr
    assert not (tmp_path / spoken.name / "clips.json").exists()
    assert contents(generate_speech(tmp_path, CLIPS, 1, 6, 0)) == contents(spoken)


@needs_extra
def test_a_failing_synthesiser_is_named_with_its_last_words(tmp_path, monkeypatch):
    for voice, message in (("en-us+nobody", "expected the voice variant nobody, found none in .*espeakng_loader"),
                           ("en-no+f1", "espeak_SetVoiceByName: expected status 0 for .*, found 2")):
        monkeypatch.setattr(speech, "VOICES", (voice,))
        with pytest.raises(InputError, match=f"the synthesiser ended after 0 with status 1: RuntimeError: {message}"):
            generate_speech(tmp_path, 1, 1, 1, 0)


def test_a_missing_extra_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setattr(speech, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'neural-discrete-representations\[speech\]'") as caught:
        generate_speech(tmp_path, 1, 1, 1, 0)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("setting, value", [
    ("clips", 0), ("clips", 100_000), ("words_per_clip", 0), ("words_per_clip", 17), ("voices", 0), ("voices", 25),
    ("seed", -1), ("seed", 2**31), ("workers", -1),
])
def test_settings_out_of_range_are_named(tmp_path, setting, value):
    settings = {"clips": 2, "words_per_clip": 1, "voices": 1, "seed": 0, "workers": 1} | {setting: value}
    with pytest.raises(InputError, match=f"data.{setting}: expected [01] to [0-9]+, found {value}"):
        generate_speech(tmp_path, **settings)


def test_a_description_is_read(described):
    description = read_speech(described())
    assert description.clips[0].words == ("one",) and description.clips[0].phonemes[1].symbol == "w"


@pytest.mark.parametrize("changes, message", [
    ({"version": 2}, "expected version 1, found 2"),
    ({"sample_rate_hz": 0}, "expected a sample_rate_hz from 1 to 1000000, found 0"),
    ({"sample_rate_hz": True}, "expected a sample_rate_hz"),
    ({"voices": []}, "expected voices as sorted distinct names"),
    ({"words": ["two", "one"]}, "expected words as sorted distinct names"),
    ({"words": [1]}, "expected words as sorted distinct names"),
    ({"clips": []}, "expected clips"),
    ({"clips": 5}, "expected a description of clips, found other content"),
    ({"clips": [5]}, "expected a description of clips, found other content"),
    ({"clip": {"file": "../0000.flac"}}, "expected a file name NNNNN.flac for clip 0, found '../0000.flac'"),
    ({"clip": {"file": "/00000.flac"}}, "expected a file name"),
    ({"clip": {"file": "00000.flac\n"}}, "expected a file name"),
    ({"clip": {"voice": "nobody"}}, "expected one of the voices for clip 0, found 'nobody'"),
    ({"clip": {"voice": []}}, "expected one of the voices for clip 0"),
    ({"clip": {"words": []}}, "expected some of the words for clip 0"),
    ({"clip": {"words": ["two"]}}, "expected some of the words for clip 0, found .'two',."),
    ({"clip": {"words": [["one"]]}}, "expected some of the words for clip 0"),
    ({"clip": {"samples": 10**12}}, "expected 1 to 1323000 samples for clip 0, found 1000000000000"),
    ({"clip": {"samples": 30.5}}, "expected 1 to 1323000 samples"),
    ({"clip": {"samples": 31}}, "expected phonemes up to 31 in clip 0, found 30"),
    ({"clip": {"phonemes": [["_", 1, 30]]}}, "expected a known phoneme from 0 to at most 30 in clip 0"),
    ({"clip": {"phonemes": [["_", 0, 31]]}}, "expected a known phoneme from 0 to at most 30"),
    ({"clip": {"phonemes": [["Q", 0, 30]]}}, "expected a known phoneme .*found .'Q', 0, 30."),
    ({"clip": {"phonemes": [["_", 0, "x"]]}}, "expected a known phoneme"),
    ({"clip": {"phonemes": [["_", 0]]}}, "found other content"),
    ({"clip": {"more": 1}}, "found other content"),
])
def test_a_bad_description_is_named(described, changes, message):
    folder = described(**changes)
    with pytest.raises(InputError, match=message) as caught:
        read_speech(folder)
    assert str(caught.value).startswith(str(folder / "clips.json"))


@pytest.mark.parametrize("content, message", [
    (None, "found no such file"), (b"", "in JSON"), (b"{", "in JSON"), (b"\xff\xfe", "not UTF-8"),
    (b"[" * 10**5, "in JSON"), (b"[]", "a mapping, found a list"),
    (b"{}", "expected the key 'version', found none"),
    (b'{"version": 1, "clips": []}', "expected the key 'sample_rate_hz', found none"),
])
def test_a_damaged_description_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "clips.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_speech(tmp_path)
