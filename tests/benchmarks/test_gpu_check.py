"""`make gpu-check` without a GPU: the driver, every part at small sizes, what is packed and carried."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import wave
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.gpu_check import inputs, launch, pack, plan, report, timing, verbs, wheels
from benchmarks.gpu_check.driver import Driver, Settings, run_limited
from benchmarks.gpu_check.recorder import Recorder, Skipped, missing
from benchmarks.gpu_check.report import Report

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks" / "gpu_check"
QUICK = ("versions", "layers", "speed_quantiser")  # seconds each; the others train, in processes of their own
LIMIT_S = 300


def check(*flags: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "benchmarks.gpu_check", *map(str, flags)], cwd=ROOT, text=True,
                          capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=LIMIT_S)


def recorder_in(folder: Path, device: str = "cpu", small: bool = True, **fields) -> Recorder:
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    return Recorder("part", device, small, work, folder / "inputs", folder, 100.0, **fields)


# --- the plan -----------------------------------------------------------------------------------------------------


def test_every_part_is_in_the_plan_and_has_its_functions():
    files = {path.stem for path in (FOLDER / "parts").glob("*.py")} - {"__init__", "__main__"}
    assert files == set(plan.names()) and len(plan.names()) == len(files)
    for name in files:
        module = importlib.import_module(f"benchmarks.gpu_check.parts.{name}")
        assert isinstance(module.NEEDS, tuple) and callable(module.main) and module.__doc__, name


def test_all_limits_together_fit_into_eight_minutes():
    worst = sum(max(part.limit_s for part in group) for group in plan.groups(list(plan.PARTS)))
    assert worst + plan.RESERVE_S <= 480
    assert sum(len(group) for group in plan.groups(list(plan.PARTS))) == len(plan.PARTS)


def test_the_table_of_the_documents_has_the_limits_of_the_plan():
    text = (ROOT / "docs" / "gpu.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    for part in plan.PARTS:
        (row,) = [row for row in rows if f"`{part.name}`" in row.split("|")[1]]
        assert f"{part.limit_s:.0f}" in row.split("|")[2], row


# --- the driver ---------------------------------------------------------------------------------------------------


@pytest.fixture
def played(tmp_path, monkeypatch):
    """played(scripts, minutes) -> (calls, rows): parts whose processes are replaced by functions of this test."""

    def play(scripts: dict, minutes: float, parts: list[plan.Part], device: str = "cuda"):
        calls = []

        def run(command, limit_s, environment, log):
            name, again = command[3], "--again" in command
            calls.append((name, again, environment.get("CUDA_LAUNCH_BLOCKING"), limit_s))
            log(f"line of {name}")
            return scripts.get(name, passes)(written, name, again)

        monkeypatch.setattr("benchmarks.gpu_check.driver.run_limited", run)
        written = Report(tmp_path / "out")
        settings = Settings(device, device == "cpu", tmp_path / "out", tmp_path / "work", minutes, {})
        Driver(settings, written, {}).run(parts)
        return calls, {(row["part"], bool(row.get("again"))): row for row in written.rows() if row["check"] is None}

    return play


def row_of(verdict: str):
    def script(written: Report, name: str, again: bool) -> tuple[int, bool]:
        written.record(part=name, check="one", verdict=verdict, **({"again": True} if again else {}))
        return 0, True

    return script


passes = row_of("passed")
A, B, C = plan.Part("a", 10, "first"), plan.Part("b", 10, "second"), plan.Part("c", 10, "third")


def test_a_part_that_fails_hangs_or_dies_leaves_the_others_standing(played):
    scripts = {"a": row_of("failed"), "b": lambda *_: (-1, False), "c": lambda *_: (-11, True)}
    calls, rows = played(scripts, 10, [A, B, C, plan.Part("d", 10, "fourth")])
    assert [call[:2] for call in calls] == [("a", False), ("b", False), ("c", False), ("d", False),
                                            ("a", True), ("b", True), ("c", True)]
    assert [rows[name, False]["verdict"] for name in "abcd"] == ["failed", "failed", "failed", "passed"]
    assert rows["b", False]["note"] == "not done in 10 s" and "exit status -11" in rows["c", False]["note"]


def test_only_failures_run_again_with_blocking_launches_before_the_last_part(played):
    scripts = {"a": lambda written, name, again: row_of("passed" if again else "failed")(written, name, again),
               "b": row_of("missed")}
    calls, rows = played(scripts, 10, [A, B, plan.LAST])
    assert [call[:3] for call in calls] == [("a", False, None), ("b", False, None), ("a", True, "1"),
                                            ("cifar10", False, None)]
    assert rows["a", False]["verdict"] == "failed" and rows["a", True]["verdict"] == "passed"
    assert calls[-1][3] == pytest.approx(10 * 60 - plan.RESERVE_S, abs=5), "the last part gets what is left"


def test_a_part_is_skipped_when_less_than_its_limit_is_left(played):
    calls, rows = played({}, 20 / 60, [A, plan.Part("long", 100, "too long"), C])
    assert [call[0] for call in calls] == ["a", "c"]
    assert rows["long", False]["verdict"] == "skipped" and "its limit is 100 s" in rows["long", False]["note"]


def test_what_exists_on_a_card_alone_is_skipped_on_a_cpu_and_nothing_runs_again(played):
    calls, rows = played({"a": row_of("failed")}, 10, [A, plan.Part("card", 10, "", cuda_only=True)], device="cpu")
    assert [call[0] for call in calls] == ["a"] and rows["card", False]["note"] == "needs CUDA"


def test_a_part_without_any_check_has_failed(played):
    _, rows = played({"a": lambda *_: (0, True)}, 10, [A])
    assert rows["a", False]["verdict"] == "failed"


def test_a_process_and_its_children_end_at_the_limit(tmp_path):
    """The child ignores SIGTERM, as one that hangs in a driver does."""
    code = ("import subprocess, sys, time\n"
            "child = 'import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
            "print(os.getpid(), flush=True); time.sleep(600)'\n"
            "subprocess.Popen([sys.executable, '-c', child])\ntime.sleep(600)")
    lines: list[str] = []
    start = time.monotonic()
    status, ended = run_limited([sys.executable, "-c", code], 2.0, dict(os.environ), lines.append)
    assert not ended and time.monotonic() - start < 60
    (child,) = map(int, lines)
    for _ in range(100):  # a killed process remains as a zombie until its new parent reads its status
        if not Path(f"/proc/{child}").exists() or Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        pytest.fail("the child outlived the limit")


def test_a_check_that_is_stopped_ends_its_parts_and_prints_what_it_has(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--device", "cpu", "--only", "resume", "--out",
               str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        results = tmp_path / "out" / "log.txt"
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end and not (results.exists() and "train_stage1" in results.read_text()):
            time.sleep(0.1)
        for _ in range(2):  # as `timeout` does
            process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        output = process.communicate(timeout=LIMIT_S)[0]
    assert process.returncode == 128 + signal.SIGTERM and str(tmp_path / "out" / "results.jsonl") in output
    own = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in read_or_nothing(path)]
    assert not own, [path.read_bytes() for path in own]


def read_or_nothing(path: Path) -> bytes:
    """Of a process that may end meanwhile."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_output_arrives_as_lines_and_a_progress_bar_as_its_last_state():
    lines: list[str] = []
    code = r"print('one'); print('10 %\r20 %\r30 %'); raise SystemExit(3)"
    assert run_limited([sys.executable, "-c", code], 60.0, dict(os.environ), lines.append) == (3, True)
    assert lines == ["one", "30 %"]


