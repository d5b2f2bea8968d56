"""Audio data sets: layouts, formats, unreadable files, windows and items, and that files are decoded once.

In most tests a recording is a *track*: pairs of samples (v, -v) of which each v occurs once in all tracks, so that a
sample tells which recording it is of, and when it sounds there; and its mean is 0, so that it passes unchanged.
"""

import io
import json
import os
import struct
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from pipelines.data import audio_files, spoken_words
from pipelines.data.audio import labels_of
from pipelines.data.audio_files import FULL_SCALE, find_audio_files, load_audio_files, read_audio_file
from pipelines.data.audio_folder import AudioFolder
from pipelines.data.fsdd import FSDD
from pipelines.data.librispeech import LibriSpeech
from pipelines.data.speech import PHONEMES, SAMPLE_RATE_HZ, SILENCE, Clip
from pipelines.data.speechcommands import SpeechCommands
from pipelines.data.spoken_words import SpokenWords, place_clips
from pipelines.data.vctk import VCTK
from pipelines.files.errors import InputError

RATE = 16_000
STRIDE = 1000  # values v of a track: up to 2000 samples, and 32 tracks in 16 bits
CROP, LENGTH = 64, 256


def track(number: int, samples: int) -> np.ndarray:
    """int16 (samples,), samples even."""
    assert samples % 2 == 0 and samples <= 2 * STRIDE
    values = number * STRIDE + 1 + np.arange(samples // 2)
    return np.stack([values, -values], 1).reshape(-1).astype(np.int16)


def unpacked(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each sample, -1 <= x < 1, the number of its track and its time there."""
    values = (x * FULL_SCALE).round().long()
    return (values.abs() - 1) // STRIDE, (values.abs() - 1) % STRIDE * 2 + (values < 0)


def tell(x: torch.Tensor) -> tuple[list[int], list[int]]:
    return tuple(part.tolist() for part in unpacked(x))


def save(path: Path, sound: np.ndarray, rate: int = RATE, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, rate, **options)
    return path


def sine(hz: float, rate: int, seconds: float, level: float = 0.5) -> np.ndarray:
    return level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


@pytest.fixture
def folder(tmp_path):
    """folder({"a/0.wav": 100, ...}) -> root: the n-th is track n, of so many samples."""

    def make(recordings: dict[str, int], root: Path = tmp_path / "sounds") -> Path:
        for number, (path, samples) in enumerate(recordings.items()):
            save(root / path, track(number, samples))
        return root

    return make


@pytest.fixture
def load(tmp_path):
    """load(root, kind, ...) -> data of that kind with small windows and items and a cache of its own."""
    defaults = {"cache": str(tmp_path / "cache"), "crop": CROP, "length": LENGTH, "sample_rate_hz": RATE, "peak": 0.0,
                "workers": 1}
    return lambda root, kind=AudioFolder, **options: kind(str(root), **defaults | options)


def everything(data, split: str, **options):
    return data.split(split).batch(torch.arange(len(data.split(split))), **options)


def tracks(data, split: str) -> list[int]:
    """Of each item the number of its track."""
    return [tell(x[0, :1])[0][0] for x in everything(data, split).x]


def named_labels(data, split: str) -> list[tuple[str, ...]]:
    return [tuple(names[label] for names, label in zip(data.classes, row, strict=True))
            for row in everything(data, split).labels.tolist()]


def flat(count: int, samples: int = 100) -> dict[str, int]:
    return {f"{number:02d}.wav": samples for number in range(count)}


# Layouts


def check_labels(data, paths: list[str], label) -> None:
    """Every item's label is that of its file: the n-th path is track n."""
    for split in data.splits:
        for number, names in zip(tracks(data, split), named_labels(data, split), strict=True):
            assert names == label(paths[number]), (paths[number], names)


def files_of(data, split: str, paths: list[str]) -> list[str]:
    return sorted(paths[number] for number in tracks(data, split))


def test_vctk_as_published(folder, load, tmp_path):
    paths = [f"wav48_silence_trimmed/{speaker}/{speaker}_{number:03d}_{microphone}.flac"
             for microphone in ("mic1", "mic2") for speaker in ("p226", "p225", "s5") for number in (1, 2, 366)]
    paths += ["wav48_silence_trimmed/p280/p280_001_mic1.flac", "wav48_silence_trimmed/p225/p226_009_mic2.flac"]
    root = folder(dict.fromkeys(paths, 100), root=tmp_path / "VCTK-Corpus-0.92")
    for path in paths[:-2]:
        speaker, number = path.split("/")[-1].split("_")[:2]
        text = root / "txt" / speaker / f"{speaker}_{number}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text("Please call Stella.")
    data = load(root, VCTK, validation_fraction=0.25)
    assert data.label_names == ("speaker",) and data.classes == (("p225", "p226", "s5"),)
    assert data.splits == ("train", "validation") and data.name == "vctk" and data.kind == "audio"
    check_labels(data, paths, lambda path: (path.split("/")[1],))
    found = files_of(data, "train", paths) + files_of(data, "validation", paths)
    published = torchaudio.datasets.VCTK_092(str(tmp_path))._sample_ids
    assert sorted(found) == [f"wav48_silence_trimmed/{speaker}/{speaker}_{number}_mic2.flac"
                             for speaker, number in published]
    other = load(root, VCTK, validation_fraction=0.25, microphone="mic1")
    assert other.classes == (("p225", "p226", "p280", "s5"),)
    assert all("mic1" in path for path in files_of(other, "train", paths))
    with pytest.raises(InputError, match="data.microphone: expected mic1 or mic2, found 'mic3'"):
        load(root, VCTK, microphone="mic3")


def test_vctk_before_0_92(folder, load):
    paths = [f"wav48/{speaker}/{speaker}_{number:03d}.wav" for speaker in ("p226", "p225") for number in (1, 2, 3)]
    data = load(folder(dict.fromkeys(paths, 100)), VCTK, validation_fraction=0.34)
    assert data.classes == (("p225", "p226"),) and len(data.split("train")) == len(data.split("validation")) * 2 == 4
    check_labels(data, paths, lambda path: (path.split("/")[1],))


def test_librispeech_as_published(folder, load, tmp_path):
    books = {"train-clean-100": ("103/1240", "1034/121119", "19/198"), "dev-clean": ("84/121123",),
             "test-clean": ("61/70968",), "train-other-500": ("20/205",)}
    paths = [f"{subset}/{book}/{book.replace('/', '-')}-{number:04d}.flac"
             for subset, of in books.items() for book in of for number in range(4)]
    root = folder(dict.fromkeys(paths, 100), root=tmp_path / "LibriSpeech")
    data = load(root, LibriSpeech, validation_fraction=0.25)
    assert data.splits == ("train", "validation") and data.classes == (("103", "1034", "19"),)
    check_labels(data, paths, lambda path: (path.split("/")[1],))
    assert sorted(files_of(data, "train", paths) + files_of(data, "validation", paths)) == sorted(paths[:12])

    published = load(root, LibriSpeech, validation_subsets=["dev-clean"], test_subsets=["test-clean"])
    assert published.splits == ("train", "validation", "test")
    assert published.classes == (("103", "1034", "19", "61", "84"),)
    check_labels(published, paths, lambda path: (path.split("/")[1],))
    for split, subset in zip(published.splits, ("train-clean-100", "dev-clean", "test-clean"), strict=True):
        own = torchaudio.datasets.LIBRISPEECH(str(tmp_path), url=subset)._walker
        assert [Path(path).stem for path in files_of(published, split, paths)] == own and len(own) in (4, 12)

    both = load(root, LibriSpeech, train_subsets=["train-clean-100", "train-other-500"], validation_fraction=0.25)
    assert len(both.split("train")) + len(both.split("validation")) == 16


@pytest.mark.parametrize(("options", "message"), [
    ({"train_subsets": ["train-clean-360"]}, "data.train_subsets: expected a folder .*train-clean-360, found none"),
    ({"test_subsets": ["test-clean"]}, "data.test_subsets: expected SPEAKER.* in .*test-clean, found none"),
    ({"validation_subsets": ["train-clean-100"]}, "data.validation_subsets: expected each subset once, found train-cl"),
    ({"train_subsets": ["../sounds/train-clean-100"]}, "data.train_subsets: expected a folder"),
    ({"train_subsets": [], "test_subsets": ["dev-clean"]},
     "expected audio files for training, found 1 of other splits"),
])
def test_librispeech_subsets_are_checked(options, message, folder, load):
    root = folder({"train-clean-100/1/2/1-2-0000.flac": 100, "dev-clean/3/4/3-4-0000.flac": 100})
    (root / "test-clean").mkdir()
    with pytest.raises(InputError, match=message):
        load(root, LibriSpeech, **options)


def test_speech_commands_as_published(folder, load, tmp_path):
    paths = [f"{word}/{speaker}_nohash_{number}.wav" for speaker in ("0a7c2a8d", "ff00ee11", "1234abcd", "00000000")
             for word in ("yes", "no", "up") for number in (0, 1)]
    noise = ["_background_noise_/pink_noise.wav", "yes/README.wav", "yes/0a7c2a8d_2.wav"]
    root = folder(dict.fromkeys(paths + noise, 100), root=tmp_path / "SpeechCommands" / "speech_commands_v0.02")
    (root / "validation_list.txt").write_text("".join(f"{path}\n" for path in paths if "ff00ee11" in path))
    (root / "testing_list.txt").write_text("".join(f"{path}\n" for path in paths if "1234abcd" in path))
    data = load(root, SpeechCommands)
    assert data.label_names == ("word",) and data.classes == (("no", "up", "yes"),)
    assert data.splits == ("train", "validation", "test")
    check_labels(data, paths, lambda path: (path.split("/")[0],))
    for split, subset in zip(data.splits, ("training", "validation", "testing"), strict=True):
        published = torchaudio.datasets.SPEECHCOMMANDS(str(tmp_path), subset=subset)
        own = [published.get_metadata(number)[0] for number in range(len(published))]
        assert files_of(data, split, paths) == sorted(path.split("/", 1)[1] for path in own)
        assert len(own) == (12 if split == "train" else 6)
    with open(root / "validation_list.txt", "a") as file:
        file.write("yes/99999999_nohash_0.wav\n")  # listed, not there: as in a part of the data
    assert files_of(load(root, SpeechCommands), "validation", paths) == files_of(data, "validation", paths)
    (root / "testing_list.txt").write_text("yes/99999999_nohash_0.wav\n")
    with pytest.raises(InputError, match="testing_list.txt: expected names of recordings in this folder, found none"):
        load(root, SpeechCommands)
    (root / "testing_list.txt").unlink()
    with pytest.raises(InputError, match="testing_list.txt: expected the published list .*, found nothing"):
        load(root, SpeechCommands)


def test_spoken_digits_as_published(folder, load):
    paths = [f"{digit}_{speaker}_{number}.{'wav' if number % 2 else 'flac'}" for digit in (7, 0)
             for speaker in ("theo", "george") for number in range(7)]
    data = load(folder(dict.fromkeys(paths + ["notes_7.wav"], 100)), FSDD, validation_fraction=0.25)
    assert data.label_names == ("digit", "speaker") and data.classes == (("0", "7"), ("george", "theo"))
    check_labels(data, paths, lambda path: tuple(path.split("_")[:2]))
    assert files_of(data, "test", paths) == sorted(path for path in paths if int(path.split("_")[2].split(".")[0]) < 5)
    assert len(data.split("train")) == 6 and len(data.split("validation")) == 2


def test_a_flat_folder_has_no_labels_and_splits_never_overlap(folder, load):
    root = folder(flat(32))
    data = load(root, validation_fraction=0.25)
    assert data.label_names == () and data.classes == () and data.splits == ("train", "validation")
    assert data.name == "sounds" and data.shape == (1, LENGTH) and everything(data, "train").labels.shape == (24, 0)
    assert len(data.split("validation")) == 8
    assert sorted(tracks(data, "train") + tracks(data, "validation")) == list(range(32))
    assert tracks(load(root, validation_fraction=0.25), "validation") == tracks(data, "validation")
    other = load(root, validation_fraction=0.25, seed=1)
    assert tracks(other, "validation") != tracks(data, "validation")  # by chance: 1 / (32 choose 8) = 1e-7
    assert load(root, validation_fraction=0.25, name="mine").name == "mine"


def test_folders_of_speakers_give_sorted_labels(folder, load):
    paths = [f"{name}/deep/{number}.flac" for name in ("zebra", "ant", "Bee") for number in range(4)]
    data = load(folder(dict.fromkeys(paths, 100)), validation_fraction=0.25)
    assert data.label_names == ("speaker",) and data.classes == (("Bee", "ant", "zebra"),)
    check_labels(data, paths, lambda path: (path.split("/")[0],))


@pytest.mark.parametrize("held_out", ["validation", "val", "valid"])
def test_folders_of_splits_are_taken_as_they_are(held_out, folder, load):
    paths = ["train/b/0.wav", "train/a/1.wav", f"{held_out}/b/2.wav", "test/a/3.wav", "test/b/4.wav"]
    data = load(folder(dict.fromkeys(paths, 100)))
    assert data.splits == ("train", "validation", "test") and data.classes == (("a", "b"),)
    assert [sorted(tracks(data, split)) for split in data.splits] == [[0, 1], [2], [3, 4]]
    check_labels(data, paths, lambda path: (path.split("/")[1],))


def test_class_numbers_are_of_sorted_names():
    names = [f"speaker{number}" for number in range(30)]  # in a set's order by chance: 1 / 30!
    label_names, classes, labels = labels_of({"speaker": names[::-1], "digit": ["1", "0"] * 15})
    assert label_names == ("speaker", "digit") and classes == (tuple(sorted(names)), ("0", "1"))
    assert [classes[0][row] for row in labels[:, 0]] == names[::-1]
    assert labels[:, 1].tolist() == [1, 0] * 15 and labels.dtype == torch.int64


@pytest.mark.parametrize(("prepare", "message"), [
    (lambda root: None, "expected a folder of audio files, found nothing"),
    (lambda root: root.write_text("a file"), "expected a folder of audio files, found a file"),
    (lambda root: root.mkdir(), "expected audio files .*, found none"),
    (lambda root: (root.mkdir(), (root / "notes.txt").write_text("no sound")), "expected audio files .*, found none"),
    (lambda root: (save(root / "train/0.wav", track(0, 100)), (root / "test").mkdir()),
     "test: expected audio files .*, found none"),
    (lambda root: save(root / "test/0.wav", track(0, 100)), "expected a folder train next to test, found none"),
    (lambda root: [save(root / name / "0.wav", track(0, 100)) for name in ("train", "val", "validation")],
     "expected one folder for validation, found validation and val"),
    (lambda root: [save(root / name, track(0, 100)) for name in ("train/a/0.wav", "train/b/0.wav", "test/c/0.wav")],
     "c/0.wav: expected a file in the folder of one of 2 training speakers, found 'c'"),
    (lambda root: [save(root / name, track(0, 100)) for name in ("train/a/0.wav", "train/b/0.wav", "test/0.wav")],
     "0.wav: expected a file in the folder of one of 2 training speakers, found 'no such folder'"),
    (lambda root: (save(root / "train/0.wav", track(0, 100)), save(root / "train/1.wav", track(1, 100)),
                   save(root / "test/0.wav", track(0, 100)).write_bytes(b"")),
     "expected audio files for test, found none that can be read"),
    (lambda root: (root.mkdir(), [(root / name).write_bytes(content) for name, content in damaged().items()]),
     "expected an audio file, found .*; none of 8 can be read"),
], ids=["missing", "a file", "empty", "no sounds", "an empty split", "no train", "two validations", "unknown speaker",
        "no speaker", "none readable in test", "none readable"])
def test_unusable_folders_are_refused(prepare, message, load, tmp_path):
    root = tmp_path / "sounds"
    prepare(root)
    with pytest.raises(InputError, match=message) as error:
        load(root, validation_fraction=0.5)
    assert str(error.value).startswith(str(root))
    assert not list((tmp_path / "cache").glob("*.tmp"))


@pytest.mark.parametrize(("kind", "message"), [(VCTK, "VCTK"), (SpeechCommands, "SpeechCommands"), (FSDD, "FSDD")])
def test_another_layout_is_refused(kind, message, folder, load):
    root = folder({"0.wav": 100})
    for name in ("validation_list.txt", "testing_list.txt"):
        (root / name).write_text("")
    with pytest.raises(InputError, match=f"expected audio files in the layout of {message}, found none"):
        load(root, kind)


@pytest.mark.parametrize(("options", "message"), [
    ({"sample_rate_hz": 0}, "data.sample_rate_hz: expected a number >= 1000, found 0"),
    ({"crop": 0}, "data.crop: expected a number >= 1, found 0"),
    ({"length": 0}, "data.length: expected a number >= 1, found 0"),
    ({"peak": 1.5}, "data.peak: expected a number from 0 to 1, found 1.5"),
    ({"workers": -1}, "data.workers: expected a number >= 0, found -1"),
    ({"validation_fraction": 0.0}, "data.validation_fraction: expected a number above 0 and below 1, found 0.0"),
])
def test_wrong_settings_are_named(options, message, folder, load):
    with pytest.raises(InputError) as error:
        load(folder(flat(2)), **options)
    assert message == str(error.value)


# Windows and items


def test_windows_lie_in_one_recording_of_training_and_cover_it(folder, load):
    """Bug 17: windows of validation overlap those of training, windows straddle files."""
    lengths = [CROP + 8] * 4 + [1500] * 4 + [CROP, 700, 300, LENGTH]
    recordings = {f"{number:02d}.wav": samples for number, samples in enumerate(lengths)}
    data = load(folder(recordings), validation_fraction=0.34)
    split, trained = data.split("train"), torch.tensor(tracks(data, "train"))
    assert len(split) > len(trained.unique()) >= 6  # long recordings are several items
    assert {CROP + 8, 1500} <= {lengths[number] for number in trained.tolist()}
    epochs = 300
    batch = split.batch(torch.arange(len(split)).repeat(epochs), 0, torch.arange(epochs).repeat_interleave(len(split)))
    assert batch.x.shape == (epochs * len(split), 1, CROP) and (batch.lengths == CROP).all()
    numbers, times = (part.reshape(-1, CROP) for part in unpacked(batch.x))
    assert (numbers == trained.repeat(epochs)[:, None]).all()
    assert (times == times[:, :1] + torch.arange(CROP)).all()
    assert (times[:, -1] < torch.tensor(lengths)[numbers[:, -1]]).all()
    for number in trained.unique().tolist():
        # of the 9 windows of the shortest one is missed in 300 draws with probability below 9 (8/9)^300 = 4e-15; of the
        # longest, which are 6 items, all 21 that hold sample 20 with (1416/1437)^1800 = 3e-12, and later ones less
        ends = {CROP + 8: 0, 1500: 20}.get(lengths[number])
        seen = set(times[numbers == number].tolist())
        assert ends is None or seen >= set(range(ends, lengths[number] - ends)), number
    held_out = everything(data, "validation")
    real = torch.arange(LENGTH) < held_out.lengths[:, None]
    others = set(zip(*(part.reshape(-1, LENGTH)[real].tolist() for part in unpacked(held_out.x)), strict=True))
    assert len(others) == held_out.lengths.sum() > 500
    assert not others & set(zip(numbers.reshape(-1).tolist(), times.reshape(-1).tolist(), strict=True))


def test_windows_are_a_function_of_seed_epoch_and_index(folder, load):
    split = load(folder(flat(8, 1000)), validation_fraction=0.25).split("train")
    whole = split.batch(torch.arange(len(split)), seed=3, epoch=5)
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    shuffled = split.batch(order, seed=3, epoch=torch.full((len(split),), 5))
    assert torch.equal(shuffled.x, whole.x[order]) and torch.equal(shuffled.lengths, whole.lengths[order])
    for index in (0, 7, 17):
        assert torch.equal(split.batch(torch.tensor([index]), seed=3, epoch=5).x[0], whole.x[index])
    mixed = split.batch(torch.tensor([2, 2, 2]), seed=3, epoch=torch.tensor([4, 5, 6])).x
    assert torch.equal(mixed[1], whole.x[2]) and not torch.equal(mixed[0], mixed[1])
    for other in ({"seed": 4, "epoch": 5}, {"seed": 3, "epoch": 6}):
        # of 24 windows among 937 each, 5 expected the same: never all
        assert not torch.equal(split.batch(torch.arange(len(split)), **other).x, whole.x)
    plain = split.batch(torch.arange(len(split)))
    assert torch.equal(split.batch(torch.arange(len(split)), seed=9, epoch=-1).x, plain.x)


def test_items_that_are_partly_augmented_are_refused(folder, load):
    split = load(folder(flat(4)), validation_fraction=0.25).split("train")
    with pytest.raises(InputError, match="extract.views: expected 1 for audio"):
        split.batch(torch.tensor([0, 1]), epoch=torch.tensor([-1, 0]))


def test_what_is_shorter_is_padded_with_zeros_and_says_its_length(folder, load):
    data = load(folder({"0.wav": CROP - 4, "1.wav": CROP - 4}), validation_fraction=0.5)
    for split in data.splits:
        for epoch, size in ((None, LENGTH), (7, CROP)):
            batch = everything(data, split, epoch=epoch)
            assert batch.x.shape == (1, 1, size) and batch.x.dtype == torch.float32
            assert batch.lengths.tolist() == [CROP - 4]
            assert tell(batch.x[0, 0, : CROP - 4])[1] == list(range(CROP - 4)) and not batch.x[0, 0, CROP - 4 :].any()


def test_a_long_recording_becomes_several_items(folder, load):
    tenth = LENGTH // 10  # 25: a last piece of 25.6 samples and more is an item
    full = 2 * LENGTH
    lengths = [full, full + 2, full + tenth - 1, full + tenth + 1, full + LENGTH - 2, 2 * tenth, 10]
    paths = [f"train/{number}.wav" for number in range(len(lengths))] + ["test/0.wav"]
    data = load(folder(dict(zip(paths, [*lengths, 100], strict=True))), validation_fraction=0.15)
    found = {}
    for split in ("train", "validation"):
        batch = everything(data, split)
        for x, length in zip(batch.x[:, 0], batch.lengths.tolist(), strict=True):
            numbers, times = tell(x[:length])
            assert len(set(numbers)) == 1 and not x[length:].any() and 0 < length <= LENGTH
            found.setdefault(numbers[0], []).extend(times)  # the items of a recording in their order
    kept = [full, full, full, full + tenth + 1, full + LENGTH - 2, 2 * tenth, 10]
    assert found == {number: list(range(samples)) for number, samples in enumerate(kept)}


def test_what_the_cache_has_no_room_for_is_decoded_when_it_is_asked_for(load, tmp_path):
    """Resampled, so that the very sums of the resampler have to be repeated."""
    for number in range(8):
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, 600 + 50 * number)
        save(tmp_path / "files" / f"{number}.wav", noise, 11_025)
    options = {"validation_fraction": 0.4, "peak": 0.9}
    whole = load(tmp_path / "files", **options)
    for most in (1, len(whole.samples)):  # bytes: none of the recordings, and about half
        some = load(tmp_path / "files", cache_bytes=most, workers=2, **options)
        assert len(some.samples.kept) * 2 <= most and len(some.samples) == len(whole.samples)
        assert some.variance == whole.variance and (most == 1 or len(some.samples.kept))
        for split in whole.splits:
            assert torch.equal(some.split(split).resident("cpu").x, whole.split(split).resident("cpu").x)
            for given in ({}, {"seed": 2, "epoch": 1}):
                mine, theirs = everything(some, split, **given), everything(whole, split, **given)
                assert torch.equal(mine.x, theirs.x) and torch.equal(mine.lengths, theirs.lengths)
    some = load(tmp_path / "files", cache_bytes=1, **options)
    save(tmp_path / "files" / "7.wav", np.zeros(100), 11_025)
    with pytest.raises(InputError, match="7.wav: expected the recording of .* samples that was there at first"):
        some.samples[len(some.samples) - 1 : len(some.samples)]


def test_variance_is_of_the_training_samples_without_the_padding(folder, load, monkeypatch):
    monkeypatch.setattr("pipelines.data.audio.CHUNK", 100)
    data = load(folder({"train/0.wav": 30, "train/1.wav": 1000, "validation/2.wav": 700}))
    samples = np.concatenate([track(0, 30), track(1, 1000)]) / FULL_SCALE
    assert data.variance == pytest.approx(samples.var(), rel=1e-12)


def test_a_split_moves(folder, load):
    split = load(folder(flat(12, 600)), validation_fraction=0.25).split("validation")
    indices = torch.arange(len(split))
    devices = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    for moved in [split.to(device) for device in devices] + [split.resident("cpu")]:
        for epoch in (None, 3):
            for here, there in zip(split.batch(indices, 1, epoch), moved.batch(indices, 1, epoch), strict=True):
                assert here is there is None or torch.equal(here, there.cpu()) and there.device == moved.device
    assert len(split.resident("cpu").x) == 3 * 600 < len(split.x)


# Decoding of a file


@pytest.mark.parametrize(("suffix", "options", "tolerance"), [
    ("wav", {"subtype": "PCM_U8"}, 1 / 128), ("wav", {"subtype": "PCM_16"}, 0), ("wav", {"subtype": "PCM_24"}, 0),
    ("wav", {"subtype": "PCM_32"}, 0), ("wav", {"subtype": "FLOAT"}, 0), ("wav", {"subtype": "DOUBLE"}, 0),
    ("flac", {"subtype": "PCM_16"}, 0), ("flac", {"subtype": "PCM_24"}, 0), ("aiff", {"subtype": "PCM_16"}, 0),
    ("wav", {"subtype": "ULAW"}, 0.02), ("ogg", {"subtype": "VORBIS"}, 0.05), ("mp3", {}, 0.05),
])
def test_formats_agree_within_their_quantisation(suffix, options, tolerance, tmp_path):
    """A sine that 16 bits hold exactly: whatever holds more bits is no different."""
    expected = np.rint(sine(440, RATE, 0.25) * FULL_SCALE) / FULL_SCALE
    sound = read_audio_file(save(tmp_path / f"0.{suffix}", expected, **options), RATE)
    assert sound.dtype == np.float32 and sound.shape == expected.shape
    assert np.abs(sound - expected).max() <= tolerance + 1e-6


def test_bits_beyond_16_are_rounded_off(folder, load, tmp_path):
    fine = track(3, 100) / FULL_SCALE + np.tile([0.3, -0.3], 50) / FULL_SCALE
    root = folder({"0.wav": 100})
    for name, subtype in (("1.wav", "FLOAT"), ("2.flac", "PCM_24"), ("3.wav", "PCM_24")):
        save(root / name, fine, subtype=subtype)
    data = load(root, validation_fraction=0.25)
    waves = {number: x for split in data.splits for number, x in zip(tracks(data, split), everything(data, split).x)}
    assert set(waves) == {0, 3} and tell(waves[3][0, :100])[1] == list(range(100))


@pytest.mark.parametrize(("rate", "to"), [(44_100, 16_000), (48_000, 16_000), (22_050, 8000), (8000, 16_000),
                                          (44_101, 16_000), (11_127, 8000), (96_000, 8000)])
@pytest.mark.parametrize("hz", [100, 2000])
def test_resampling_keeps_frequency_phase_and_level(rate, to, hz, tmp_path):
    sound = read_audio_file(save(tmp_path / "0.wav", sine(hz, rate, 0.5), rate, subtype="FLOAT"), to)
    assert abs(len(sound) - to / 2) <= 1
    expected, inner = sine(hz, to, 0.5), slice(to // 20, -to // 20)
    # a phase that is off by 0.01 makes 0.005; measured are 0.0016 at most
    assert np.abs(sound[: len(expected)][inner] - expected[: len(sound)][inner]).max() < 0.004


def test_strange_rates_take_no_gigabytes(tmp_path):
    """Two rates without a common factor would need 16,000 filters of 100,000 taps, 6 GB."""
    path = save(tmp_path / "0.wav", sine(1000, 99_991, 0.1), 99_991)
    assert abs(len(read_audio_file(path, RATE)) - 1600) <= 1
    with pytest.raises(ValueError, match="its sample rate is 999 Hz"):
        read_audio_file(save(tmp_path / "1.wav", track(0, 100), 999), RATE)


def test_channels_are_averaged(tmp_path):
    left, right = track(2, 200).astype(int), track(5, 200).astype(int)
    for channels in ([left, right], [left, right, left, right]):
        path = save(tmp_path / "0.flac", np.stack(channels, 1).astype(np.int16))
        assert (read_audio_file(path, RATE) * FULL_SCALE == (left + right) / 2).all()
    assert not read_audio_file(save(tmp_path / "1.wav", np.stack([left, -left], 1).astype(np.int16)), RATE).any()


def test_a_long_file_of_many_channels_is_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(audio_files, "BLOCK", 37)
    for name in ("0.wav", "0.flac"):
        path = save(tmp_path / name, np.stack([track(1, 1000)] * 3, 1))
        assert (read_audio_file(path, RATE) * FULL_SCALE == track(1, 1000)).all()


@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_a_constant_offset_is_removed(rate, tmp_path):
    constant = read_audio_file(save(tmp_path / "0.wav", np.full(2000, 0.3), rate, subtype="FLOAT"), RATE)
    assert np.abs(constant).max() < 1e-6  # at its ends too, where a filter would see a step
    with_offset = read_audio_file(save(tmp_path / "1.wav", 0.3 + sine(441, rate, 0.1), rate, subtype="FLOAT"), RATE)
    without = read_audio_file(save(tmp_path / "2.wav", sine(441, rate, 0.1), rate, subtype="FLOAT"), RATE)
    assert np.abs(with_offset - without).max() < 1e-6 and abs(without.mean()) < 0.01


@pytest.mark.parametrize("peak", [0.0, 0.9])
def test_silence_survives(peak, load, tmp_path):
    for number in range(2):
        save(tmp_path / f"sounds/{number}.flac", np.zeros(300, np.int16))
    data = load(tmp_path / "sounds", validation_fraction=0.5, peak=peak)
    batch = everything(data, "train")
    assert batch.lengths.tolist() == [256, 44] and not batch.x.any() and data.variance == 0


def test_a_peak_is_reached_but_a_hiss_stays_one(tmp_path):
    for level, expected in ((0.02, 0.9), (1.0, 0.9), (0.001, 0.09)):
        path = save(tmp_path / "0.wav", sine(440, RATE, 0.1, level), subtype="FLOAT")
        assert np.abs(read_audio_file(path, RATE, peak=0.9)).max() == pytest.approx(expected, rel=0.01)
        assert np.abs(read_audio_file(path, RATE)).max() == pytest.approx(level, rel=0.01)
    assert read_audio_file(save(tmp_path / "1.wav", sine(440, RATE, 0.1, 3.0), subtype="FLOAT"), RATE).max() == 1.0


# Unreadable files


def content(sound: np.ndarray, suffix: str, **options) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, RATE, format=suffix.upper(), **options)
    return buffer.getvalue()


def endless_flac() -> bytes:
    """A FLAC file of a few bytes that claims 2^36 - 1 samples: the low 36 bits of bytes 18 to 25."""
    whole = bytearray(content(track(0, 100), "flac"))
    whole[21] |= 0x0F
    whole[22:26] = b"\xff" * 4
    return bytes(whole)


def damaged() -> dict[str, bytes]:
    """Names and contents; the message for each is in `REASONS`."""
    noise = np.random.default_rng(0).uniform(-1, 1, 4000)
    wav, flac = content(noise, "wav"), content(noise, "flac")
    nan = content(np.where(np.arange(4000) == 7, np.nan, noise), "wav", subtype="FLOAT")
    return {"cut.flac": flac[: len(flac) // 2], "cut.wav": wav[: len(wav) // 2], "empty.wav": b"", "nan.wav": nan,
            "text.wav": b"no sound", "header.wav": wav[:44], "endless.flac": endless_flac(),
            "none.wav": content(noise[:0], "wav")}


REASONS = {
    "cut.flac": "flac decoder lost sync", "cut.wav": "it ends before the length that its header gives",
    "empty.wav": "Format not recognised", "text.wav": "Format not recognised", "nan.wav": "it contains NaN or infinity",
    "header.wav": "it ends before the length that its header gives", "none.wav": "it contains no samples",
    "endless.flac": "it is too long: 68719476735 samples",
}


def test_unreadable_sounds_are_named_counted_and_left_out(folder, load, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.data.folders.NAMED", len(REASONS))
    root = folder(flat(20))
    before = {split: set(tracks(load(root, validation_fraction=0.25), split)) for split in ("train", "validation")}
    assert capsys.readouterr().err == ""
    for name, bad in damaged().items():
        (root / name).write_bytes(bad)
    for place in (root, root, tmp_path / "elsewhere"):  # from the cache, and after a move: still said, as it is now
        if not place.exists():
            root.rename(place)
        data = load(place, name="sounds", validation_fraction=0.25)
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
        assert len(lines) == 1 and "left out 8 of 28 audio files" in lines[0]
        for name, reason in REASONS.items():
            assert f"{place / name}: {reason}" in lines[0]
        assert sorted(tracks(data, "train") + tracks(data, "validation")) == list(range(20))
    assert len(list((tmp_path / "cache").glob("*.json"))) == 2  # not decoded again
    assert len(before["train"]) == 15


def test_a_damaged_sound_moves_no_other_to_another_split(folder, load):
    root = folder(flat(20))
    before = {split: set(tracks(load(root, validation_fraction=0.25), split)) for split in ("train", "validation")}
    (root / "07.wav").write_bytes(b"damaged")
    after = {split: set(tracks(load(root, validation_fraction=0.25), split)) for split in ("train", "validation")}
    assert {split: numbers - {7} for split, numbers in before.items()} == after


def test_every_sound_has_its_place_whatever_process_decodes_it(load, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(audio_files, "CHUNK", 3)
    lengths = [100 + 20 * (number % 7) for number in range(20)]
    for number, samples in enumerate(lengths):
        save(tmp_path / f"sounds/{number:02d}.wav", track(number, samples))
    (tmp_path / "sounds/10.wav").write_bytes(b"damaged")
    data = load(tmp_path / "sounds", validation_fraction=0.25, workers=3)
    assert "10.wav" in capsys.readouterr().err
    found = {}
    for split in data.splits:
        batch = everything(data, split)
        for number, x, length in zip(tracks(data, split), batch.x[:, 0], batch.lengths.tolist(), strict=True):
            assert tell(x[:length]) == ([number] * length, list(range(length)))
            found[number] = length
    assert found == {number: samples for number, samples in enumerate(lengths) if number != 10}


@pytest.mark.parametrize("cut", [1, 1000, 7900])
@pytest.mark.parametrize("form", ["wav", "aiff", "au", "w64", "rf64", "caf", "flac", "ogg"])
def test_a_file_that_was_cut_is_not_taken_for_whole(form, cut, tmp_path):
    """A cut of less than 64 bytes may pass, as lengths that programs write are off by as much. So may one of MP3, which
    is made to be cut anywhere."""
    whole = content(np.random.default_rng(0).uniform(-1, 1, 4000), form)
    (tmp_path / f"1.{form}").write_bytes(whole[: -min(cut, len(whole) - 1)])
    if cut == 1:
        if form not in ("flac", "ogg", "caf"):  # these are refused, rightly
            assert len(read_audio_file(tmp_path / f"1.{form}", RATE)) >= 3999
    else:
        with pytest.raises((ValueError, soundfile.LibsndfileError)):
            read_audio_file(tmp_path / f"1.{form}", RATE)


def test_an_mp3_that_was_cut_in_half_is_not_taken_for_whole(tmp_path):
    whole = content(sine(440, RATE, 1.0), "mp3")
    (tmp_path / "0.mp3").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="it ends after [0-9]+ of 16000 samples"):
        read_audio_file(tmp_path / "0.mp3", RATE)


@pytest.mark.parametrize("riff, data", [(2**32 - 1, 2**32 - 1), (2**31 - 1 + 36, 2**31 - 1), (239, 200), (10**6, 200)])
def test_sizes_that_programs_write_into_a_pipe_are_no_damage(riff, data, tmp_path):
    """ffmpeg and sox cannot go back to write a length, and say the largest; some leave that of the whole file wrong."""
    whole = bytearray(content(track(1, 100), "wav"))
    whole[4:8], whole[40:44] = struct.pack("<I", riff), struct.pack("<I", data)
    (tmp_path / "0.wav").write_bytes(whole)
    assert tell(torch.from_numpy(read_audio_file(tmp_path / "0.wav", RATE)))[1] == list(range(100))


def test_an_unknown_length_is_said_to_be_that(tmp_path):
    whole = bytearray(endless_flac())
    whole[21] &= 0xF0
    whole[22:26] = b"\0" * 4
    (tmp_path / "0.flac").write_bytes(whole)
    with pytest.raises(ValueError, match="its header gives no length"):
        read_audio_file(tmp_path / "0.flac", RATE)


def test_loading_a_few_names_those_that_fail(tmp_path, capsys):
    good, bad = save(tmp_path / "good.flac", track(1, 100)), tmp_path / "bad.wav"
    bad.write_bytes(b"no sound")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        paths, loaded = load_audio_files([bad, good], RATE)
        assert torch.get_num_threads() == 2  # those of the process that asks are its own
    finally:
        torch.set_num_threads(threads)
    assert paths == [good] and tell(loaded[0]) == ([1] * 100, list(range(100))) and loaded[0].dtype == torch.float32
    assert str(bad) in capsys.readouterr().err
    with pytest.raises(InputError, match="bad.wav: expected an audio file, found Format not .*; none of 1 can be read"):
        load_audio_files([bad], RATE)
    assert find_audio_files(good) == [good] and find_audio_files(tmp_path) == [bad, good]
    (tmp_path / "empty").mkdir()
    for path, found in (("nowhere", "found nothing"), ("nowhere.wav", "found nothing"), ("empty", "found none")):
        with pytest.raises(InputError, match=found):
            find_audio_files(tmp_path / path)


# The cache


def test_sounds_are_decoded_once(folder, load, monkeypatch, tmp_path):
    root = folder(flat(3))
    first = load(root, validation_fraction=0.34)
    with monkeypatch.context() as patch:
        patch.setattr(audio_files, "_decode", None)
        again = load(root, validation_fraction=0.34)
        for changed in ({"sample_rate_hz": 8000}, {"peak": 0.5}):  # the samples depend on these
            with pytest.raises(TypeError, match="not callable"):
                load(root, validation_fraction=0.34, **changed)
        load(root, validation_fraction=0.67, seed=1, crop=10, length=20)  # and not on these
    assert torch.equal(everything(first, "train").x, everything(again, "train").x)
    save(root / "01.wav", track(9, 100))
    os.utime(root / "01.wav", ns=(0, 0))  # a change within the clock's resolution is a change
    changed = load(root, validation_fraction=0.34)
    assert sorted(tracks(changed, "train") + tracks(changed, "validation")) == [0, 2, 9]
    assert sorted(tracks(first, "train") + tracks(first, "validation")) == [0, 1, 2]  # it has its own file


def test_an_interrupted_decoding_leaves_nothing_that_counts(folder, load, monkeypatch, tmp_path):
    root = folder(flat(4))

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(audio_files, "_refuse_if_all", interrupted)  # at the end of decoding
        with pytest.raises(KeyboardInterrupt):
            load(root, validation_fraction=0.25)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]
    assert len(load(root, validation_fraction=0.25).split("train")) == 3


@pytest.mark.parametrize("damage", [
    lambda samples, notes: os.truncate(samples, 100), lambda samples, notes: samples.unlink(),
    lambda samples, notes: notes.write_bytes(b""), lambda samples, notes: notes.write_text("[]"),
    lambda samples, notes: notes.write_text(notes.read_text().replace("100", "101")),
], ids=["cut", "gone", "empty notes", "a list", "other lengths"])
def test_a_damaged_cache_is_made_anew(damage, folder, load, tmp_path, capsys):
    root = folder(flat(2))
    first = everything(load(root, validation_fraction=0.5), "train").x.clone()  # it is mapped
    (samples,), (notes,) = ((tmp_path / "cache").glob(f"*.{suffix}") for suffix in ("i16", "json"))
    damage(samples, notes)
    again = load(root, validation_fraction=0.5)
    assert torch.equal(first, everything(again, "train").x)
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert str(tmp_path / "cache") in line and line.endswith("it is made anew")


# Synthetic speech


def clips_of(*said: tuple[str, str]) -> list[Clip]:
    return [Clip(f"{number:05d}.flac", voice, (word,), 1, ()) for number, (word, voice) in enumerate(said)]


def test_every_word_in_every_voice_is_trained_on_if_there_are_clips_enough():
    pairs = [(word, voice) for word in ("one", "two", "three") for voice in ("a", "b")]
    clips = clips_of(*pairs, *pairs[:5])
    for seed in range(20):
        places = place_clips(clips, 3, 2, seed)
        assert [places.count(split) for split in ("train", "validation", "test")] == [6, 3, 2]
        trained = {(clip.words[0], clip.voice) for clip, split in zip(clips, places, strict=True) if split == "train"}
        assert trained == set(pairs)
    assert place_clips(clips, 3, 2, 0) == place_clips(clips, 3, 2, 0)
    assert len({tuple(place_clips(clips, 3, 2, seed)) for seed in range(20)}) > 10  # of 10 * 2^5 and more
    few = place_clips(clips, 6, 2, 0)  # not enough: the rest is held out of single clips
    assert [few.count(split) for split in ("train", "validation", "test")] == [3, 6, 2]


@pytest.fixture
def spoken(tmp_path, monkeypatch, load):
    """spoken(...) -> SpokenWords of 12 clips that stand for the synthesiser's: zeros in silence, else a tone."""
    rate, folder = SAMPLE_RATE_HZ, tmp_path / "spoken" / "speech-0"
    words, voices = ["one", "two"], ["en-gb+a", "en-us+b"]

    def speak(root, clips, words_per_clip, number_of_voices, seed, workers):
        folder.mkdir(exist_ok=True)
        draws, notes = np.random.default_rng(0), []
        for number in range(clips):
            symbols = [SILENCE, *draws.choice(PHONEMES[1:], 3), SILENCE, PHONEMES[5], SILENCE]
            ends = np.cumsum(draws.integers(700, 1500, len(symbols))).tolist()
            wave = sine(500, rate, 1)[: ends[-1]]
            phonemes = [(str(symbol), start, end) for symbol, start, end in zip(symbols, [0, *ends], ends)]
            for symbol, start, end in phonemes:
                wave[start:end] *= symbol != SILENCE
            save(folder / f"{number:05d}.flac", wave, rate)
            notes.append({"file": f"{number:05d}.flac", "voice": voices[number % 2], "samples": ends[-1],
                          "words": [words[number // 2 % 2]] * words_per_clip, "phonemes": phonemes})
        (folder / "clips.json").write_text(json.dumps({"version": 1, "sample_rate_hz": rate, "voices": voices,
                                                       "words": words, "clips": notes}))
        return folder

    monkeypatch.setattr(spoken_words, "generate_speech", speak)
    defaults = {"clips": 12, "voices": 2, "sample_rate_hz": 8000, "length": 1024, "validation_fraction": 0.25,
                "test_fraction": 0.1}
    return lambda **options: load(tmp_path / "spoken", SpokenWords, **defaults | options)


def test_phonemes_tile_the_items_and_fit_the_sound(spoken):
    data = spoken()
    assert {split: len(set(data._items[split][0].tolist())) for split in data.splits} == {
        "train": 8, "validation": 3, "test": 1}
    checked = 0
    for split in data.splits:
        batch, phonemes = everything(data, split), data.phonemes(split)
        assert len(phonemes) == len(batch.x) and {len(row) for row in batch.labels.tolist()} == {2}
        for x, length, said in zip(batch.x[:, 0], batch.lengths.tolist(), phonemes, strict=True):
            assert said[0].start == 0 and said[-1].end == length
            assert all(before.end == after.start for before, after in zip(said, said[1:]))
            for symbol, start, end in said:
                if end - start >= 48:  # 6 samples on either side are within the filter's reach; two periods are left
                    inner = x[start + 8 : end - 8].double()
                    checked += 1
                    assert inner.abs().max() < 0.02 if symbol == SILENCE else inner.std() > 0.3, (symbol, start, end)
    assert checked > 60
    whole = [phoneme.symbol for phoneme in spoken(length=8192).phonemes("test")[0]]
    (clip,) = (data.clips[number] for number in set(data._items["test"][0].tolist()))
    assert whole == [phoneme.symbol for phoneme in clip.phonemes]


def test_words_and_voices_are_labels(spoken):
    data = spoken(length=8192)
    assert data.label_names == ("word", "voice") and data.classes == (("one", "two"), ("en-gb+a", "en-us+b"))
    for split in data.splits:
        clips = [data.clips[number] for number in data._items[split][0]]
        assert named_labels(data, split) == [(clip.words[0], clip.voice) for clip in clips]
    held_out = [sorted(set(spoken(seed=seed)._items["validation"][0].tolist())) for seed in range(4)]
    assert len(set(map(tuple, held_out))) > 1  # 3 of 8 spare clips: all four the same with probability (1/56)^3 = 6e-6
    several = spoken(words_per_clip=3, test_fraction=0.0)
    assert several.label_names == ("voice",) and several.splits == ("train", "validation")


@pytest.mark.parametrize(("options", "message"), [
    ({"validation_fraction": 0.0}, "data.validation_fraction: expected between 1 and 11 of 12 items, found 0"),
    ({"test_fraction": 0.75}, "data.test_fraction: expected 0 to 8 of 12 clips, found 9"),
    ({"test_fraction": -0.5}, "data.test_fraction: expected 0 to 8 of 12 clips, found -6"),
    ({"sample_rate_hz": 10}, "data.sample_rate_hz: expected a number >= 1000, found 10"),
])
def test_wrong_settings_are_named_before_anything_is_spoken(options, message, spoken, tmp_path):
    with pytest.raises(InputError) as error:
        spoken(**options)
    assert str(error.value) == message and not (tmp_path / "spoken" / "speech-0").exists()


@pytest.mark.skipif(find_spec("espeakng_loader") is None, reason="the extra [speech] is not installed")
def test_words_are_spoken_on_first_use(load, tmp_path, monkeypatch):
    options = {"clips": 8, "voices": 2, "sample_rate_hz": 8000, "length": 8192, "validation_fraction": 0.25,
               "test_fraction": 0.25}
    data = load(tmp_path / "deep" / "spoken", SpokenWords, **options)
    assert {split: len(data.split(split)) for split in data.splits} == {"train": 4, "validation": 2, "test": 2}
    for split in data.splits:
        batch = everything(data, split)
        assert 0.05 < batch.x.abs().max() < 1
        assert [said[-1].end for said in data.phonemes(split)] == batch.lengths.tolist()
    monkeypatch.setattr("pipelines.data.speech._generate", None)  # so that it cannot be spoken again
    again = load(tmp_path / "deep" / "spoken", SpokenWords, **options)
    assert torch.equal(everything(data, "train").x, everything(again, "train").x)
