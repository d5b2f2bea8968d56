"""Reading a trained stage: which checkpoint, what its configuration may say, a training beside the reader."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from pipelines.files.errors import InputError
from pipelines.runs.chain import load_run
from pipelines.runs.store import Run, load_stage1, load_stage2, stage1_hash
from pipelines.training import checkpoint
from pipelines.training.checkpoint import find_checkpoint, save_checkpoint

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path) -> Run:
    """Both stages of digits, the frozen run of format 1."""
    shutil.copytree(Path(__file__).resolve().parents[2] / "golden" / "format1", tmp_path / "run")
    return Run(tmp_path / "run")


def test_a_stage_that_was_never_validated_is_read_as_it_is_and_says_so(run, capsys):
    load_stage1(run, CPU)
    assert capsys.readouterr().err == ""
    (run.stage1 / "checkpoints" / "best").unlink()
    assert load_stage1(run, CPU).step_folder.name == "step-0000030"
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: {run.stage1}: no validation counts yet") and "step-0000030" in line


def test_a_checkpoint_that_a_training_replaces_while_it_is_read(run, monkeypatch):
    """The newer one is read: here it appears, and the older one goes, just after the pointer was followed."""
    original, reads = checkpoint.read_state, []

    def moving(step_folder):
        if not reads:
            module = load_weights_of(step_folder)
            state = original(step_folder)
            state.step, state.best_step = 40, 40
            save_checkpoint(run.stage1, state, module, None, None)
            assert not step_folder.exists()
        reads.append(step_folder.name)
        return original(step_folder)

    def load_weights_of(step_folder):
        return checkpoint.read_weights(step_folder, original(step_folder), checkpoint.MODEL)

    monkeypatch.setattr(checkpoint, "read_state", moving)
    assert load_stage1(run, CPU).state.step == 40 and reads == ["step-0000030", "step-0000040"]


def test_a_checkpoint_that_is_damaged_and_stays_is_refused(run):
    (find_checkpoint(run.stage1, "best") / "model.safetensors").unlink()
    with pytest.raises(InputError, match="model.safetensors: expected a part of this checkpoint, found none"):
        load_stage1(run, CPU)


@pytest.mark.parametrize("stage, changes, message", [
    ("stage1", {"autoencoder": None}, "autoencoder: expected a mapping, found None"),
    ("stage1", {"data": [1]}, "data: expected a mapping"), ("stage1", {"train": "long"}, "train: expected a mapping"),
    ("stage1", {"condition_on": ["speaker"]}, r"condition_on: expected names among \['digit'\], found \['speaker'\]"),
    ("stage1", {"condition_on": "digit"}, "condition_on: expected names"),
    ("stage2", {"condition_on": ["digit", "digit"]}, "condition_on: expected names"),
    ("stage2", {"condition_on_length": "yes"}, "condition_on_length: expected true or false"),
    ("stage2", {"codes": 3}, "codes: expected exactly"), ("stage1", {"example": 3}, "example: expected exactly"),
    ("stage2", {"prior": {"_target_": "os.system"}}, "os.system"),
])
def test_configurations_that_make_no_sense(stage, changes, message, run):
    path = getattr(run, stage) / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
    with pytest.raises(InputError, match=message):
        (load_stage1 if stage == "stage1" else load_stage2)(run, CPU)


def test_a_run_is_loaded_with_what_it_has(run):
    loaded = load_run(run, CPU)
    assert loaded.parents == [] and loaded.stage2.prior_columns == [0] and loaded.stage1.decoder_columns == []
    shutil.rmtree(run.stage2)
    assert load_run(run, CPU).stage2 is None
    shutil.rmtree(run.stage1)
    with pytest.raises(InputError, match="stage1: expected a trained stage 1, found no checkpoint; .* make stage1"):
        load_run(run, CPU)


def test_a_prior_of_another_stage_1_is_refused(run):
    stage1 = load_stage1(run, CPU)
    stage1.module.decoder.layers[0].bias.add_(1)
    save_checkpoint(run.stage1, stage1.state, stage1.module.state_dict(), None, None)
    assert stage1_hash(load_stage1(run, CPU)) != load_stage2(run, CPU).state.stage1_hash
    with pytest.raises(InputError, match="stage2: expected to be used with the stage 1 it was made with"):
        _ = load_run(run, CPU).stage2