# --- checks, results, the table ------------------------------------------------------------------------------------


def test_a_check_that_fails_leaves_the_next_one_standing(tmp_path):
    recorder = recorder_in(tmp_path)
    with recorder.check("wrong"):
        raise ValueError("expected 1, found 2\nmore")
    with recorder.check("right") as found:
        found.note("as expected")
    with recorder.check("elsewhere"):
        raise Skipped("needs a card")
    rows = report.read(tmp_path / "results.jsonl")
    assert [(row["check"], row["verdict"]) for row in rows] == [
        ("wrong", "failed"), ("right", "passed"), ("elsewhere", "skipped")]
    assert rows[0]["note"] == "ValueError: expected 1, found 2"
    assert report.verdict_of(rows) == "failed" and report.verdict_of(rows[1:]) == "passed"


@pytest.mark.parametrize("device, small, verdict", [("cuda", False, "missed"), ("cuda", True, "measured"),
                                                    ("cpu", True, "measured")])
def test_a_target_is_judged_on_a_card_at_full_size(tmp_path, device, small, verdict):
    recorder = recorder_in(tmp_path, device, small)
    recorder.measure("slow", 0.2, "s", at_most=0.15)
    recorder.measure("fast", 4.0, "x", at_least=3)
    slow, fast = report.read(tmp_path / "results.jsonl")
    assert slow["verdict"] == verdict and slow["target"] == "<= 0.15 s"
    assert fast["verdict"] == ("passed" if verdict == "missed" else "measured") and fast["target"] == ">= 3 x"


