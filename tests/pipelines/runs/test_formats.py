"""Files of an earlier format are read as they were meant, and those of a later one refused in one line.

tests/golden/format1 is a run of both stages by the code before formats had numbers; `format1.json` has its command and
what its training went on to log, `format1.npz` what it drew.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pipelines.data.codes import CodeData
from pipelines.data.manifest import read_manifest
from pipelines.files.errors import InputError
from pipelines.files.formats import CONFIG, FIGURES, FORMAT, STATE, STEPS, migrated
from pipelines.runs.chain import load_run
from pipelines.runs.config import read_config
from pipelines.runs.figures import read_figures
from pipelines.runs.find import PRETRAINED, run_names
from pipelines.runs.store import Run, load_stage1, load_stage2, logical_names, stage1_hash
from pipelines.training.checkpoint import find_checkpoint, read_state
from pipelines.training.log import read_metrics

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
EXPECTED = json.loads((GOLDEN / "format1.json").read_text())
CPU = torch.device("cpu")
SCRIPTS = ("train_stage1", "extract_codes", "train_stage2")


@pytest.fixture
def frozen(tmp_path) -> Run:
    shutil.copytree(GOLDEN / "format1", tmp_path / "format1")
    return Run(tmp_path / "format1")


def command_line(run: Run, *changes: str) -> list[str]:
    return [*EXPECTED["command"].split(), f"runs_dir={run.root.parent}", *changes]


def test_the_frozen_run_is_what_its_name_says():
    run = Run(GOLDEN / "format1")
    texts = [run.stage1 / "config.yaml", run.stage2 / "config.yaml", run.root / "metrics.json",
             *run.root.glob("stage*/checkpoints/*/state.json")]
    assert len(texts) == 5 and not any("format" in yaml.safe_load(text.read_text()) for text in texts)
    assert json.loads((run.codes / "manifest.json").read_text())["version"] == 1


def test_there_is_a_step_from_every_earlier_format():
    assert sorted(STEPS) == list(range(1, FORMAT))


def test_it_loads_and_its_parts_belong_together(frozen):
    loaded = load_run(frozen, CPU)
    assert loaded.stage1.example.classes == (tuple("0123456789"),) and loaded.stage1.example.facts == {}
    assert loaded.stage2.codes.grid == (4, 4) and loaded.stage2.condition_on == ("digit",)
    assert not loaded.stage2.condition_on_length and loaded.stage2.codes.length_counts is None
    own = stage1_hash(loaded.stage1)
    assert own == loaded.stage2.state.stage1_hash == CodeData(frozen.codes).stage1_hash
    assert read_figures(frozen)["data"] == "digits"


def test_it_draws_what_it_drew(frozen, command, tmp_path):
    command("sample", "--run", str(frozen.root), "--n", "8", "--out", str(tmp_path))
    found = np.stack([np.asarray(Image.open(tmp_path / f"{number:05d}.png").convert("L")) for number in range(8)])
    drawn = np.load(GOLDEN / "format1.npz")["drawn"]
    assert np.abs(found.astype(int) - drawn).max() <= 1  # a mean half-way between two levels may round to either


def test_it_is_finished_and_left_as_it_is(frozen, command):
    """Its codes too are those of this very extraction, whatever has come to be written in manifests since."""
    before = {path: path.read_bytes() for path in frozen.root.rglob("*") if path.is_file()}
    for script in SCRIPTS:
        command(script, *command_line(frozen))
    assert before == {path: path.read_bytes() for path in frozen.root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_it_goes_on_as_it_did(stage, frozen, command):
    """Ten more steps have the losses that they had. The configuration keeps its format, new checkpoints do not."""
    folder, known = getattr(frozen, stage), stage1_hash(load_stage1(frozen, CPU))
    assert find_checkpoint(folder).name == "step-0000030"
    command(f"train_{stage}", *command_line(frozen, f"{stage}.steps=40"))
    rows = read_metrics(folder / "metrics.jsonl")[-3:]
    for row, expected in zip(rows, EXPECTED["resumed_to_step_40"][stage], strict=True):
        assert row["split"] == expected.pop("split")
        # 1e-3: on another processor sums round in another order, and ten steps of Adam at 1e-3 carry that on
        assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-3)
    assert "format" not in read_config(folder / "config.yaml")
    assert read_config(folder / "config.yaml")["train"]["steps"] == 40
    state = read_state(find_checkpoint(folder))
    assert state.step == 40 and state.checksums.keys() >= {"model.safetensors", "optimizer.pt"}
    changed = stage == "stage1"  # its best weights are those of step 40 now
    assert (known == stage1_hash(load_stage1(frozen, CPU))) is not changed


def test_codes_extracted_anew_are_of_the_present_format_and_fit_the_old_prior(frozen, command):
    shutil.rmtree(frozen.codes)
    command("extract_codes", *command_line(frozen))
    assert json.loads((frozen.codes / "manifest.json").read_text())["version"] == FORMAT
    old = read_manifest(GOLDEN / "format1" / "codes")
    new = read_manifest(frozen.codes)
    assert (new.stage1_hash, new.extraction, new.label_counts) == (old.stage1_hash, old.extraction, old.label_counts)
    command("train_stage2", *command_line(frozen))  # says nothing of another stage 1


def test_what_is_published_of_it_keeps_its_hash_and_its_format(frozen, command, tmp_path):
    command("publish", "--run", str(frozen.root), "--out", str(tmp_path / "half"))
    once = load_stage1(Run(tmp_path / "half"), CPU)
    shutil.copytree(tmp_path / "half", tmp_path / "again")
    assert "format" not in once.saved and once.config["example"]["facts"] == {}
    assert once.state.checksums.keys() == {"model.safetensors"}
    command("publish", "--run", str(tmp_path / "again"), "--out", str(tmp_path / "published"))
    assert stage1_hash(load_stage1(Run(tmp_path / "published"), CPU)) == stage1_hash(once)


def newer(path: Path, key: str) -> None:
    content = yaml.safe_load(path.read_text()) | {key: FORMAT + 1}  # JSON is YAML
    path.write_text(yaml.safe_dump(content) if path.suffix == ".yaml" else json.dumps(content))


@pytest.mark.parametrize("file", ["stage1/config.yaml", "stage2/config.yaml", "stage1/state.json", "stage2/state.json",
                                  "codes/manifest.json", "metrics.json"])
def test_a_newer_format_is_refused_in_one_line(file, frozen, command, tmp_path):
    path = frozen.root / file
    if path.name == "state.json":
        path = find_checkpoint(path.parent) / "state.json"
    newer(path, "version" if path.name == "manifest.json" else "format")
    message = f"expected up to {FORMAT}, found {FORMAT + 1}"
    if path.name == "metrics.json":
        with pytest.raises(InputError, match=message):
            read_figures(frozen)
        return
    script, *arguments = ("train_stage2", *command_line(frozen)) if path.name == "manifest.json" else (
        "sample", "--run", str(frozen.root), "--n", "1", "--out", str(tmp_path / "out"))
    result = command(script, *arguments, check=False)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    [line] = [line for line in result.stderr.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    assert str(path) in line and message in line and "upgrade" in line


@pytest.mark.parametrize("script", SCRIPTS[::2])
def test_a_run_of_a_newer_format_is_not_written_to(script, frozen, command):
    path = frozen.root / script.removeprefix("train_") / "config.yaml"
    newer(path, "format")
    before = {path: path.read_bytes() for path in frozen.root.rglob("*") if path.is_file()}
    stage = script.removeprefix("train_")
    assert command(script, *command_line(frozen, f"{stage}.steps=40"), check=False).returncode == 2
    assert before == {path: path.read_bytes() for path in frozen.root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("value", [0, -1, "2", 1.5, None, True, [2]])
def test_a_format_that_is_no_number_of_one_is_refused(value):
    with pytest.raises(InputError, match=rf"^run/config.yaml: format: expected an integer from 1 to {FORMAT}, found"):
        migrated({"format": value}, Path("run/config.yaml"), CONFIG)


def test_step_1_to_2_names_components_where_they_are_and_gives_them_what_they_lack():
    old = {
        "autoencoder": {
            "_target_": "stage1_vqvae.autoencoder.Autoencoder", "beta": 1.0,
            "likelihood": {"_target_": "stage1_vqvae.likelihoods.LogisticMixture", "num_components": 10},
            "bottleneck": {"_target_": "stage1_vqvae.bottlenecks.vq.EMAQuantizer", "rate_weight": 0.5},
            "decoder": {"_target_": "stage1_vqvae.autoregressive.AutoregressiveDecoder",
                        "network": {"_target_": "stage2_prior.wavenet.WaveNet", "num_codes": 256}},
            "others": [{"_target_": "stage1_vqvae.image.ImageEncoder"}, {"_target_": "theirs.Own"}],
        },
        "train": {"steps": 10},
        "example": {"data": "room", "kind": "video", "shape": [3, 16, 84, 84], "label_names": [], "classes": [],
                    "action_names": ["left", "right"]},
    }
    before = json.dumps(old)
    new = migrated(old, Path("config.yaml"), CONFIG)
    assert json.dumps(old) == before, "what was read stays as it is: the hash is over it"
    parts = new["autoencoder"]
    assert parts["likelihood"]["_target_"] == "stage1_vqvae.likelihoods.logistic.LogisticMixture"
    assert parts["bottleneck"] == {"_target_": "stage1_vqvae.bottlenecks.vq.EMAQuantizer", "rate_weight": 0.5,
                                   "rate_warmup_steps": 0, "distance": "euclidean", "gradient": "straight_through"}
    assert parts["decoder"]["network"]["ordered"] is False and parts["beta_warmup_steps"] == 0
    assert parts["others"] == [{"_target_": "stage1_vqvae.image.ImageEncoder", "initial_scale": 1.0},
                               {"_target_": "theirs.Own"}]
    assert new["train"] == {"steps": 10, "decay_share": 1.0, "freeze_encoder_at": 0.0} and new["condition_on"] == []
    assert new["example"]["facts"] == {"action_names": ["left", "right"]} and "action_names" not in new["example"]


def test_step_3_to_4_freezes_no_encoder_and_bounds_as_before():
    fsq = {"_target_": "stage1_vqvae.bottlenecks.fsq.FSQ", "levels": [8, 5]}
    old = {"format": 3, "autoencoder": {"bottleneck": fsq, "beta": 1.0}, "train": {"steps": 10}}
    new = migrated(old, Path("config.yaml"), CONFIG)
    assert new == {"autoencoder": {"bottleneck": fsq | {"bounding": "tanh"}, "beta": 1.0},
                   "train": {"steps": 10, "freeze_encoder_at": 0.0}}
    assert fsq.keys() == {"_target_", "levels"}, "what was read stays as it is: the hash is over it"
    assert migrated({"format": 3, "prior": {}, "train": {}}, Path("config.yaml"), CONFIG)["train"] == {}


def test_step_3_to_4_keeps_how_codes_were_drawn():
    prefix = "stage1_vqvae.bottlenecks."
    for name, own in (("gumbel.Gumbel", {"hard_from": 0}), ("vimco.VIMCO", {"estimator": "vimco"})):
        old = {"format": 3, "autoencoder": {"bottleneck": {"_target_": prefix + name, "dim": 4}}}
        new = migrated(old, Path("config.yaml"), CONFIG)["autoencoder"]["bottleneck"]
        assert new == old["autoencoder"]["bottleneck"] | own | {"logits": "affine", "commitment_weight": 0.25,
                                                                "likeliest_from": 0, "likeliest_share": 0.0}
    figures = migrated({"format": 3, "bounds": {"kl_bits": 2.0}}, Path("metrics.json"), FIGURES)
    assert figures == {"bounds": {"kl_bits": 2.0, "nmse_drawn": None}}
    assert migrated({"format": 3, "bounds": None}, Path("metrics.json"), FIGURES) == {"bounds": None}


def test_step_1_to_2_of_a_prior_and_a_state():
    prior = migrated({"prior": {}, "codes": {"grid": [4]}}, Path("config.yaml"), CONFIG)
    assert prior["condition_on"] == [] and prior["condition_on_length"] is False
    assert prior["codes"] == {"grid": [4], "length_counts": None, "extraction": None}
    assert migrated({"step": 3}, Path("state.json"), STATE) == {
        "step": 3, "stage1_hash": None, "parent_hash": None, "trained_at": None, "checksums": None}


def test_moving_a_module_changes_no_hash():
    tree = {"_target_": "stage1_vqvae.autoencoder.Autoencoder", "sizes": [1, 2],
            "bottleneck": {"_target_": "stage1_vqvae.bottlenecks.vq.EMAQuantizer", "dim": 4},
            "likelihood": {"_target_": "stage1_vqvae.likelihoods.gaussian.Gaussian"}}
    moved = json.loads(json.dumps(tree).replace("bottlenecks.vq.", "ema.").replace("stage1_vqvae.", "stage1."))
    assert logical_names(tree, "autoencoder") == logical_names(moved, "autoencoder") == {
        "_target_": "autoencoder/Autoencoder", "sizes": [1, 2],
        "bottleneck": {"_target_": "bottleneck/EMAQuantizer", "dim": 4},
        "likelihood": {"_target_": "likelihood/Gaussian"}}
    other = json.loads(json.dumps(tree).replace("EMAQuantizer", "GradientQuantizer"))
    assert logical_names(tree, "autoencoder") != logical_names(other, "autoencoder")


def test_figures_of_format_2_say_nothing_of_copies_and_files():
    path = GOLDEN / "format2" / "metrics.json"
    content = json.loads(path.read_text())
    assert content["format"] == 2 and "copies" not in content
    expected = {key: value for key, value in content.items() if key != "format"}
    expected |= {"copies": None, "files": None}
    assert migrated(content, path, FIGURES) == expected


def test_the_pretrained_runs_are_of_the_present_format():
    names = run_names(PRETRAINED)
    assert {"mnist", "cifar10_compact", "imagenet128", "fsdd", "room_video"} <= set(names)
    for run in (Run(PRETRAINED / name) for name in names):
        for stage in (load_stage1(run, CPU), load_stage2(run, CPU)):
            assert stage.saved["format"] == FORMAT and stage.state.checksums is not None, run.root
        assert json.loads((run.root / "metrics.json").read_text())["format"] == FORMAT
