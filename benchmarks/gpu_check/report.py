"""What is written: results.jsonl, one line per check; log.txt, the output of all parts; the table at the end.

A line of results.jsonl: part, check, verdict, seconds, and where they apply value, unit, target, note. A line whose
check is null sums up its part.
"""

import json
import threading
from pathlib import Path

FAILED, MISSED, PASSED, MEASURED, SKIPPED = "failed", "missed", "passed", "measured", "skipped"
WORST_FIRST = (FAILED, MISSED, PASSED, MEASURED, SKIPPED)
TARGETS = {  # in words: the part and the words of the checks that decide
    "stage-1 step at least 3 times as fast as eager float32": ("speed_steps", "stage 1", "eager float32 / ours"),
    "64 grids of 32x32 in at most 0.15 s": ("speed_sampling", "64 grids"),
    "the CPU's codes in float64": ("reference", "float64 equal"),
    "no synchronisation in a training step": ("synchronisations", "no synchronisation"),
}


class Report:
    """The two files; lines are written whole and at once, so that what was found outlives a kill."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.results, self.log_path = folder / "results.jsonl", folder / "log.txt"
        self._lock = threading.Lock()
        for path in (self.results, self.log_path):
            path.write_text("")
        self._log = open(self.log_path, "a", buffering=1, encoding="utf-8")

    def record(self, **fields: object) -> None:
        append(self.results, fields)

    def log(self, part: str, line: str) -> None:
        with self._lock:
            self._log.write(f"[{part}] {line.rstrip()}\n")

    def rows(self) -> list[dict]:
        return read(self.results)


def append(path: Path, fields: dict) -> None:
    """One line, in a single write: several processes append to the same file."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(fields) + "\n")


def read(path: Path) -> list[dict]:
    """The rows of a results.jsonl; a last line that a kill cut off is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def verdict_of(rows: list[dict]) -> str:
    """The verdict of a part with these checks: the worst; failed where there is none."""
    found = {row["verdict"] for row in rows}
    return next((verdict for verdict in WORST_FIRST if verdict in found), FAILED)


def table(rows: list[dict]) -> str:
    """Every part in one line; then what was measured, judged against a target, not passed or skipped."""
    lines = [f"{'part':<26}{'verdict':<10}{'seconds':>8}  checks"]
    checks = [row for row in rows if row["check"] is not None]
    for row in rows:
        if row["check"] is None:
            own = [check for check in checks if check["part"] == row["part"]
                   and bool(check.get("again")) == bool(row.get("again"))]
            passed = sum(check["verdict"] in (PASSED, MEASURED) for check in own)
            name = row["part"] + (" (again)" if row.get("again") else "")
            lines.append(f"{name:<26}{row['verdict']:<10}{row.get('seconds', 0):>8.1f}  {passed} of {len(own)}"
                         + (f"; {row['note']}" if row.get("note") else ""))
    shown = [row for row in checks if row["verdict"] != PASSED or "value" in row]
    if shown:
        lines += ["", f"{'part':<18}{'check':<58}{'verdict':<10}{'value':>14}  target, note"]
    for row in shown:
        value = f"{row['value']:.4g} {row.get('unit', '')}".strip() if "value" in row else ""
        rest = "; ".join(str(row[key]) for key in ("target", "note") if row.get(key))
        lines.append(f"{row['part']:<18}{row['check'][:57]:<58}{row['verdict']:<10}{value:>14}  {rest[:110]}".rstrip())
    return "\n".join([*lines, "", *targets(checks)])


def targets(checks: list[dict]) -> list[str]:
    """Each target in one line: how many of the checks that decide on it met it."""
    lines = []
    for title, (part, *words) in TARGETS.items():
        own = [row["verdict"] for row in checks if row["part"] == part and all(word in row["check"] for word in words)
               and row["verdict"] in (PASSED, MISSED, FAILED) and not row.get("again")]
        lines.append(f"{title:<56}" + (f"{own.count(PASSED)} of {len(own)}" if own else "not judged here"))
    return lines