def test_results_that_a_kill_cut_off_can_be_read(tmp_path):
    path = tmp_path / "results.jsonl"
    report.append(path, {"part": "a", "check": None, "verdict": "passed", "seconds": 1.0})
    with open(path, "a") as file:
        file.write('{"part": "b", "che')
    assert [row["part"] for row in report.read(path)] == ["a"]


def test_the_table_shows_every_part_every_figure_and_all_that_did_not_pass():
    rows = [{"part": "a", "check": "fine", "verdict": "passed"},
            {"part": "a", "check": "step", "verdict": "missed", "value": 3.14159, "unit": "ms", "target": "<= 2 ms"},
            {"part": "a", "check": None, "verdict": "missed", "seconds": 12.0},
            {"part": "b", "check": None, "verdict": "skipped", "note": "needs CUDA"}]
    text = report.table(rows)
    assert "1 of 2" in text and "3.142 ms" in text and "<= 2 ms" in text and "needs CUDA" in text
    assert "fine" not in text


def test_the_targets_are_judged_by_the_checks_that_decide_on_them():
    def row(part: str, check: str, verdict: str) -> dict:
        return {"part": part, "check": check, "verdict": verdict}

    lines = report.targets([
        row("speed_steps", "stage 1, compact, batch 32: eager float32 / ours", "missed"),
        row("speed_steps", "stage 1, compact, batch 128: eager float32 / ours", "passed"),
        row("speed_steps", "stage 1, compact, batch 128: step", "measured"),
        row("reference", "PixelCNN 9 x 13: float64 equals naive on the CPU", "passed"),
        row("synchronisations", "audio, stage 1: no synchronisation in a step", "failed")])
    assert [line[56:] for line in lines] == ["1 of 2", "not judged here", "1 of 1", "0 of 1"]


def test_every_target_is_decided_by_checks_that_exist():
    for part, *words in report.TARGETS.values():
        source = (FOLDER / "parts" / f"{part}.py").read_text()
        for word in words:
            assert word in source or re.sub(r"\d+", "{n}", word) in source, f"{part}: {word}"


def test_missing_packages_go_by_the_names_of_the_index():
    assert missing(("torch", "json")) == []
    assert missing(("no_such_module",)) == ["no_such_module"]


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_card_one_line_and_exit_status_2(tmp_path):
    result = check("--out", tmp_path / "out")
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1
    assert "expected a CUDA device, found none" in result.stderr


