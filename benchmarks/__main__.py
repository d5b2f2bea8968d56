"""Time and memory of everything that takes long, against the machine's floor and against rivals: a table, a JSON file.

    python -m benchmarks                                  # all works: a quarter of an hour on two cores
    python -m benchmarks --only quantizer stage2_step
    python -m benchmarks --quick                          # tiny sizes: whether it runs, not how fast
    python -m benchmarks --device cuda --out bench.json
    python -m benchmarks --curves docs/bench              # time over image size, K, layers, batch, clip length: plots

The contenders of a work take turns, each in a process of its own. Times are medians of all turns but the first ones,
which compile and take memory. A turn is one run, or of training half a second of steps, whose first is left out: it
finds the caches full of another's data. The floor is the time of the operations or bytes that the work cannot avoid,
at the highest rates that matrix products and copies reach in the same run. Peak memory is what a contender's process
gains, its data and model included. Requires a system that can fork processes (Linux, macOS).
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.work import find, names
from pipelines.commands.flags import VerbParser
from pipelines.files.errors import InputError, one_line_errors


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"works: {', '.join(names())}; with --curves: "
                        "image_size, num_codes, num_layers, batch, clip_length")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one second a work")
    parser.add_argument("--long", action="store_true", help="also the sizes that take minutes a run")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--threads", type=int, default=0, help="default: one per core, as PyTorch chooses")
    parser.add_argument("--budget", type=float, default=4.0, help="seconds of timed rounds per size (default: 4)")
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="default: bench.json")
    parser.add_argument("--curves", type=Path, metavar="FOLDER", help="plots and their numbers instead of the table")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    import torch

    for name in ("threads", "budget"):
        if getattr(arguments, name) < 0:
            raise InputError(f"--{name}: expected a number >= 0, found {getattr(arguments, name)}")
    if not hasattr(os, "fork"):
        raise InputError(f"expected a system that can fork processes, Linux or macOS, found {sys.platform}")
    from benchmarks.runner import in_child

    if arguments.device == "cuda" and not in_child(torch.cuda.is_available):
        raise InputError("--device: expected cpu where PyTorch finds no GPU, found cuda")

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:  # of all files that contenders write: they do not clean up
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        if arguments.curves:
            from benchmarks.curves import CURVES, draw

            draw(arguments.curves, chosen(arguments.only, list(CURVES)), arguments.device, arguments.quick)
        else:
            compare_all(arguments)


def chosen(only: list[str] | None, known: list[str]) -> list[str]:
    for name in only or ():
        if name not in known:
            raise InputError(f"--only: expected names among {', '.join(known)}, found {name}")
    return only or known


def compare_all(arguments: argparse.Namespace) -> None:
    """Every work, the machine's rates before and after; prints the table, writes the JSON file."""
    from benchmarks.machine import facts, rates
    from benchmarks.report import duration, machine_lines, table
    from benchmarks.runner import compare, in_child, measure

    start = time.monotonic()
    machine = in_child(lambda: facts(arguments.device))
    before = in_child(lambda: rates(arguments.device, arguments.quick))
    machine["rates"], rows = before, []
    for name in chosen(arguments.only, names()):
        work = find(name)
        if arguments.device not in work.devices:
            print(f"{name}: not on {arguments.device}", file=sys.stderr)
            continue
        for number, sizes in enumerate(work.sizes(arguments.quick, arguments.long)):
            row = measure(name, sizes, arguments.device, 0.0 if arguments.quick else arguments.budget, arguments.long,
                          check=number == 0)
            rows.append(compare(row, before))
            write(arguments, machine, rows)  # what is measured stays if a later work fails
            print(f"{time.monotonic() - start:4.0f} s  {row['title']}, {row['label']}: "
                  f"{duration(row['contenders'][row['ours']]['median_s'])}", file=sys.stderr, flush=True)
    after = in_child(lambda: rates(arguments.device, arguments.quick))
    machine["rates"] = {name: max(rate, after[name]) for name, rate in before.items()}
    machine["seconds"] = round(time.monotonic() - start)
    rows = [compare(row, machine["rates"]) for row in rows]
    write(arguments, machine, rows)
    print(f"{machine_lines(machine)}\n\n{table(rows)}\n\n{arguments.out}: measured in {machine['seconds']} s")


def write(arguments: argparse.Namespace, machine: dict, rows: list[dict]) -> None:
    arguments.out.write_text(json.dumps({"machine": machine, "quick": arguments.quick, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
