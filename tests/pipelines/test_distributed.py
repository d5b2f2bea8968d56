"""Two processes with half of the batch each are one process with the whole batch: both stages, 50 steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pipelines.commands.processes import SHARED
from pipelines.files.locks import only_writer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def on_two_ranks(limited):
    """on_two_ranks("train_stage1", *arguments) -> CompletedProcess of torchrun."""
    def run(script: str, *arguments: str) -> subprocess.CompletedProcess:
        return limited(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
                       str(ROOT / "pipelines" / f"{script}.py"), *arguments)

    return run


def train(on_two_ranks, script: str, *arguments: str) -> None:
    result = on_two_ranks(script, *arguments)
    assert result.returncode == 0, result.stderr[-3000:]


def results(stage: Path) -> tuple[dict, list[dict]]:
    weights = load_file(stage / "checkpoints" / (stage / "checkpoints" / "latest").read_text().strip() /
                        "model.safetensors")
    return weights, [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]


def assert_close(one: Path, two: Path, limit: float) -> None:
    (weights, rows), (other_weights, other_rows) = results(one), results(two)
    assert weights.keys() == other_weights.keys() and len(rows) == len(other_rows) >= 10
    for name in weights:
        difference = (weights[name].double() - other_weights[name].double()).abs().max()
        assert difference <= limit, f"{name}: {difference}"
    for row, other in zip(rows, other_rows):
        for key in ("loss", "objective", "bits", "perplexity", "codes used"):
            if key in row:
                assert abs(row[key] - other[key]) <= limit, f"step {row['step']}, {key}: {row[key]} {other[key]}"


@pytest.mark.parametrize("bottleneck", ["ema", pytest.param("gradient", marks=pytest.mark.slow)])
def test_stage1(bottleneck, tiny, tmp_path, command, on_two_ranks):
    """Data-driven initialisation and revival included: the threshold is set so high that codes are revived often.

    In float64: Adam turns rounding errors of gradients near zero into steps of full size, which moves encodings across
    the border of two cells. In float32 a run differs from itself, too, with another number of threads."""
    arguments = [*tiny, f"autoencoder/bottleneck={bottleneck}", "autoencoder.bottleneck.revive_threshold=0.3",
                 "stage1.precision=float64", "stage1.steps=50"]
    command("train_stage1", *arguments, f"runs_dir={tmp_path / 'one'}")
    parts = ["stage1.accumulate=2"] if bottleneck == "gradient" else []  # each rank in two micro-batches
    train(on_two_ranks, "train_stage1", *arguments, *parts, f"runs_dir={tmp_path / 'two'}")
    assert_close(tmp_path / "one/tiny/stage1", tmp_path / "two/tiny/stage1", 1e-6)


def test_stage2_with_dropout(tiny, tiny_run, tmp_path, command, on_two_ranks):
    arguments = [*tiny, "stage2.precision=float64", "stage2.steps=50", "prior.dropout=0.5"]
    for name in ("one", "two"):
        (tmp_path / name / "tiny").mkdir(parents=True)
        (tmp_path / name / "tiny" / "codes").symlink_to(tiny_run / "codes")
    command("train_stage2", *arguments, f"runs_dir={tmp_path / 'one'}")
    train(on_two_ranks, "train_stage2", *arguments, f"runs_dir={tmp_path / 'two'}")
    assert_close(tmp_path / "one/tiny/stage2", tmp_path / "two/tiny/stage2", 1e-6)


@pytest.mark.parametrize("verb, arguments", [("decompress", ["--input", "."]), ("predict_video", [])])
def test_a_command_that_is_one_process_is_refused_as_several(verb, arguments, command):
    """All ranks would write the same files."""
    result = command(verb, *arguments, check=False, environment={"WORLD_SIZE": "2", "RANK": "0"})
    assert result.returncode == 2
    assert result.stderr.startswith("error: torchrun: expected one process, found 2: only train_stage1, train_stage2, ")


def test_the_refusal_names_the_verbs_that_share():
    shares = {path.stem for path in (ROOT / "pipelines").glob("*.py") if "shares=True" in path.read_text()}
    assert set(SHARED) == {"train_stage1", "train_stage2"} | shares


def test_a_second_job_is_refused_by_all_its_ranks(tiny, tmp_path, on_two_ranks):
    with only_writer(tmp_path / "tiny" / "stage1", "train_stage1"):
        result = on_two_ranks("train_stage1", *tiny, f"runs_dir={tmp_path}")
    assert result.returncode != 0 and 'train_stage1.py", line' not in result.stderr  # torchrun has its own traceback
    assert result.stderr.count("error: ") == 1
    assert f"tiny/stage1: expected no other process that writes there, found train_stage1 (process {os.getpid()} on"\
        in result.stderr


def test_a_batch_that_the_ranks_cannot_share_is_refused(tiny, tmp_path, on_two_ranks):
    result = on_two_ranks("train_stage1", *tiny, "stage1.batch_size=15", f"runs_dir={tmp_path}")
    assert result.returncode != 0
    assert "batch_size: expected a multiple of the 2 processes, found 15" in result.stderr
