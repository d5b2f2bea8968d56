"""A run that was killed ends with the same bits as one that was not."""

import itertools
import json
import shutil
import signal
from pathlib import Path

import pytest

SCRIPTS = ("train_stage1", "extract_codes", "train_stage2")


def final_bits(run: Path) -> dict[str, bytes]:
    """All of a run that has to be equal: weights, averages, optimiser, codes, manifest; state and log without times."""
    bits = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.suffix in (".safetensors", ".pt") or path.name in ("manifest.json", "latest", "best", "config.yaml"):
            bits[name] = path.read_bytes()
        elif path.name == "state.json":
            bits[name] = without_timings(path.read_text())
        elif path.name == "metrics.jsonl":
            bits[name] = b"".join(without_timings(line) for line in path.read_text().splitlines())
    return bits


def without_timings(text: str) -> bytes:
    values = json.loads(text)
    return json.dumps({key: value for key, value in values.items() if key not in ("seconds", "trained_at")}).encode()


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    different = [name for name in expected if found[name] != expected[name]]
    assert not different


# One process after another is killed here; all but the first three start from a checkpoint of step 10, of 30 steps.
MOMENTS = [
    "os.rename step-* 1",  # the first checkpoint is whole, but has its temporary name
    "os.rename latest 1",  # nothing names it
    "os.rename best 1",
    "os.rename model.safetensors 1",  # the second has none of its parts
    "os.rename optimizer.pt 1",  # all but one
    "os.rename latest 1",
    "shutil.rmtree step-* 1",  # about to remove that one, which nothing named, for the same one
    "os.rename step-* 2",  # the second is done, the third is not
]


@pytest.mark.parametrize("stage", ["stage1", pytest.param("stage2", marks=pytest.mark.slow)])
def test_a_training_that_is_killed_while_it_saves_ends_with_the_same_bits(stage, tiny, tiny_run, tmp_path, command):
    run, arguments = tmp_path / "tiny", (f"train_{stage}", *tiny, f"runs_dir={tmp_path}")
    shutil.copytree(tiny_run, run)
    shutil.rmtree(run / stage)
    for moment in MOMENTS:
        killed = command(*arguments, check=False, signal_at=f"{moment} SIGKILL self")
        assert killed.returncode == -signal.SIGKILL, f"{moment}: {killed.stderr[-2000:]}"
    command(*arguments)
    assert_same(final_bits(run), final_bits(tiny_run))


def test_an_extraction_that_is_killed_goes_on_with_the_shard_that_is_missing(tiny, tiny_run, tmp_path, command):
    run, arguments = tmp_path / "tiny", ("extract_codes", *tiny, f"runs_dir={tmp_path}")
    shutil.copytree(tiny_run, run)
    shutil.rmtree(run / "codes")
    killed = command(*arguments, check=False, signal_at="os.rename train-00003.safetensors 1 SIGKILL self")
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    done = {path: path.stat().st_mtime_ns for path in (run / "codes").glob("*.safetensors")}
    assert {path.name for path in done} >= {f"train-0000{number}.safetensors" for number in range(3)}
    killed = command(*arguments, check=False, signal_at="os.rename manifest.json 1 SIGKILL self")
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    command(*arguments)
    assert done.items() <= {path: path.stat().st_mtime_ns for path in done}.items()
    assert_same(final_bits(run), final_bits(tiny_run))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_present_step_and_leaves_cleanly(number, tiny, tiny_run, tmp_path, command):
    """It comes while the checkpoint of step 10 is written: the next step is the last."""
    arguments = ("train_stage1", *tiny, f"runs_dir={tmp_path}")
    stopped = command(*arguments, check=False, signal_at=f"os.rename step-0000010 1 {number.name} self")
    assert stopped.returncode == 128 + number and "stopped at step 11, saved" in stopped.stderr
    stage1 = tmp_path / "tiny" / "stage1"
    assert (stage1 / "checkpoints" / "latest").read_text().strip() == "step-0000011"
    command(*arguments)
    assert_same(final_bits(stage1), final_bits(tiny_run / "stage1"))


def test_a_finished_stage_is_left_as_it_is(tiny, tiny_run, tmp_path, command):
    shutil.copytree(tiny_run, tmp_path / "tiny")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "tiny").rglob("*.safetensors")}
    for script in SCRIPTS:
        command(script, *tiny, f"runs_dir={tmp_path}")
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "tiny").rglob("*.safetensors")}


@pytest.mark.slow
def test_a_kill_before_any_rename_loses_nothing(tiny, tiny_run, tmp_path, command):
    """The n-th process of each script is killed before its n-th rename, until one has fewer and ends."""
    kills = 0
    for script in SCRIPTS:
        for number in itertools.count(1):
            status = command(script, *tiny, f"runs_dir={tmp_path}", check=False,
                             signal_at=f"os.rename * {number} SIGKILL self").returncode
            if status == 0:
                break
            assert status == -signal.SIGKILL and number < 100
            kills += 1
    assert kills >= 20
    assert_same(final_bits(tmp_path / "tiny"), final_bits(tiny_run))
