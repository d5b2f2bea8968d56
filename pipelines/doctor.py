"""Says in words what is wrong with a trained run, and which setting to change, by how much.

    python pipelines/doctor.py --run photos
    python pipelines/doctor.py --run fsdd                   # a pretrained run, or a folder

Reads logs, configuration, extracted codes, weights and, where the run was evaluated, metrics.json; the data are not
read. Each finding has its evidence in numbers, what it means, the settings to change and the command. docs/doctor.md
lists the rules. Exit status 0: nothing found, 1: findings, 2: the run cannot be read.
"""

import argparse
import sys
from pathlib import Path

from pipelines.commands.flags import VerbParser, folder, opened_run
from pipelines.files.errors import one_line_errors
from pipelines.files.places import expanded


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("--run", type=expanded, help="a run's folder, a name under runs/, or a pretrained name, tried "
                        "in this order, or hf://OWNER/NAME (default: the run whose stage 2 was trained last)")
    parser.add_argument("--runs-dir", type=folder, default=Path("runs"), help="folder of the runs (default: runs)")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> int:
    from pipelines.api import load
    from pipelines.evaluation.checkup import report

    with opened_run(arguments, load) as run:
        checkup = run.checkup()
        print(report(run.folder, checkup))
    return 1 if checkup.findings else 0


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main(parse_arguments()))