@pytest.mark.parametrize("flags, words", [
    (("--only", "digts"), "expected digits, found 'digts'"),
    (("--minutes", "many"), "--minutes: invalid float value: 'many'"),
    (("--onyl", "digits"), "unrecognized arguments: --onyl digits"),
    (("--minutes", "0"), "--minutes: expected a number > 0"),
    (("--wheels", "no/such/folder"), "--wheels: expected a folder, found no/such/folder"),
    (("--cifar10-from", "no/such"), "--cifar10-from: expected a folder"),
    (("--work", str(ROOT)), "--work: expected a new folder or one of an earlier check"),
])
def test_wrong_flags_get_one_line_and_exit_status_2(tmp_path, flags, words):
    result = check("--device", "cpu", "--out", tmp_path / "out", *flags)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and words in result.stderr


@pytest.mark.slow
def test_a_rehearsal_writes_results_and_log(tmp_path):
    result = check("--device", "cpu", "--out", tmp_path / "out", *(word for name in QUICK for word in ("--only", name)))
    assert result.returncode == 0, result.stdout + (tmp_path / "out/log.txt").read_text()[-3000:]
    rows = report.read(tmp_path / "out" / "results.jsonl")
    sums = {row["part"]: row["verdict"] for row in rows if row["check"] is None}
    assert sums == dict.fromkeys(QUICK, "passed")
    assert not [row for row in rows if row["verdict"] in ("failed", "missed")]
    assert "[layers] --- conv2d, bfloat16" in (tmp_path / "out" / "log.txt").read_text()
    assert all(f"\n{name} " in result.stdout for name in QUICK), "the table"
    again = check("--device", "cpu", "--out", tmp_path / "out", "--only", "speed_quantiser")
    assert again.returncode == 0, "a second check empties the work of the first"


@pytest.mark.slow
@pytest.mark.parametrize("name", [part.name for part in (*plan.PARTS, plan.LAST)
                                  if not part.cuda_only and part.name not in QUICK])
def test_every_part_can_be_rehearsed(tmp_path, name):
    result = check("--device", "cpu", "--out", tmp_path / "out", "--only", name)
    assert result.returncode == 0, result.stdout + (tmp_path / "out/log.txt").read_text()[-3000:]
    rows = [row for row in report.read(tmp_path / "out" / "results.jsonl") if row["part"] == name]
    assert rows[-1]["check"] is None and rows[-1]["verdict"] in ("passed", "measured"), rows


# --- what parts use ------------------------------------------------------------------------------------------------


def test_tones_are_recordings_of_every_digit_and_speaker(tmp_path):
    inputs.write(tmp_path)
    files = sorted((tmp_path / "inputs" / "fsdd").glob("*.wav"))
    assert {tuple(path.stem.split("_")[:2]) for path in files} == {
        (str(digit), speaker) for digit in inputs.DIGITS for speaker in inputs.SPEAKERS}
    with wave.open(str(files[0])) as file:
        samples = torch.frombuffer(bytearray(file.readframes(file.getnframes())), dtype=torch.int16)
        assert file.getframerate() == inputs.RATE_HZ and len(samples) >= 480
    assert 3000 < int(samples.abs().max()) < 32767, "neither silent nor clipped"


def test_a_launch_is_killed_just_before_a_checkpoint_becomes_the_latest(tmp_path):
    (tmp_path / "saves.py").write_text(
        "import os\nfor step in range(5):\n    open('new', 'w').write(str(step))\n    os.replace('new', 'latest')\n")
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    result = subprocess.run([sys.executable, "-m", "benchmarks.gpu_check.launch", "--kill-at", "3", "saves"],
                            cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, timeout=LIMIT_S)
    assert result.returncode == -signal.SIGKILL and (tmp_path / "latest").read_text() == "1"


