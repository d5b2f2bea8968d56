"""Kills, signals, full disks and rivals: what a run's files are afterwards.

    python tests/kills.py                   # the long form: some 300 kills, 60 signals, 20 + 200 tries; half an hour
    python tests/kills.py --short           # what tests/test_kills.py runs, under a minute
    python tests/kills.py --only kills --every 3    # of kills, signals, disks, writers, readers; every third event

A command is killed at the n-th moment at which files come, go or last (rename, remove, mkdir, rmdir, fsync), started
again, and all bits are compared with those of a run that nobody disturbed, timings excepted; no temporary file may
stay. Each command runs in a fork of this process, which has imported everything: hooks/sitecustomize.py chooses the
moment. One line of JSON per kind of disturbance: tries, outcomes, failures.
"""

import argparse
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "pipelines" / "hooks")]

import sitecustomize  # noqa: E402

hooks = importlib.reload(sitecustomize) if not hasattr(sitecustomize, "DISK") else sitecustomize

LIMIT_S = 120  # of one command
# Both stages in a second each: 2x2 codes of the embedded digits, 8 steps, a checkpoint every 4.
TINY = [
    "experiment=digits", "run=tiny", "autoencoder.encoder.hidden=8", "autoencoder.encoder.residual_hidden=4",
    "autoencoder.bottleneck.num_codes=16", "autoencoder.bottleneck.dim=4",
    "autoencoder.bottleneck.rate_warmup_steps=2", "prior.channels=4", "prior.num_layers=1",
    *(f"{stage}.{setting}" for stage in ("stage1", "stage2") for setting in
      ("steps=8", "batch_size=16", "validate_every=4", "checkpoint_every=4", "log_every=4")),
    "extract.shard_size=800", "extract.batch_size=256",
]
SAMPLE = ["--n", "3", "--seed", "1"]
COMMANDS = ("train_stage1", "extract_codes", "train_stage2", "sample")
FOLDERS = {"train_stage1": "stage1", "extract_codes": "codes", "train_stage2": "stage2", "sample": "samples"}


class Failure(Exception):
    """A disturbance did harm."""


# --- commands in forks ---------------------------------------------------------------------------------------


class Command:
    """A verb in a fork of this process, in a process group of its own; under a parent like `make`, if asked for."""

    def __init__(self, runs: Path, verb: str, *more: str, at: str = "", count: Path | None = None, make: bool = False):
        own = ["--run", str(runs / "tiny"), *SAMPLE] if verb == "sample" else [*TINY, f"runs_dir={runs}"]
        self.words = [str(ROOT / "pipelines" / f"{verb}.py"), *own, *more]
        self.log = Path(tempfile.mkstemp(prefix="kills-", suffix=".log")[1])
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.setpgid(0, 0)
            if make and (child := os.fork()):
                _like_make(child)
            self._begin(at, count)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(self.pid, self.pid)

    def _begin(self, at: str, count: Path | None) -> None:
        """As if a shell had started the script; never returns."""
        status = 1
        try:
            file = os.open(self.log, os.O_WRONLY | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.alarm(LIMIT_S)
            if at:
                hooks.install(at)
            if count:
                hooks.count(str(count))
            sys.argv = self.words
            runpy.run_path(self.words[0], run_name="__main__")
            status = 0
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def wait(self) -> int:
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.text = self.log.read_text(errors="replace")
        self.log.unlink()
        return self.status

    @property
    def lines(self) -> list[str]:
        """What it said, without progress bars, what is done, and notes."""
        lines = self.text.replace("\r", "\n").splitlines()
        return [line for line in lines if line.startswith(("error: ", "stopped ")) or "Traceback" in line]


def _like_make(child: int) -> None:
    """Waits for its child, hands a SIGTERM on to it, and ends as it does: as make does."""
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, number))
    signal.signal(signal.SIGINT, lambda number, frame: None)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(status if status >= 0 else 128 - status)


def run(runs: Path, verb: str, *more: str, at: str = "") -> Command:
    command = Command(runs, verb, *more, at=at)
    command.wait()
    return command


def succeed(runs: Path, verb: str, *more: str) -> Command:
    command = run(runs, verb, *more)
    if command.status != 0:
        raise Failure(f"{verb}: status {command.status}: {command.text[-1500:]}")
    return command


