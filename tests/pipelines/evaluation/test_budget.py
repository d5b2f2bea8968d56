"""Steps that fill a number of minutes: measured once, written down, and taken again."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from pipelines import compare
from pipelines.data.digits import Digits
from pipelines.evaluation import budget
from pipelines.evaluation.budget import Cost, describe_budget, planned_minutes, steps_within
from pipelines.files.errors import InputError
from pipelines.runs.store import Run

TINY = ["experiment=digits", "autoencoder.encoder.hidden=8", "autoencoder.encoder.residual_hidden=4",
        "autoencoder.bottleneck.num_codes=16", "stage1.batch_size=16", "stage1.device=cpu"]
GOLDEN = Path(__file__).resolve().parents[2] / "golden"


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_steps_fill_what_initialisation_leaves():
    assert Cost(6.0, 0.5, 0.5).steps(1.0, 0.0) == 108
    assert Cost(0.0, 1.0, 0.5).steps(1.0, 0.5) == 80, "40 s with an encoder that learns, 20 s with a frozen one"
    with pytest.raises(ValueError, match="expected more than 1.1, .* found 1"):
        Cost(60.0, 6.0, 6.0).steps(1.0, 0.0)


def test_a_stage_1_is_measured_once(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "MOST", 8)
    loss, frozen = budget.AutoencoderTask.loss, []
    monkeypatch.setattr(budget.AutoencoderTask, "loss",
                        lambda task, *rest: (frozen.append(task.frozen), loss(task, *rest))[1])
    overrides = [*TINY, f"runs_dir={tmp_path}", "run=tiny", "stage1.freeze_encoder_at=0.75"]
    steps = steps_within(0.05, "stage1", overrides, Digits)
    written = yaml.safe_load((tmp_path / "tiny" / "budget.yaml").read_text())["stage1"]
    # less than 3 s of steps of 0.5 to 100 ms
    assert 30 <= steps == written["steps"] <= 6000 and written["minutes"] == 0.05
    assert all(written[f"{part}_seconds"] > 0 for part in ("frozen_step", "step", "initialisation"))
    assert frozen == sorted(frozen) and 4 <= sum(frozen) <= 9, "learning, then as many more frozen"
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == ["budget.yaml"], "what was trained is thrown away"
    assert f"stage1: {steps} steps of" in describe_budget(Run(tmp_path / "tiny"), "stage1")
    monkeypatch.setattr(budget, "measure_stage1", lambda *_: Cost(0.0, 1.0, 1.0))
    assert steps_within(0.05, "stage1", overrides, Digits) == steps
    assert steps_within(1.0, "stage1", overrides, Digits) == 60, "other minutes are another budget"
    with pytest.raises(InputError, match="^minutes: tiny: stage1: expected more than 0.017"):
        steps_within(0.001, "stage1", overrides, Digits)


def test_a_stage_2_is_measured_on_its_codes(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "MOST", 8)
    shutil.copytree(GOLDEN / "format1", tmp_path / "format1")
    overrides = [*json.loads((GOLDEN / "format1.json").read_text())["command"].split(), f"runs_dir={tmp_path}"]
    steps = steps_within(0.02, "stage2", overrides, Digits)
    assert 3 <= steps <= 3000  # of 0.4 to 400 ms
    assert planned_minutes(Run(tmp_path / "format1")) == 0.02 and planned_minutes(Run(GOLDEN / "format1")) is None


def test_compare_gives_the_steps_to_the_trainings(tmp_path, monkeypatch):
    """And validates at their end. The verbs themselves are tested in test_compare.py."""
    given = []

    def run_verb(verb, arguments):
        given.append((verb, arguments[-2:]))
        return int(verb == "evaluate")

    monkeypatch.setattr(compare, "run_verb", run_verb)
    monkeypatch.setattr(budget, "steps_within", lambda minutes, stage, *_: {"stage1": 70, "stage2": 90}[stage])
    monkeypatch.setattr(budget, "describe_budget", lambda *_: "")
    monkeypatch.setattr("sys.argv", ["compare", "mnist", "--minutes", "0.5", "--only", "VQ-VAE", "data=digits",
                                     f"--out={tmp_path}"])
    with pytest.raises(InputError, match="expected evaluate to succeed"):
        compare.main(compare.parse_arguments())
    trained = {verb: arguments for verb, arguments in given}
    assert trained["train_stage1"] == ["stage1.steps=70", "stage1.validate_every=70"]
    assert trained["train_stage2"] == ["stage2.steps=90", "stage2.validate_every=90"]
    assert list(trained) == ["train_stage1", "extract_codes", "train_stage2", "evaluate"]
    assert "run=vq-vae" in trained["extract_codes"] and trained["evaluate"] == trained["extract_codes"]


@pytest.mark.parametrize("minutes", ["0", "nan", "-1"])
def test_minutes_that_cannot_be_are_refused(minutes, monkeypatch):
    monkeypatch.setattr("sys.argv", ["compare", "mnist", f"--minutes={minutes}"])
    with pytest.raises(InputError, match="^--minutes: expected a"):
        compare.parse_arguments()
