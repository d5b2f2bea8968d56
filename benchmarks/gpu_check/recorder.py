"""How a part records its checks: each passes or fails on its own, and one that fails leaves the next ones standing."""

import importlib.util
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gpu_check import report

PACKAGES = {"hydra": "hydra-core", "sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml"}  # module: package


@dataclass
class Findings:
    """What a check adds to its line while it runs."""

    fields: dict = field(default_factory=dict)

    def note(self, text: str) -> None:
        self.fields["note"] = text

    def value(self, value: float, unit: str = "") -> None:
        self.fields |= {"value": value, "unit": unit}


class Skipped(Exception):
    """A check cannot be made here, and why."""


@dataclass(frozen=True)
class Recorder:
    """One part: where it works and writes, on which device, how long it may take.

    small: sizes for a rehearsal, which proves that a part runs and says nothing of speed or quality."""

    part: str
    device: str  # "cuda" or "cpu"
    small: bool
    work: Path  # this part's own folder, empty
    inputs: Path  # made beforehand, shared, only read
    out: Path  # the folder of results.jsonl
    limit_s: float
    again: bool = False  # a second run of a part that failed
    options: dict = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def left_s(self) -> float:
        """Seconds until the driver ends this part."""
        return self.limit_s - (time.monotonic() - self.started)

    def record(self, check: str, verdict: str, **fields: object) -> None:
        row = {"part": self.part, "check": check, "verdict": verdict} | ({"again": True} if self.again else {}) | fields
        report.append(self.out / "results.jsonl", row)
        print(f"{verdict}: {check} {fields}", flush=True)

    @contextmanager
    def check(self, name: str) -> Iterator[Findings]:
        """Passes unless an exception leaves its block; its traceback goes to the log."""
        start, found = time.monotonic(), Findings()
        print(f"--- {name}", flush=True)
        try:
            yield found
        except Skipped as reason:
            self.record(name, report.SKIPPED, note=str(reason))
            return
        except Exception as error:
            traceback.print_exc()
            lines = [line for line in str(error).splitlines() if line.strip()] or [""]
            found.note(f"{type(error).__name__}: {lines[0][:300]}")
            verdict = report.FAILED
        else:
            verdict = report.PASSED
        self.record(name, verdict, **found.fields, seconds=round(time.monotonic() - start, 2))

    def measure(self, check: str, value: float, unit: str, note: str = "", at_most: float | None = None,
                at_least: float | None = None) -> None:
        """A figure; judged against its target on a GPU at full size only."""
        verdict, fields = report.MEASURED, {"value": float(f"{value:.5g}"), "unit": unit}
        for sign, bound in (("<=", at_most), (">=", at_least)):
            if bound is not None:
                fields["target"] = f"{sign} {bound:g} {unit}".strip()
                if self.device == "cuda" and not self.small:
                    met = value <= bound if sign == "<=" else value >= bound
                    verdict = report.PASSED if met else report.MISSED
        self.record(check, verdict, **fields, **({"note": note} if note else {}))


def missing(modules: tuple[str, ...]) -> list[str]:
    """The packages of these modules that are not installed."""
    return [PACKAGES.get(name, name) for name in modules if importlib.util.find_spec(name) is None]


def expect(condition: bool, message: str) -> None:
    """Fails the check with `message`: expected what, found what."""
    if not condition:
        raise AssertionError(message)
