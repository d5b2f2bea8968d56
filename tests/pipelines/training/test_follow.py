"""A reader beside a running training reads a checkpoint whole, however often it is replaced meanwhile."""

import shutil
from pathlib import Path

import pytest
import torch

from pipelines.files.errors import InputError
from pipelines.runs.find import chosen_run
from pipelines.training import checkpoint
from pipelines.training.checkpoint import State, follow, read_state, read_trained, save_checkpoint


def save(folder: Path, step: int) -> None:
    """As a training whose every step is its best: the checkpoint before is removed."""
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.weight, step)
    save_checkpoint(folder, State(step=step, best_step=step, best_score=1.0), model.state_dict(), None, None)


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_looked_up_again(tmp_path, monkeypatch):
    """The training goes on by a step before the weights of the first three are read."""
    save(tmp_path, 1)
    original, moves = checkpoint.read_weights, iter([2, 3, 4])

    def read_weights(step_folder, state, name):
        if step := next(moves, None):
            save(tmp_path, step)
        return original(step_folder, state, name)

    monkeypatch.setattr(checkpoint, "read_weights", read_weights)
    step_folder, state, _, weights = read_trained(tmp_path, "best")
    assert step_folder.name == "step-0000004" and state.step == 4 and (weights["weight"] == 4).all()


def test_one_that_never_stays_is_refused_after_many_tries(tmp_path):
    save(tmp_path, 1)
    tries = []

    def read(step_folder):
        tries.append(step_folder)
        save(tmp_path, len(tries) + 1)
        return read_state(step_folder)

    with pytest.raises(InputError, match="expected a checkpoint that stays until it is read, found it replaced 100"):
        follow(tmp_path, "latest", read)
    assert len(tries) == checkpoint.MOST_MOVES


def test_one_that_stays_and_cannot_be_read_is_refused_at_once(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "checkpoints" / "step-0000001" / "state.json").write_text("{")
    with pytest.raises(InputError, match="state.json"):
        read_trained(tmp_path, "best")
    assert follow(tmp_path / "nothing", "best", read_state) is None


def test_the_run_that_was_trained_last_is_found_beside_a_training(tmp_path, monkeypatch):
    stage2 = tmp_path / "a" / "stage2"
    save(stage2, 1)
    (stage2 / "config.yaml").touch()
    original = checkpoint.find_checkpoint

    def find_checkpoint(folder, which):
        found = original(folder, which)
        if found.name == "step-0000001":
            save(stage2, 2)
            assert not found.exists()
        return found

    monkeypatch.setattr(checkpoint, "find_checkpoint", find_checkpoint)
    assert chosen_run(None, tmp_path).root == tmp_path / "a"
    shutil.rmtree(stage2 / "checkpoints" / "step-0000002")
    with pytest.raises(InputError, match="best"):
        chosen_run(None, tmp_path)
