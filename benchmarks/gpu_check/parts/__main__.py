"""One part, in the process that the driver started for it."""

import argparse
import importlib
import shutil
import sys
from pathlib import Path

from benchmarks.gpu_check import report
from benchmarks.gpu_check.recorder import Recorder, missing


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part")
    parser.add_argument("--device", required=True)
    for name in ("--out", "--work", "--inputs"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--limit", type=float, required=True)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--option", action="append", default=[])
    given = parser.parse_args()
    shutil.rmtree(given.work, ignore_errors=True)
    given.work.mkdir(parents=True)
    recorder = Recorder(given.part, given.device, given.small, given.work, given.inputs, given.out, given.limit,
                        given.again, dict(option.split("=", 1) for option in given.option))
    module = importlib.import_module(f"benchmarks.gpu_check.parts.{given.part}")
    if lacking := missing(module.NEEDS):
        recorder.record("imports", report.SKIPPED, note=f"needs {', '.join(lacking)}")
        return
    module.main(recorder)


if __name__ == "__main__":
    sys.exit(main())