def test_a_launch_can_keep_items_in_main_memory_and_name_ranks_that_share_a_device(monkeypatch):
    import torch.distributed as dist

    from pipelines.splits import base

    monkeypatch.setattr(base, "RESIDENT_SHARE", base.RESIDENT_SHARE)
    launch.host_data()
    assert base.RESIDENT_SHARE == 0
    joined = []
    monkeypatch.setattr(dist, "init_process_group", lambda *words, **options: joined.append((words, options)))
    monkeypatch.setenv("LOCAL_RANK", "1")
    launch.share_one_device()
    dist.init_process_group("nccl", device_id=torch.device("cpu"), rank=1)
    assert joined == [(("gloo",), {"rank": 1})] and os.environ["LOCAL_RANK"] == "0"


def test_a_verb_that_fails_names_its_last_line(tmp_path):
    with pytest.raises(RuntimeError, match="sample: expected exit status 0, found 2: error: --n"):
        verbs.run_verb(recorder_in(tmp_path), "sample", "--n", "0", "--run", "mnist")


def test_tensors_are_compared_by_name_and_by_bit():
    one = {"a": torch.zeros(3), "b": torch.ones(2)}
    assert verbs.largest_difference(one, {name: tensor.clone() for name, tensor in one.items()}) == 0
    assert verbs.largest_difference(one, one | {"b": torch.tensor([1.0, 1.5])}) == 0.5
    with pytest.raises(AssertionError, match="'b'"):
        verbs.largest_difference(one, {"a": one["a"]})


def test_flops_of_a_layer_and_their_share_of_a_peak():
    layer, x = torch.nn.Linear(8, 16, bias=False), torch.randn(4, 8)
    assert timing.count_flops(lambda: layer(x)) == 2 * 4 * 8 * 16
    assert timing.share(2_000_000, 1e-3, 4e9) == "0.0 GFLOP a step, 0.00 TFLOP/s, 50.0% of 0"
    assert timing.median_s(lambda: time.sleep(0.001), "cpu", 3) >= 0.001
    for name in ("NVIDIA H100 80GB HBM3", "NVIDIA H200"):
        assert next(key for key in timing.CARDS if key in name) == name.split()[1]


def test_tf32_is_as_before_afterwards_and_cudnn_stays_on():
    from benchmarks.gpu_check.precision import tf32

    def settings() -> tuple:
        return (torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision,
                torch.backends.cudnn.enabled)

    before = settings()
    with tf32(False):
        assert settings() == ("ieee", "ieee", before[2])
        with tf32(True):
            assert settings() == ("tf32", "tf32", before[2])
    assert settings() == before


def test_a_resumed_training_must_have_the_bits_unless_two_others_differ_too():
    from benchmarks.gpu_check.parts.resume import compare
    from benchmarks.gpu_check.recorder import Findings

    def with_value(value: float) -> dict:
        return {"weight": torch.tensor([1.0, value])}

    compare(Findings(), with_value(2), with_value(2), again=lambda: pytest.fail("equal: no third training"))
    compare(Findings(), with_value(2), with_value(2.2), again=lambda: with_value(2.1))
    for third in (2, 2.1):
        with pytest.raises(AssertionError, match="expected the same bits"):
            compare(Findings(), with_value(2), with_value(2.5), again=lambda third=third: with_value(third))