# --- what has to be equal ------------------------------------------------------------------------------------


def bits(folder: Path) -> dict[str, bytes]:
    """The content of a folder by file, without timings, TensorBoard's files and a killed command's lock."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or "tensorboard" in path.parts or path.name == ".ndr.lock":
            continue
        content = path.read_bytes()
        if path.name == "state.json" or path.suffix == ".jsonl":
            rows = [content] if path.suffix == ".json" else content.splitlines()
            content = b"\n".join(json.dumps(_untimed(json.loads(row))).encode() for row in rows)
        found[name] = content
    return found


def _untimed(values: dict) -> dict:
    return {key: value for key, value in values.items() if key not in ("seconds", "trained_at")}


def leftovers(folder: Path) -> list[str]:
    """Hidden files and folders, but for the lists of what a call wrote."""
    return [str(path) for path in folder.rglob(".*") if not path.name.startswith(".written-by-")]


def expect_same(folder: Path, expected: dict[str, bytes]) -> None:
    found = bits(folder)
    if found.keys() != expected.keys():
        raise Failure(f"{folder.name}: files {sorted(found.keys() ^ expected.keys())}")
    if different := [name for name in expected if found[name] != expected[name]]:
        raise Failure(f"{folder.name}: other bits in {different}")
    if left := leftovers(folder):
        raise Failure(f"{folder.name}: left behind {left}")


def expect_stopped(command: Command, number: int, words: str) -> None:
    if command.status != 128 + number or len(command.lines) != 1 or words not in command.lines[0]:
        raise Failure(f"{number!r}: status {command.status}, {command.text[-1500:]}")


class Runs:
    """Undisturbed runs to compare with, and copies to disturb."""

    def __init__(self, home: Path):
        self.home = home
        self.whole = home / "whole"
        self.events = {}
        for verb in COMMANDS:
            succeed(self.whole, verb)
            with self.before(verb) as copy:  # the first process may have compiled kernels and stored them: more events
                counted = home / "count"
                Command(copy, verb, count=counted).wait()
                self.events[verb] = int(counted.read_text())
                counted.unlink()
        self.bits = {verb: bits(self.whole / "tiny" / folder) for verb, folder in FOLDERS.items()}

    @contextlib.contextmanager
    def before(self, verb: str, home: Path | None = None) -> Iterator[Path]:
        """A folder of runs in which everything is done up to a command, which is not."""
        runs = Path(tempfile.mkdtemp(dir=home or self.home))
        try:
            for earlier in COMMANDS[: COMMANDS.index(verb)]:
                shutil.copytree(self.whole / "tiny" / FOLDERS[earlier], runs / "tiny" / FOLDERS[earlier])
            yield runs
        finally:
            shutil.rmtree(runs)

    def expect(self, runs: Path, verb: str) -> None:
        expect_same(runs / "tiny" / FOLDERS[verb], self.bits[verb])


# --- disturbances --------------------------------------------------------------------------------------------

Try = tuple[str, Callable[[], str]]  # what is done, and a function that does it and says how it ended


def kills(runs: Runs, short: bool, every: int = 1) -> Iterator[Try]:
    """SIGKILL at the n-th event, then the same command again."""
    for verb in COMMANDS:
        total = runs.events[verb]
        few = [1 + (COMMANDS.index(verb) + 1) * (total - 1) // len(COMMANDS)]  # a quarter of the way, ..., the last
        numbers = few if short else range(1, total + 1, every)
        for number in numbers:
            def once(verb: str = verb, number: int = number) -> str:
                with runs.before(verb) as copy:
                    killed = run(copy, verb, at=f"disk * {number} SIGKILL self")
                    if killed.status != -signal.SIGKILL:
                        raise Failure(f"expected SIGKILL, found {killed.status}: {killed.text[-500:]}")
                    succeed(copy, verb)
                    runs.expect(copy, verb)
                return "same bits"

            yield f"{verb}: SIGKILL at event {number} of {total}", once
        if not short:  # process after process, each killed a little later than the last
            def chain(verb: str = verb) -> str:
                with runs.before(verb) as copy:
                    for number in range(1, 200):
                        status = run(copy, verb, at=f"disk * {number} SIGKILL self").status
                        if status == 0:
                            break
                        if status != -signal.SIGKILL:
                            raise Failure(f"event {number}: status {status}")
                    runs.expect(copy, verb)
                return f"same bits after {number - 1} kills in a row"

            yield f"{verb}: SIGKILL of each process one event later", chain


# The event at which a signal comes, one later for its repetition, and what is said then.
MOMENTS = {
    "train_stage1": ("os.rename optimizer.pt 1", "os.rename latest 1", "stopped at step 5, saved"),
    "train_stage2": ("os.rename optimizer.pt 1", "os.rename latest 1", "stopped at step 5, saved"),
    "extract_codes": ("os.rename train-00001.safetensors 1", "os.remove .train-00001.* 1",
                      "the same command continues after the last whole shard"),
    "sample": ("os.rename 00001.png 1", "os.remove .00001.png.* 1", "stopped by "),
}


def signals(runs: Runs, short: bool) -> Iterator[Try]:
    """SIGTERM and SIGINT: once, twice, to the group under a parent like make."""
    ways = {"once": "{0} {2} self", "twice": "{0} {2} self; {1} {2} self", "group": "{0} {2} group",
            "group twice": "{0} {2} group; {1} {2} group"}
    for verb in COMMANDS:
        for name in ("SIGTERM", "SIGINT"):
            for way, order in ways.items():
                if short and (way, name) not in {("group", "SIGTERM"), ("twice", "SIGINT")}:
                    continue

                def once(verb: str = verb, name: str = name, order: str = order, way: str = way) -> str:
                    first, second, words = MOMENTS[verb]
                    with runs.before(verb) as copy:
                        stopped = Command(copy, verb, at=order.format(first, second, name), make="group" in way)
                        stopped.wait()
                        expect_stopped(stopped, signal.Signals[name], words)
                        if left := leftovers(copy):
                            raise Failure(f"left behind {left}")
                        succeed(copy, verb)
                        runs.expect(copy, verb)
                    return "stopped, saved, same bits"

                for _ in range(1 if short else 2):
                    yield f"{verb}: {name} {way}", once


def disks(runs: Runs, short: bool) -> Iterator[Try]:
    """A full disk: fsync fails from the n-th time on; and, where this may mount one, a small tmpfs."""
    for verb in COMMANDS[:2] if short else COMMANDS:
        for number in (2,) if short else (1, 2, 3, 4, 5):
            def once(verb: str = verb, number: int = number) -> str:
                with runs.before(verb) as copy:
                    full = run(copy, verb, at=f"os.fsync * {number} ENOSPC self")
                    if full.status == 0:
                        return "done before"
                    _expect_full(full)
                    succeed(copy, verb)
                    runs.expect(copy, verb)
                return "refused, same bits"

            yield f"{verb}: no space from fsync {number} on", once
    if not short:
        for verb in COMMANDS[:3]:
            for kilobytes in (16, 64, 128):
                def small(verb: str = verb, kilobytes: int = kilobytes) -> str:
                    with _tmpfs(runs.home / "small") as disk:
                        if disk is None:
                            return "may not mount"
                        with runs.before(verb, disk) as copy:
                            used = sum(path.stat().st_blocks * 512 for path in copy.rglob("*")) // 1024
                            _remount(disk, used + kilobytes)
                            full = run(copy, verb)
                            _remount(disk, 65536)
                            if full.status != 0:
                                _expect_full(full)
                                succeed(copy, verb)
                            runs.expect(copy, verb)
                    return "refused, same bits" if full.status else "fits"

                yield f"{verb}: {kilobytes} kB left on a tmpfs", small


def _expect_full(command: Command) -> None:
    if command.status != 2 or len(command.lines) != 1 or "No space left" not in command.lines[0]:
        raise Failure(f"status {command.status}: {command.text[-1500:]}")


@contextlib.contextmanager
def _tmpfs(folder: Path) -> Iterator[Path | None]:
    folder.mkdir(exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    mounted = subprocess.run(words, capture_output=True).returncode == 0
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def _remount(folder: Path, kilobytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(folder)], check=True)


def writers(runs: Runs, short: bool) -> Iterator[Try]:
    """Two commands that write the same folder, and two runs at once that share nothing but the machine."""
    for verb in COMMANDS[:2] if short else COMMANDS:
        for number in range(1 if short else 5):
            def both(verb: str = verb, number: int = number) -> str:
                with runs.before(verb) as copy:
                    first = Command(copy, verb)
                    time.sleep(0.02 * number)
                    second = Command(copy, verb)
                    ends = [first.wait(), second.wait()]
                    for command in (first, second):
                        if command.status not in (0, 2) or (command.status == 2 and not (
                                len(command.lines) == 1 and "no other process that writes there" in command.lines[0])):
                            raise Failure(f"status {command.status}: {command.text[-1500:]}")
                    if 0 not in ends:
                        raise Failure("neither was done")
                    runs.expect(copy, verb)
                return f"{ends.count(2)} refused"

            yield f"{verb}: two at once, {number}", both

    def apart() -> str:
        with runs.before("train_stage1") as one, runs.before("train_stage1") as two:
            commands = [Command(home, "train_stage1") for home in (one, two)]
            if ends := [command.text[-500:] for command in commands if command.wait()]:
                raise Failure(str(ends))
            runs.expect(one, "train_stage1")
            runs.expect(two, "train_stage1")
        return "both right"

    yield "two runs at once", apart


def readers(runs: Runs, short: bool) -> Iterator[Try]:
    """Sampling and extraction beside a training that replaces its checkpoint after each step."""
    fast = ["steps=1000000", "checkpoint_every=1", "validate_every=1"]
    for verb, stage in (("extract_codes", "stage1"), ("sample", "stage2")):
        for round_ in range(1 if short else 4):
            def beside(verb: str = verb, stage: str = stage) -> str:
                with runs.before(f"train_{stage}") as copy:
                    writer = Command(copy, f"train_{stage}", *(f"{stage}.{setting}" for setting in fast))
                    best, end = copy / "tiny" / stage / "checkpoints" / "best", time.monotonic() + 30
                    while not best.exists() and time.monotonic() < end:
                        time.sleep(0.02)
                    ends: Counter[str] = Counter()
                    for number in range(4 if short else 25):
                        more = ["extract.overwrite=true"] if verb == "extract_codes" else []
                        reader = run(copy, verb, *more)
                        if reader.status != 0:
                            ends["failed"] += 1
                            last = f"reader {number}: status {reader.status}: {reader.text[-800:]}"
                        else:
                            ends["right"] += 1
                    os.killpg(writer.pid, signal.SIGTERM)
                    writer.wait()
                    if ends["failed"]:
                        raise Failure(f"{dict(ends)}; {last}")
                    expect_stopped(writer, signal.SIGTERM, "saved")
                return json.dumps(ends)

            yield f"{verb} beside a training of {stage}, {round_}", beside


PARTS = {"kills": kills, "signals": signals, "disks": disks, "writers": writers, "readers": readers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="kill at every N-th event only")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    arguments = parser.parse_args()
    import pipelines
    for module in pkgutil.walk_packages(pipelines.__path__, "pipelines."):
        importlib.import_module(module.name)  # verbs import what they need only when they run
    gc.freeze()
    with tempfile.TemporaryDirectory(prefix="kills-") as home:
        runs = Runs(Path(home))
        for part in arguments.only:
            every = {"every": arguments.every} if part == "kills" else {}
            attempts = PARTS[part](runs, arguments.short, **every)
            start, ends, failures, in_rows = time.monotonic(), Counter(), [], 0
            for number, (what, attempt) in enumerate(attempts, 1):
                if not arguments.short and number % 20 == 0:
                    print(f"{part}: {number - 1} tries, {len(failures)} failures", file=sys.stderr, flush=True)
                try:
                    end = attempt()
                    if row := re.search(r"(\d+) kills", end):
                        in_rows += int(row[1])
                    ends[re.sub(r"\d+ kills", "n kills", end)] += 1
                except Failure as failure:
                    failures.append(f"{what}: {failure}")
                    print(f"FAILED {failures[-1]}", file=sys.stderr, flush=True)
            print(json.dumps({"part": part, "tries": sum(ends.values()) + len(failures), "kills_in_rows": in_rows,
                              "ends": ends, "failures": failures, "seconds": round(time.monotonic() - start, 1)}),
                  flush=True)


if __name__ == "__main__":
    main()
