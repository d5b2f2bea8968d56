"""`make gpu-check`: every path that needs a GPU, and its speed, in at most 8 minutes on one card.

    python -m benchmarks.gpu_check                                   # all parts, then the paper's CIFAR-10
    python -m benchmarks.gpu_check --wheels FOLDER                   # packages that the machine lacks (make gpu-wheels)
    python -m benchmarks.gpu_check --only reference --only resume
    python -m benchmarks.gpu_check --device cpu                      # a rehearsal at small sizes

Requires the checkout, and a Python with torch. Writes results.jsonl and log.txt to --out, and prints a table.
Exit status: 0 all passed, 1 a part failed or missed a target, 2 no CUDA device or a wrong flag.
"""

import argparse
import difflib
import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from benchmarks.gpu_check import inputs, plan, report, wheels
from benchmarks.gpu_check.driver import ROOT, Driver, Settings, end_all
from benchmarks.gpu_check.report import Report


class Parser(argparse.ArgumentParser):
    """What it refuses takes one line."""

    def error(self, message: str) -> NoReturn:
        refuse(message)


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="PART", help=f"of {', '.join(plan.names())}")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_check"), help="default: runs/gpu_check")
    parser.add_argument("--work", type=Path, help="folder of the parts' runs, emptied first (default: OUT-work)")
    parser.add_argument("--minutes", type=float, help="default: 8, and 60 for a rehearsal")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="small sizes on a GPU too; always so on a CPU")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to unpack and import from")
    parser.add_argument("--mnist-root", type=Path, help="folder with MNIST/raw: pretrained/mnist is evaluated too")
    parser.add_argument("--cifar10-root", type=Path, help="folder with cifar-10-batches-py; without it, frames of a "
                        "simulated room")
    parser.add_argument("--cifar10-from", type=Path, help="run folder, or folder with cifar10.part*, to continue")
    given = parser.parse_args(words)
    for name in given.only:
        if name not in plan.names():
            nearest = difflib.get_close_matches(name, plan.names(), n=1) or [f"one of {', '.join(plan.names())}"]
            refuse(f"--only: expected {nearest[0]}, found {name!r}")
    given.small |= given.device == "cpu"
    if given.minutes is None:
        given.minutes = 60.0 if given.small else 8.0
    if not 0 < given.minutes <= 24 * 60:
        refuse(f"--minutes: expected a number > 0 and <= 1440, found {given.minutes:g}")
    for name in ("wheels", "mnist_root", "cifar10_root", "cifar10_from"):
        path = getattr(given, name)
        if path is not None and not path.is_dir():
            refuse(f"--{name.replace('_', '-')}: expected a folder, found {path}")
    return given


def main(words: list[str] | None = None) -> int:
    given = parse_arguments(words)
    out = given.out.resolve()
    work = (given.work or out.with_name(out.name + "-work")).resolve()
    if work.exists() and not (work / inputs.MARKER).exists() and any(work.iterdir()):
        refuse(f"--work: expected a new folder or one of an earlier check, found {work}")
    if given.device == "cuda" and (reason := no_cuda(environment_with(None))):
        refuse(f"gpu-check: expected a CUDA device, found {reason}; --device cpu (make gpu-check-cpu) rehearses")
    shutil.rmtree(work, ignore_errors=True)
    inputs.write(work)
    try:
        environment = environment_with(wheels.unpack(given.wheels, work / "site") if given.wheels else None)
    except ValueError as error:
        refuse(str(error))
    options = {name: str(path.resolve()) for name in ("mnist_root", "cifar10_root", "cifar10_from")
               if (path := getattr(given, name)) is not None}
    settings = Settings(given.device, given.small, out, work, given.minutes, options)
    written = Report(out)
    written.record(part="driver", check="start", verdict=report.MEASURED, device=given.device, small=settings.small,
                   minutes=given.minutes, time=datetime.now(UTC).isoformat(timespec="seconds"))
    driver = Driver(settings, written, environment)
    chosen = [part for part in (*plan.PARTS, plan.LAST) if not given.only or part.name in given.only]
    signal.signal(signal.SIGTERM, stop)
    try:
        driver.run(chosen)
    finally:
        end_all()
        rows = [row for row in written.rows() if row["part"] != "driver"]
        print(f"\n{report.table(rows)}\n\n{written.results}  {written.log_path}", flush=True)
    sums = [row["verdict"] for row in rows if row["check"] is None and not row.get("again")]
    return int(any(verdict in (report.FAILED, report.MISSED) for verdict in sums))


def environment_with(site: Path | None) -> dict[str, str]:
    """The environment of the parts: the checkout and unpacked packages can be imported, output comes at once."""
    folders = [str(ROOT), str(site) if site else "", os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, folders)), "PYTHONUNBUFFERED": "1",
                         "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # the same products give the same bits


def no_cuda(environment: dict[str, str]) -> str | None:
    """Why there is no CUDA device; None where there is one."""
    code = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    result = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        return f"a Python without a working torch ({(result.stderr.strip().splitlines() or ['no message'])[-1]})"
    return "none" if result.stdout.split()[-1] == "0" else None


def stop(number: int, frame: object) -> NoReturn:
    """Once: `timeout` sends its signal twice, and the second must not end what the first began, the table."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def refuse(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    sys.exit(main())
