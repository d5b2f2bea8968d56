"""A run that was killed ends with the same bits as one that was not."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = ("train_stage1", "extract_codes", "train_stage2")


def final_bits(run: Path) -> dict[str, bytes]:
    """All of a run that has to be the same: weights, averages, optimiser, codes, manifest, state and log less timings."""
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


def start(root: Path, script: str, arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, str(root / "pipelines" / f"{script}.py"), *arguments], cwd=root,
                            env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True)


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    different = [name for name in expected if found[name] != expected[name]]
    assert not different


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_stopping_at_another_step_and_going_on_changes_no_bit(stage, tiny, tiny_run, tmp_path, command):
    """SIGKILL after the first checkpoint of three, then the same command again."""
    run = tmp_path / "tiny"
    shutil.copytree(tiny_run, run)
    shutil.rmtree(run / stage)
    script = f"train_{stage}"
    runs = f"runs_dir={tmp_path}"
    process = start(Path(__file__).resolve().parents[2], script, [*tiny, runs])
    checkpoint = run / stage / "checkpoints" / "latest"
    while not checkpoint.exists():
        assert process.poll() is None, "it ended before its first checkpoint"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.read_text().strip() != "step-0000030", "killed too late to show anything"
    command(script, *tiny, runs)
    assert_same(final_bits(run), final_bits(tiny_run))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_present_step_and_leaves_cleanly(number, tiny, tiny_run, tmp_path, command):
    """The log's first row is written at step 5, the first checkpoint is due at 10."""
    arguments = [*tiny, f"runs_dir={tmp_path}"]
    process = start(Path(__file__).resolve().parents[2], "train_stage1", arguments)
    metrics = tmp_path / "tiny" / "stage1" / "metrics.jsonl"
    while not metrics.exists() or not metrics.read_text():
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(number)
    assert process.wait() == 128 + number
    latest = (tmp_path / "tiny" / "stage1" / "checkpoints" / "latest").read_text().strip()
    assert f"stopped at step {int(latest.removeprefix('step-'))}, saved" in process.stderr.read()
    command("train_stage1", *arguments)
    bits, expected = final_bits(tmp_path / "tiny" / "stage1"), final_bits(tiny_run / "stage1")
    assert_same(bits, expected)


def test_a_finished_stage_is_left_as_it_is(tiny, tiny_run, tmp_path, command):
    shutil.copytree(tiny_run, tmp_path / "tiny")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "tiny").rglob("*.safetensors")}
    for script in SCRIPTS:
        command(script, *tiny, f"runs_dir={tmp_path}")
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "tiny").rglob("*.safetensors")}


@pytest.mark.slow
def test_twenty_kills_at_random_moments_lose_nothing(tiny, tmp_path, command):
    """SIGKILL at 20 random moments over both stages and extraction; more steps than usual, so that they fall inside."""
    root = Path(__file__).resolve().parents[2]
    longer = [*tiny, "stage1.steps=400", "stage2.steps=400", "extract.batch_size=2", "extract.shard_size=50"]
    for script in SCRIPTS:
        command(script, *longer, f"runs_dir={tmp_path / 'straight'}")
    moments = random.Random(0)
    arguments = [*longer, f"runs_dir={tmp_path / 'killed'}"]
    for script, kills in zip(SCRIPTS, (8, 4, 8), strict=True):
        begun = time.monotonic()
        command(script, *longer, f"runs_dir={tmp_path / 'timing'}")
        whole = time.monotonic() - begun
        while kills:  # a process that ends before its moment does not count, and starts from the beginning
            process = start(root, script, arguments)
            try:
                process.wait(moments.uniform(0.3, 1.0) * whole)
                folder = tmp_path / "killed" / "tiny" / {"train_stage1": "stage1", "extract_codes": "codes"}.get(script, "stage2")
                shutil.rmtree(folder)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills -= 1
        command(script, *arguments)
    assert_same(final_bits(tmp_path / "killed" / "tiny"), final_bits(tmp_path / "straight" / "tiny"))
