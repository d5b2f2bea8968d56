"""Bad input gets one line that names it, exit status 2, and nothing is lost."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file

from pipelines.training.checkpoint import read_state, write_parts

SAMPLE = ("--n", "2")


def assert_one_line(result, *words: str) -> None:
    """Exit status 2, and on stderr, besides progress bars, one line: `error: ...` with each of the words."""
    assert result.returncode == 2, (result.returncode, result.stderr[-2000:])
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr[-2000:]
    for word in words:
        assert word in lines[0], lines[0]
    assert "expected" in lines[0] or "No space" in lines[0] or "too large" in lines[0], lines[0]


@pytest.fixture
def run(tiny_run, tmp_path) -> Path:
    shutil.copytree(tiny_run, tmp_path / "tiny")
    return tmp_path / "tiny"


def newest(run: Path, stage: str) -> Path:
    root = run / stage / "checkpoints"
    return root / (root / "latest").read_text().strip()


def best(run: Path, stage: str) -> Path:
    root = run / stage / "checkpoints"
    return root / (root / "best").read_text().strip()


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "foreign": b"\x89PNG\r\n" * 100, "empty": b""}[how])


@pytest.mark.parametrize("how", ["truncated", "foreign", "empty"])
def test_damaged_weights(how, run, command):
    path = best(run, "stage1") / "model.safetensors"
    damage(path, how)
    assert_one_line(command("sample", "--run", str(run), *SAMPLE, check=False), str(path), "found")


def test_weights_of_another_model(run, command, tiny):
    path, other = (best(run, stage) / "model.safetensors" for stage in ("stage1", "stage2"))
    path.write_bytes(other.read_bytes())
    assert_one_line(command("sample", "--run", str(run), *SAMPLE, check=False), str(path), "checksum")
    write_parts(path.parent, read_state(path.parent), load_file(other))
    assert_one_line(command("sample", "--run", str(run), *SAMPLE, check=False), str(path), "tensors of this model")


@pytest.mark.parametrize("name", ["optimizer.pt", "state.json", "model.safetensors"])
def test_a_damaged_checkpoint_is_not_trained_on(name, run, command, tiny):
    path = newest(run, "stage1") / name
    shutil.copytree(path.parent, path.parent.with_name("step-0000005"))  # that a kill left, say
    damage(path, "truncated")
    before = sorted(inner.name for inner in run.rglob("*"))
    result = command("train_stage1", *tiny, f"runs_dir={run.parent}", "train.steps=40", check=False)
    assert_one_line(result, str(path))
    assert before == sorted(inner.name for inner in run.rglob("*"))


def test_a_pickle_in_the_optimizers_place_is_not_run(run, command, tiny):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (run / "harmed",))

    (newest(run, "stage1") / "optimizer.pt").write_bytes(pickle.dumps(Bomb()))
    result = command("train_stage1", *tiny, f"runs_dir={run.parent}", "train.steps=40", check=False)
    assert_one_line(result, "optimizer.pt")
    assert not (run / "harmed").exists()


def test_a_configuration_that_names_foreign_code(run, command):
    path = run / "stage1" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["autoencoder"]["encoder"] = {"_target_": "os.system", "command": f"touch {run / 'harmed'}"}
    path.write_text(yaml.safe_dump(config))
    assert_one_line(command("sample", "--run", str(run), *SAMPLE, check=False), "os.system")
    assert not (run / "harmed").exists()


def test_a_pointer_out_of_the_folder(run, command):
    (run / "stage1" / "checkpoints" / "best").write_text("../../stage2/checkpoints\n")
    assert_one_line(command("sample", "--run", str(run), *SAMPLE, check=False), "best", "name of a checkpoint")


def test_missing_stages_say_what_to_do(run, command, tiny, tmp_path):
    nothing = tmp_path / "nothing"
    assert_one_line(command("extract_codes", *tiny, f"runs_dir={nothing}", check=False), "make stage1")
    assert_one_line(command("train_stage2", *tiny, f"runs_dir={nothing}", check=False), "make extract-codes")
    assert_one_line(command("sample", "--run", str(nothing), check=False), str(nothing), "make stage2")
    (run / "codes" / "manifest.json").unlink()
    assert_one_line(command("train_stage2", *tiny, f"runs_dir={run.parent}", "run=tiny", check=False), "manifest")


def test_a_code_shard_with_a_wrong_checksum(run, command, tiny):
    shard = run / "codes" / "train-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    shutil.rmtree(run / "stage2")
    assert_one_line(command("train_stage2", *tiny, f"runs_dir={run.parent}", check=False), str(shard), "checksum")
    assert not (run / "stage2").exists()


def test_a_prior_with_another_stage1(run, command, tiny):
    shutil.rmtree(run / "stage1")
    command("train_stage1", *tiny, f"runs_dir={run.parent}", "seed=1")
    assert_one_line(command("sample", "--run", str(run), *SAMPLE, check=False), str(run / "stage2"), "stage 1")
    assert_one_line(command("extract_codes", *tiny, f"runs_dir={run.parent}", check=False), "overwrite=true")


def test_another_split_of_the_data(run, command, tiny):
    """It would mix training images into validation."""
    result = command("evaluate", *tiny, f"runs_dir={run.parent}", "data.seed=1", check=False)
    assert_one_line(result, "data.seed", "as in training")


def test_another_configuration_for_the_same_run(run, command, tiny):
    result = command("train_stage1", *tiny, f"runs_dir={run.parent}", "train.lr=0.5", check=False)
    assert_one_line(result, "train.lr", "0.001", "0.5", "run=NAME")


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(command, tiny, tmp_path):
    result = command("train_stage1", *tiny, f"runs_dir={tmp_path}", "train.lr=1e30", "train.checkpoint_every=1",
                     check=False)
    assert_one_line(result, "loss", "step")
    good = newest(tmp_path / "tiny", "stage1")
    assert good.name in result.stderr
    assert json.loads((good / "state.json").read_text())["step"] == int(good.name.removeprefix("step-")) < 30
    weights = load_file(good / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_a_full_disk_leaves_what_was_there(run, command, tiny):
    """A limit on the size of files stands for the full disk: writing the next checkpoint fails half-way."""
    before = {path: path.read_bytes() for path in (run / "stage1" / "checkpoints").rglob("*") if path.is_file()}
    result = command("train_stage1", *tiny, f"runs_dir={run.parent}", "train.steps=60", check=False,
                     file_size=20_000)
    assert_one_line(result, "step-")
    assert before == {path: path.read_bytes() for path in (run / "stage1" / "checkpoints").rglob("*") if path.is_file()}


@pytest.mark.parametrize("label, words", [
    ("digit=eleven", ("digit", "eleven", "0, 1, 2")), ("colour=red", ("colour", "digit")), ("digit=", ("digit",)),
])
def test_unknown_labels(label, words, run, command):
    assert_one_line(command("sample", "--run", str(run), *SAMPLE, "--label", label, check=False), *words)


def test_a_class_that_the_prior_has_never_seen(run, command):
    path = run / "stage2" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["codes"]["label_counts"][0][7] = 0
    path.write_text(yaml.safe_dump(config))
    assert_one_line(command("sample", "--run", str(run), *SAMPLE, "--label", "7", check=False), "'7'", "no training")


@pytest.mark.parametrize("arguments, words", [
    (("--n", "0"), ("--n",)), (("--seed", "-1"), ("--seed",)), (("--temperature", "-1"), ("temperature",)),
    (("--top-k", "0"), ("--top-k",)), (("--top-p", "1.5"), ("top_p",)), (("--device", "abacus"), ("abacus",)),
    (("--device", "cuda:99"), ("cuda:99",)), (("--complete", "nowhere.png"), ("nowhere.png",)),
])
def test_wrong_flags(arguments, words, run, command):
    assert_one_line(command("sample", "--run", str(run), *SAMPLE, *arguments, check=False), *words)


def test_pictures_that_cannot_be_read(run, command, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    assert_one_line(command("reconstruct", "--run", str(run), "--input", str(folder), check=False), str(folder), "none")
    assert_one_line(command("reconstruct", "--run", str(run), "--input", str(folder / "no.png"), check=False), "no.png")
    (folder / "broken.png").write_bytes(b"not a picture")
    assert_one_line(command("reconstruct", "--run", str(run), "--input", str(folder), check=False), "broken.png")
    Image.new("RGB", (20, 30), "white").save(folder / "whole.png")
    result = command("reconstruct", "--run", str(run), "--input", str(folder))
    assert "1 reconstructions" in result.stdout and "broken.png" in result.stderr


@pytest.mark.parametrize("override, words", [
    ("train.precision=float8", ("precision", "float8")), ("train.device=abacus", ("device", "abacus")),
    ("train.log_every=0", ("log_every", "0")), ("train.lr=-1", ("lr", "-1")), ("train.device=mps", ("device", "mps")),
    ("autoencoder.bottleneck.num_codes=many", ("num_codes", "many")),
    ("autoencoder.bottleneck.num_codebooks=3", ("num_codebooks=3",)),
    ("data=image_folder", ("data.root",)),
    ("autoencoder.encoder.num_downsamplings=5", ("divisible", "8x8")),
])
def test_wrong_values_in_the_configuration(override, words, command, tiny, tmp_path):
    assert_one_line(command("train_stage1", *tiny, f"runs_dir={tmp_path}", override, check=False), *words)


@pytest.mark.parametrize("override, words", [
    ("train.lr=abc", ("train.lr", "abc")), ("train.lrate=1", ("train.lrate", "expected train.lr,")),
    ("datta=mnist", ("datta", "expected data,")), ("experiment=nosuch", ("experiment", "digits", "nosuch")),
])
def test_misspelt_and_mistyped_keys_are_refused(override, words, command, tiny, tmp_path):
    assert_one_line(command("train_stage1", *tiny, f"runs_dir={tmp_path}", override, check=False), *words)
    assert not list(tmp_path.iterdir())


def test_data_that_are_not_there_say_how_to_get_them(command, tmp_path):
    for data in ("mnist", "cifar10", "fashion_mnist"):
        result = command("train_stage1", f"data={data}", f"data.root={tmp_path}", f"runs_dir={tmp_path / 'runs'}",
                         check=False)
        assert_one_line(result, "data.download=true", "data.root")


def test_a_stage_whose_configuration_or_latest_pointer_is_gone_loses_nothing(run, command, tiny):
    arguments = ("train_stage1", *tiny, f"runs_dir={run.parent}", "stage1.steps=31")
    config = run / "stage1" / "config.yaml"
    content = config.read_bytes()
    config.unlink()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert_one_line(command(*arguments, check=False), str(config), "put it back")
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    config.write_bytes(content)
    (run / "stage1" / "checkpoints" / "latest").unlink()
    result = command(*arguments)
    assert "going on from step-0000030" in result.stderr and "step 31" in result.stdout
