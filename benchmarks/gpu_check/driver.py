"""Runs parts as processes of their own and ends each at its limit, children included."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu_check import report
from benchmarks.gpu_check.plan import LAST, RESERVE_S, Part, groups
from benchmarks.gpu_check.report import Report

ROOT = Path(__file__).resolve().parents[2]
GRACE_S = 2.0  # between SIGTERM and SIGKILL
REHEARSAL = 5.0  # limits are those of a card and 16 cores; a rehearsal has fewer cores, and shares them


_running: set[subprocess.Popen] = set()


@dataclass(frozen=True)
class Settings:
    """What all parts are given."""

    device: str
    small: bool
    out: Path
    work: Path
    minutes: float
    options: dict[str, str]  # flags that only one part reads


class Driver:
    """Runs a list of parts within the time that there is; results and log are written as they come."""

    def __init__(self, settings: Settings, written: Report, environment: dict[str, str]):
        self.settings, self.report, self.environment = settings, written, environment
        self.deadline = time.monotonic() + 60 * settings.minutes - RESERVE_S

    def left_s(self) -> float:
        return self.deadline - time.monotonic()

    def run(self, parts: list[Part]) -> None:
        """All parts but the last in their order, failures again with blocking launches, then the last."""
        early = [part for part in parts if part != LAST]
        for group in groups(early):
            self._run_group(group)
        for part in early:
            if self._verdict(part) == report.FAILED and self.settings.device == "cuda":
                self._run_group([part], again=True)
        if LAST in parts:
            self._run_group([LAST], limit_s=self.left_s())

    def _verdict(self, part: Part) -> str | None:
        sums = [row for row in self.report.rows() if row["part"] == part.name and row["check"] is None]
        return sums[0]["verdict"] if sums else None

    def _run_group(self, group: list[Part], again: bool = False, limit_s: float | None = None) -> None:
        threads = []
        for part in group:
            reason = self._reason_to_skip(part)
            if reason and again:
                continue
            if reason:
                self.report.record(part=part.name, check=None, verdict=report.SKIPPED, note=reason)
                print(f"{part.name}: skipped, {reason}", flush=True)
                continue
            threads.append(threading.Thread(target=self._run_part, args=(part, limit_s or self._limit_s(part), again)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _reason_to_skip(self, part: Part) -> str | None:
        if part.cuda_only and self.settings.device != "cuda":
            return "needs CUDA"
        if self.left_s() < self._limit_s(part):
            return f"{max(0.0, self.left_s()):.0f} s are left, its limit is {self._limit_s(part):.0f} s"
        return None

    def _limit_s(self, part: Part) -> float:
        return part.limit_s * (REHEARSAL if self.settings.small else 1)

    def _run_part(self, part: Part, limit_s: float, again: bool) -> None:
        start, name = time.monotonic(), part.name + ("-again" if again else "")
        environment = self.environment | ({"CUDA_LAUNCH_BLOCKING": "1"} if again else {})
        settings = self.settings
        command = [sys.executable, "-m", "benchmarks.gpu_check.parts", part.name, "--device", settings.device, "--out",
                   str(settings.out), "--work", str(settings.work / name), "--inputs", str(settings.work / "inputs"),
                   "--limit", f"{limit_s:.1f}", *(["--small"] if settings.small else []),
                   *(["--again"] if again else []),
                   *(word for key, value in settings.options.items() for word in ("--option", f"{key}={value}"))]
        print(f"{name}: {part.what}", flush=True)
        status, ended = run_limited(command, limit_s, environment, lambda line: self.report.log(name, line))
        own = [row for row in self.report.rows() if row["part"] == part.name and row["check"] is not None
               and bool(row.get("again")) == again]
        fields: dict[str, object] = {"verdict": report.verdict_of(own)}
        if not ended:
            fields = {"verdict": report.FAILED, "note": f"not done in {limit_s:.0f} s"}
        elif status:
            fields = {"verdict": report.FAILED, "note": f"exit status {status}, see the log"}
        seconds = round(time.monotonic() - start, 1)
        self.report.record(part=part.name, check=None, **({"again": True} if again else {}), **fields, seconds=seconds)
        print(f"{name}: {fields['verdict']} in {seconds:.0f} s", flush=True)


def run_limited(command: list[str], limit_s: float, environment: dict[str, str], log) -> tuple[int, bool]:
    """Exit status, and whether it ended in time. At the limit its whole process group is ended."""
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          start_new_session=True) as process:
        _running.add(process)
        reader = threading.Thread(target=_read, args=(process, log), daemon=True)
        reader.start()
        try:
            return process.wait(limit_s), True
        except subprocess.TimeoutExpired:
            return -1, False
        finally:  # of a part that ended, too: it may have left children behind
            _end_group(process)
            _running.discard(process)
            reader.join(GRACE_S)


def end_all() -> None:
    """Ends what still runs, where the driver itself is interrupted."""
    for process in list(_running):
        _end_group(process)


def _read(process: subprocess.Popen, log) -> None:
    for line in process.stdout:
        if text := printed(line):
            log(text)


def printed(output: bytes) -> str:
    """Output as text; a progress bar, which overwrites its line, counts as its last state."""
    lines = output.decode(errors="replace").split("\n")
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in lines).rstrip("\n")


def _end_group(process: subprocess.Popen) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        end = time.monotonic() + GRACE_S
        while number == signal.SIGTERM and time.monotonic() < end:
            process.poll()
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.05)
