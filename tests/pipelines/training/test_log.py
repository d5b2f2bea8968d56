"""metrics.jsonl, read back: a line that a kill cut goes, any other damage is named."""

import json

import pytest

from pipelines.files.errors import InputError
from pipelines.training.log import RunLog, read_metrics

ROWS = [{"step": step, "split": "train", "loss": 0.5, "bits": None, "seconds": 1.0} for step in (5, 10, 15)]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def resumed(path, step: int) -> None:
    RunLog(path.parent, step, 20, "training", active=True).close()


def test_a_log_without_a_file_is_empty(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("end", [b'{"step": 20, "spl', b"{", b"\0\0\0", b"\xc3"])
def test_a_line_that_a_kill_cut_is_left_out(end, path):
    path.write_bytes(path.read_bytes() + end)
    assert read_metrics(path) == ROWS
    resumed(path, 10)
    assert read_metrics(path) == ROWS[:2]


def test_a_whole_last_line_without_its_end_counts(path):
    path.write_bytes(path.read_bytes()[:-1])
    assert read_metrics(path) == ROWS


@pytest.mark.parametrize("line", ["{", "[]", "", '{"step": "5", "split": "train"}', '{"step": 5}', "\0",
                                  '{"step": 5, "split": "train", "loss": [1]}', '{"step": -1, "split": "train"}'])
def test_a_damaged_line_is_named_and_nothing_is_dropped(line, path):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, *lines[1:]]) + "\n")
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"metrics.jsonl: line 2: expected a row of figures.*; remove this line"):
        resumed(path, 15)
    assert path.read_bytes() == before