def test_the_mode_is_set_around_the_middle_steps_and_a_step_that_waits_is_named(tmp_path, monkeypatch):
    """A stand-in for CUDA: under "error" a wait raises, under "warn" it warns."""
    import warnings

    from benchmarks.gpu_check.parts import synchronisations
    from benchmarks.gpu_check.recorder import Findings
    from pipelines.training.autoencoder import AutoencoderTask
    from pipelines.training.prior import PriorTask

    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    recorder = recorder_in(tmp_path)
    overrides = synchronisations.images(recorder)
    synchronisations.without_waiting(recorder, "train_stage1", overrides, Findings())
    assert modes == ["error", "default", "default"]
    verbs.call_verb("extract_codes", overrides)

    def waits_before(plain):
        def loss(self, network, batch, step):
            if modes[-1] == "error":
                raise RuntimeError("called a synchronizing CUDA operation")
            if modes[-1] == "warn":
                warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            return plain(self, network, batch, step)

        return loss

    for task, verb in ((AutoencoderTask, "train_stage1"), (PriorTask, "train_stage2")):
        monkeypatch.setattr(task, "loss", waits_before(task.loss))
        found, fresh = Findings(), [*overrides, "run=waiting"]
        (recorder.work / "waiting").mkdir(exist_ok=True)
        shutil.copytree(recorder.work / "digits" / "codes", recorder.work / "waiting" / "codes", dirs_exist_ok=True)
        with pytest.raises(RuntimeError, match="5 synchronisations in 5 steps: .*test_gpu_check.py:"):
            synchronisations.without_waiting(recorder, verb, fresh, found)
        assert found.fields["value"] == 1


# --- what is carried from machine to machine -----------------------------------------------------------------------


def test_wheels_are_unpacked_without_pip(tmp_path):
    with zipfile.ZipFile(tmp_path / "toy-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("toy_of_the_check.py", "value = 7\n")
    site = wheels.unpack(tmp_path, tmp_path / "site")
    code = "import toy_of_the_check; print(toy_of_the_check.value)"
    result = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(site)},
                            capture_output=True, text=True)
    assert result.stdout == "7\n", result.stderr
    (tmp_path / "broken-1-py3-none-any.whl").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="broken-1"):
        wheels.unpack(tmp_path, tmp_path / "other")
    with pytest.raises(ValueError, match=r"expected \*.whl"):
        wheels.unpack(tmp_path / "site", tmp_path / "third")


def test_wheels_are_gathered_at_the_pinned_versions():
    constraints = (ROOT / "constraints.txt").read_text()
    build, download = wheels.commands(Path("there"), list(wheels.PACKAGES), "3.12", constraints)
    assert build[-1].startswith("antlr4-python3-runtime==") and "wheel" in build
    assert {word.partition("==")[0] for word in download if "==" in word and not word.startswith("--")} == set(
        wheels.PACKAGES) - set(wheels.BUILT)
    with pytest.raises(ValueError, match="found 'no-such-package'"):
        wheels.commands(Path("there"), ["no-such-package"], "3.12", constraints)


def test_a_packed_checkpoint_can_be_taken_up(tmp_path, monkeypatch):
    from pipelines.training.checkpoint import find_checkpoint, read_optimizer, read_part, read_state

    stage = tmp_path / "stage1"
    shutil.copytree(ROOT / "tests" / "golden" / "format1" / "stage1", stage)
    monkeypatch.setattr(pack, "PIECE_BYTES", 20_000)
    pack.pack(stage, tmp_path)
    pieces = list(tmp_path.glob("cifar10.part*"))
    assert len(pieces) > 1 and max(piece.stat().st_size for piece in pieces) <= 20_000
    pack.unpack(tmp_path, tmp_path / "there")
    old, new = find_checkpoint(stage), find_checkpoint(tmp_path / "there")
    before, after = (load_file(folder / "model.safetensors") for folder in (old, new))
    assert all(torch.equal(before[name], after[name]) for name in before.keys() | after.keys())
    assert read_state(new).step == read_state(old).step and json.loads((new / "state.json").read_text())["checksums"]
    assert read_part(new, read_state(new), "model.safetensors"), "of the checksum that is stated"
    one, two = (read_optimizer(folder, read_state(folder)) for folder in (old, new))
    for number, moments in one["state"].items():
        for name, value in moments.items():
            found = two["state"][number][name]
            assert found.dtype == value.dtype
            assert torch.allclose(found, value, rtol=2**-8, atol=0), f"{number} {name}: bfloat16 keeps 8 bits"
    with pytest.raises(ValueError, match="expected a run or cifar10.part0"):
        pack.unpack(tmp_path / "there", tmp_path / "nowhere")
