"""Lists the runs there are, the newest first: age, steps, main figures, disk use, format. Removes one on request.

    python pipelines/list_runs.py
    python pipelines/list_runs.py --remove photos           # asks first; --yes: does not

A run that cannot be read is listed as damaged, with what is wrong with it.
"""

import argparse
import sys
from pathlib import Path

from pipelines.commands.flags import VerbParser, folder
from pipelines.files.errors import InputError, one_line_errors


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("--runs-dir", type=folder, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--remove", metavar="NAME", help="remove this run's folder, after asking")
    parser.add_argument("--yes", action="store_true", help="with --remove: do not ask")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    from pipelines.runs.listing import list_runs, remove_run, size_in_words, table

    runs_dir = arguments.runs_dir
    if arguments.yes and arguments.remove is None:
        raise InputError("--yes: expected --remove NAME beside it, found none")
    rows = list_runs(runs_dir)
    if arguments.remove is None:
        print(table(rows) if rows else f"no runs in {runs_dir}; train one: make demo")
        return
    named = {row.run.root.name: row for row in rows}
    if arguments.remove not in named:
        there = ", ".join(named) or "there are none"
        raise InputError(f"--remove: expected the name of a run in {runs_dir} ({there}), found {arguments.remove!r}")
    row = named[arguments.remove]
    if not arguments.yes:
        print(f"remove {row.run.root}, {size_in_words(row.size)}? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("kept")
            return
    remove_run(row, runs_dir)
    print(f"removed {row.run.root}, {size_in_words(row.size)}")


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
