"""Speech through the commands, end to end, on a small tree of recordings laid out as the Free Spoken Digit Dataset."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from pipelines.api import load
from pipelines.data.audio_folder import AudioFolder
from pipelines.data.codes import CodeData
from pipelines.data.fsdd import FSDD
from pipelines.files.errors import InputError
from pipelines.kinds import kind_of
from pipelines.runs.store import Run, load_stage1

SMALL = [
    "experiment=fsdd", "run=small", "data.crop=512", "data.length=1024", "data.validation_fraction=0.2",
    "autoencoder.encoder.hidden=8", "autoencoder.bottleneck.num_codes=16", "autoencoder.bottleneck.dim=4",
    "autoencoder.decoder.upsampler.hidden=8", "autoencoder.decoder.upsampler.channels=8",
    "autoencoder.decoder.upsampler.out_channels=4", "autoencoder.decoder.network.num_layers=3",
    "autoencoder.decoder.network.residual_channels=8", "autoencoder.decoder.network.gate_channels=8",
    "autoencoder.decoder.network.skip_channels=8", "prior.num_layers=2", "prior.residual_channels=8",
    "prior.gate_channels=8", "prior.skip_channels=8",
    *(f"{stage}.{setting}" for stage in ("stage1", "stage2") for setting in
      ("steps=20", "batch_size=4", "validate_every=10", "checkpoint_every=10", "log_every=5")),
    "evaluate.samples=6", "evaluate.copies=6", "evaluate.classifier=false",
]
SPEAKERS = ("ann", "bob")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    """Two speakers, two digits, seven recordings of each, 60 to 130 ms: tones with a few harmonics."""
    folder = tmp_path_factory.mktemp("data") / "fsdd"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for digit in (0, 7):
        for number, speaker in enumerate(SPEAKERS):
            for index in range(7):
                time = np.arange(generator.integers(480, 1020)) / 8000
                wave = sum(np.sin(2 * np.pi * (150 + 80 * number) * k * time) / k for k in range(1, 3 + digit))
                soundfile.write(folder / f"{digit}_{speaker}_{index}.wav", 0.3 * wave, 8000)
    return folder


@pytest.fixture(scope="module")
def arguments(recordings, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    return [*SMALL, f"data.root={recordings}", f"data.cache={runs / 'cache'}", f"runs_dir={runs}"], runs / "small"


@pytest.fixture(scope="module")
def run(arguments, command) -> Path:
    for script in ("train_stage1", "extract_codes", "train_stage2"):
        command(script, *arguments[0])
    return arguments[1]


def waves(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: soundfile.read(path, dtype="int16")[0] for path in sorted(folder.glob("*.wav"))}


def test_codes_have_lengths_and_are_what_the_encoder_says(run, recordings, tmp_path):
    codes, data = CodeData(run / "codes"), FSDD(str(recordings), str(tmp_path), crop=512, length=1024,
                                                validation_fraction=0.2)
    assert codes.grid == (16,) and codes.label_names == ("digit", "speaker")
    stage1 = load_stage1(Run(run), torch.device("cpu"))
    for name in ("train", "validation", "test"):
        everything = torch.arange(len(codes.split(name)))
        batch, own = data.split(name).batch(everything), codes.split(name).batch(everything)
        assert torch.equal(own.x, stage1.module.encode(batch.x)) and torch.equal(own.labels, batch.labels)
        assert torch.equal(own.lengths, -(-batch.lengths // 64))


def test_samples_have_the_labels_and_the_lengths_that_were_asked_for(run, command, tmp_path):
    def sampled(name: str, *flags: str) -> dict[str, np.ndarray]:
        result = command("sample", "--run", str(run), "--out", str(tmp_path / name), *flags)
        assert "spectrograms.png" in result.stdout and (tmp_path / name / "spectrograms.png").exists()
        return waves(tmp_path / name)

    many, few = sampled("many", "--n", "5", "--batch-size", "2"), sampled("few", "--n", "2")
    assert len(many) == 5 and all(np.array_equal(wave, many[name]) for name, wave in few.items())
    asked = sampled("asked", "--n", "3", "--label", "digit=7", "--label", "speaker=bob", "--seconds", "0.064")
    assert list(asked) == [f"{number:05d}-7-bob.wav" for number in range(3)]
    assert {len(wave) for wave in asked.values()} == {512}
    lengths = {len(wave) for wave in many.values()}
    assert lengths <= {64 * int(length) for length in CodeData(run / "codes").split("train").lengths}


def test_a_hidden_part_of_a_recording_is_filled(run, recordings, tmp_path):
    loaded, source = load(run, "cpu"), recordings / "7_ann_0.wav"
    given = kind_of("audio").read(loaded._loaded, source)
    length = int(given.lengths[0])
    filled = loaded.sample(2, complete=source, mask="0.02-0.03", particles=4, digit="7")
    assert filled.labels["digit"] == ["7", "7"] and filled.lengths.tolist() == [length] * 2
    change = (filled.x - given.x)[:, 0].abs()
    assert change[:, 160:240].amax(1).min() > 0.01  # 20 to 30 ms at 8 kHz
    assert change[:, 90:310].amax() > 0 == change[:, :90].amax() == change[:, 310:].amax(), "8 ms fade on each side"
    assert filled.save(tmp_path / "out").exists() and (tmp_path / "out" / "candidates.csv").exists()
    assert {len(wave) for wave in waves(tmp_path / "out").values()} == {length}
    with pytest.raises(InputError, match="^seconds: expected none with a recording to complete, found 0.1$"):
        loaded.sample(1, complete=source, mask="0.02-0.03", seconds=0.1)
    with pytest.raises(InputError, match="^mask: expected seconds as START-END"):
        loaded.sample(1, complete=source, mask="0.02-9")


def test_conversion_keeps_codes_and_length_and_changes_the_voice(run, recordings, command, tmp_path):
    result = command("convert_speaker", "--run", str(run), "--input", str(recordings / "7_ann_0.wav"),
                     "--speaker", "bob", "--out", str(tmp_path / "bob"))
    assert "1 conversions to bob" in result.stdout
    command("convert_speaker", "--run", str(run), "--input", str(recordings), "--speaker", "ann",
            "--out", str(tmp_path / "ann"))
    (one,) = waves(tmp_path / "bob").values()
    original = soundfile.read(recordings / "7_ann_0.wav")[0]
    assert len(one) == len(original) and len(waves(tmp_path / "ann")) == 28


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_several_processes_convert_to_the_bytes_of_one_also_after_one_was_killed(
        ranks, run, recordings, command, tmp_path):
    def convert(name: str, **how):
        return command("convert_speaker", "--run", str(run), "--input", str(recordings), "--speaker", "ann",
                       "--batch-size", "5", "--out", str(tmp_path / name), **how)

    convert("one")
    assert convert("shared", ranks=ranks, kill=(1, 1), check=False).returncode == -signal.SIGKILL
    assert not waves(tmp_path / "shared")
    assert convert("shared", ranks=ranks).stdout.count("28 conversions") == 1
    one, shared = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.suffix != ".lock"}
                   for name in ("one", "shared"))
    assert shared == one and len(one) > 28


def test_reconstruct_takes_any_rate_and_needs_the_speaker(run, command, tmp_path):
    stereo = np.stack([np.sin(np.arange(2000) / 20), np.zeros(2000)], 1) * 0.5
    soundfile.write(tmp_path / "own.flac", stereo, 44_100)
    base = ("reconstruct", "--run", str(run), "--input", str(tmp_path / "own.flac"), "--out", str(tmp_path / "out"))
    result = command(*base, "--label", "speaker=ann")
    assert "log-spectral distance" in result.stdout
    (wave,) = waves(tmp_path / "out").values()
    assert len(wave) == -(-2000 * 8000 // 44_100)
    refused = command(*base, check=False)
    assert refused.returncode == 2
    assert refused.stderr.strip().splitlines()[-1].startswith("error: --label: expected speaker=")


def test_compressed_recordings_come_back_as_reconstructions_of_their_lengths(run, recordings, command, tmp_path):
    folder, soundfiles = tmp_path / "in", sorted(recordings.glob("7_ann_*.wav"))[:5]
    folder.mkdir()
    for path in soundfiles:
        shutil.copy(path, folder)
    soundfile.write(folder / "long.wav", 0.5 * np.sin(np.arange(3001) / 8), 8000)  # more than an item of the run has
    label = ("--label", "speaker=ann")
    refused = command("compress", "--run", str(run), "--input", str(folder), check=False)
    assert refused.returncode == 2 and "error: --label: expected speaker=CLASS" in refused.stderr
    result = command("compress", "--run", str(run), "--input", str(folder), "--out", str(tmp_path / "a.ndc"), *label)
    assert "6 items in " in result.stdout
    command("decompress", "--run", str(run), "--input", str(tmp_path / "a.ndc"), "--out", str(tmp_path / "back"))
    command("reconstruct", "--run", str(run), "--input", str(folder), "--out", str(tmp_path / "made"), *label)
    back, made = waves(tmp_path / "back"), waves(tmp_path / "made")
    assert list(back) == [*(path.name for path in soundfiles), "long.wav"] and len(back["long.wav"]) == 3001
    for wave, other in zip(back.values(), made.values(), strict=True):
        assert np.array_equal(wave, other)
    refused = command("compress", "--run", str(run), "--input", str(folder), "--lossless", *label, check=False)
    assert refused.returncode == 2 and "lossless: expected images, video or codes" in refused.stderr


def test_recordings_of_any_length_are_converted_and_reconstructed_whole(run, recordings, command, tmp_path):
    """Items of this run have 1,024 samples. A short recording comes out as before whatever stands beside it."""
    generator, folder = np.random.default_rng(0), tmp_path / "mixed"
    folder.mkdir()
    sizes = {"a": 500, "b": 5000, "c": 1024, "d": 1025, "e": 1}
    for name, size in sizes.items():
        soundfile.write(folder / f"{name}.wav", generator.uniform(-0.5, 0.5, size), 8000)
    command("convert_speaker", "--run", str(run), "--input", str(folder), "--speaker", "bob", "--out",
            str(tmp_path / "bob"))
    made = waves(tmp_path / "bob")
    assert {name.split("-")[1]: len(wave) for name, wave in made.items()} == sizes
    result = command("reconstruct", "--run", str(run), "--input", str(folder), "--label", "speaker=bob", "--out",
                     str(tmp_path / "again"), "--batch-size", "1")
    assert "cut off" not in result.stdout + result.stderr
    for (name, wave), (_, again) in zip(made.items(), waves(tmp_path / "again").items(), strict=True):
        assert np.array_equal(wave, again), name
    assert (tmp_path / "bob" / "spectrograms.png").exists()


@pytest.mark.slow  # five commands
def test_a_flat_folder_of_voices_trains_without_labels_and_says_so(recordings, arguments, command, tmp_path):
    """The experiment conditions its decoder on the speaker, which a folder without speaker folders does not tell."""
    (tmp_path / "voices").mkdir()
    for number, path in enumerate(sorted(recordings.glob("*.wav"))[:3]):
        (tmp_path / "voices" / f"{number}.wav").write_bytes(path.read_bytes())
    chosen = [*arguments[0], "data=audio_folder", f"data.root={tmp_path / 'voices'}", "data.validation_fraction=0.1",
              "data.sample_rate_hz=8000", f"runs_dir={tmp_path}", "stage1.batch_size=2", "stage2.batch_size=2",
              "condition_on=[speaker]"]
    result = command("train_stage1", *chosen)
    assert "note: decoder_condition_on: speaker left out, since voices has no labels" in result.stderr
    command("extract_codes", *chosen)
    assert "note: condition_on: speaker left out" in command("train_stage2", *chosen).stderr
    command("evaluate", *chosen)
    command("sample", "--run", str(tmp_path / "small"), "--n", "1", "--out", str(tmp_path / "out"))
    assert len(waves(tmp_path / "out")) == 1
    refused = command("train_stage1", *arguments[0], "decoder_condition_on=[voice]", "run=other", check=False)
    assert refused.returncode == 2 and refused.stderr.splitlines()[-1] == (
        "error: decoder_condition_on: expected labels among ['digit', 'speaker'], found 'voice'")


@pytest.mark.parametrize(("count", "message"), [
    (1, "data.validation_fraction: expected at least 2 items, one of which is held out for validation, found 1"),
    (2, None)])
def test_a_few_recordings_are_enough_to_hold_one_out(recordings, tmp_path, count, message):
    (tmp_path / "voices").mkdir()
    for number, path in enumerate(sorted(recordings.glob("*.wav"))[:count]):
        (tmp_path / "voices" / f"{number}.wav").write_bytes(path.read_bytes())
    if message is None:
        data = AudioFolder(str(tmp_path / "voices"), str(tmp_path / "cache"))
        assert [len(data.split(split)) for split in data.splits] == [1, 1]
    else:
        with pytest.raises(InputError, match=message):
            AudioFolder(str(tmp_path / "voices"), str(tmp_path / "cache"))


def test_evaluation_counts_no_padding(run, arguments, command):
    result = command("evaluate", *arguments[0])
    figures = json.loads((run / "metrics.json").read_text())
    sound, bits = figures["audio"], figures["bits_per_dim"]
    assert figures["split"] == "test" and figures["items"] == 20
    assert sound["bits_per_symbol"] == bits["distortion"] and sound["mu_law_bits_per_second"] == 64_000
    assert sound["code_bits_per_second_uniform"] == 8000 / 64 * 4
    assert sound["code_bits_per_second_prior"] == pytest.approx(bits["rate_prior"] * 8000, rel=1e-4)
    # a length is rounded up to whole codes, so codes are a little more than one in 64 samples
    assert 500 <= bits["rate_uniform"] * 8000 < 600
    assert 0 <= sound["stoi_share"] <= 1 and "bits per mu-law symbol" in result.stdout
    assert (run / "figures" / "spectrograms.png").exists()


def test_classifiers_listen_when_they_are_asked(run, arguments, command, monkeypatch):
    result = command("evaluate", *arguments[0], "evaluate.classifier=true")
    classifiers = json.loads((run / "metrics.json").read_text())["audio"]["classifiers"]
    assert set(classifiers) == {"digit", "speaker"}
    for verdict in classifiers.values():
        assert set(verdict) == {"real", "reconstructions", "conversions", "samples"}
        assert verdict["real"] > 0.9 and all(0 <= value <= 1 for value in verdict.values())
    assert "digit accuracy: conversions" in result.stdout


@pytest.mark.parametrize("script, flags, message", [
    ("sample", ["--label", "digit=5"], "error: --label digit: expected one of 0, 7, found '5'"),
    ("sample", ["--seconds", "9999"], "error: --seconds: expected more than 0, at most 7200, found 9999.0"),
    ("sample", ["--complete", "x.png"], "error: --mask: expected the seconds to fill, as 0.2-0.35, found none"),
    ("sample", ["--complete", "x.wav", "--mask", "0-1"], "error: x.wav: expected an audio file"),
    ("sample", ["--mask", "0-1"], "error: --mask: expected an item to complete, found none"),
    ("convert_speaker", ["--input", ".", "--speaker", "eve"],
     "error: --speaker: expected one of ann, bob, found 'eve'"),
    ("convert_speaker", ["--input", "nothing", "--speaker", "ann"], "error: nothing: expected an audio file"),
])
def test_bad_requests_are_one_line(run, command, script, flags, message):
    refused = command(script, "--run", str(run), *flags, check=False)
    assert refused.returncode == 2
    assert refused.stderr.strip().splitlines()[-1].startswith(message), refused.stderr


def test_several_views_of_sound_are_refused(arguments, run, command):
    refused = command("extract_codes", *arguments[0], "extract.views=2", check=False)
    assert refused.returncode == 2 and "extract.views: expected 1 for audio" in refused.stderr


def test_a_crop_that_the_encoder_cannot_divide_is_refused(arguments, command):
    refused = command("train_stage1", *arguments[0], "run=odd", "data.crop=500", check=False)
    assert refused.returncode == 2 and "divisible by 64, found 500" in refused.stderr


def test_the_speech_that_comes_with_the_project_samples_and_converts(command, tmp_path):
    run = Path(__file__).resolve().parents[2] / "pretrained" / "fsdd"
    assert sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) < 6e6
    for name in ("one", "two"):
        command("sample", "--run", str(run), "--n", "1", "--label", "digit=7", "--out", str(tmp_path / name))
    (wave,), (again,) = (waves(tmp_path / name).values() for name in ("one", "two"))
    assert np.array_equal(wave, again) and len(wave) > 1000 and np.abs(wave).max() > 1000
    (path,) = (tmp_path / "one").glob("*.wav")
    command("convert_speaker", "--run", str(run), "--input", str(path), "--speaker", "theo",
            "--out", str(tmp_path / "theo"))
    (converted,) = waves(tmp_path / "theo").values()
    assert len(converted) == len(wave) and not np.array_equal(converted, wave)


def test_sound_without_codes_trains_and_is_heard(arguments, command):
    """An autoencoder of sound: its example for TensorBoard is made of latents, which need not be codes."""
    chosen = ["~experiment", "data=fsdd", "prior=wavenet", "autoencoder=speech", "autoencoder/bottleneck=identity",
              "decoder_condition_on=[speaker]", "stage1.grad_clip=1.0"]
    own = ("experiment=", "run=", "autoencoder.bottleneck")
    kept = [argument for argument in arguments[0] if not argument.startswith(own)]
    result = command("train_stage1", *chosen, *kept, "autoencoder.bottleneck.dim=4", "run=ae", "stage1.steps=10")
    assert "stage 1 is trained" in result.stdout


@pytest.mark.slow  # eleven processes
def test_a_decoder_of_one_pass_goes_through_the_verbs(recordings, arguments, command, tmp_path):
    """Trained, extracted, reconstructed, converted, compressed: nothing but the codes decides what is heard."""
    own = ("experiment=", "run=", "autoencoder.decoder", "runs_dir=", "prior.")
    kept = [argument for argument in arguments[0] if not argument.startswith(own)]
    chosen = ["experiment=fsdd_fast", "run=fast", f"runs_dir={tmp_path}", *kept, "autoencoder.decoder.hidden=8",
              "autoencoder.decoder.channels=[8,8,8]", "autoencoder.decoder.num_residual_blocks=1",
              "autoencoder.decoder.num_tones=3", "autoencoder.likelihood.window_lengths=[64,256]",
              "prior.num_layers=2", "prior.residual_channels=8", "prior.gate_channels=8", "prior.skip_channels=8"]
    run, label = tmp_path / "fast", ("--label", "speaker=ann")
    for script in ("train_stage1", "extract_codes", "train_stage2", "evaluate"):
        command(script, *chosen)
    sound = json.loads((run / "metrics.json").read_text())["audio"]
    assert 0 < sound["bits_per_symbol"] < 12 and sound["log_spectral_distance_db"] > 0
    command("sample", "--run", str(run), "--n", "1", "--out", str(tmp_path / "drawn"))
    assert len(waves(tmp_path / "drawn")) == 1
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(recordings / "7_ann_0.wav", folder)
    soundfile.write(folder / "long.wav", 0.5 * np.sin(np.arange(9000) / 8), 8000)  # longer than the sources' period
    for seed in ("0", "1"):
        command("reconstruct", "--run", str(run), "--input", str(folder), "--out", str(tmp_path / seed), *label,
                "--seed", seed)
    made = waves(tmp_path / "0")
    assert sorted(map(len, made.values()))[-1] == 9000
    assert all(np.array_equal(wave, waves(tmp_path / "1")[name]) for name, wave in made.items())
    command("convert_speaker", "--run", str(run), "--input", str(folder / "7_ann_0.wav"), "--speaker", "bob",
            "--out", str(tmp_path / "bob"))
    (folder / "long.wav").unlink()
    command("compress", "--run", str(run), "--input", str(folder), "--out", str(tmp_path / "a.ndc"), *label)
    command("decompress", "--run", str(run), "--input", str(tmp_path / "a.ndc"), "--out", str(tmp_path / "back"))
    (back,), (converted,) = waves(tmp_path / "back").values(), waves(tmp_path / "bob").values()
    (own_voice,) = (wave for name, wave in made.items() if "7_ann_0" in name)
    assert np.array_equal(back, own_voice) and len(converted) == len(own_voice)
