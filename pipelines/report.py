"""Writes a report on a run as one HTML file, to look at, to print and to send.

    python pipelines/report.py --run photos                                   # runs/photos/report.html
    python pipelines/report.py --run fsdd --data-root FOLDER --out fsdd.html

What the run is, its figures with what each says, training curves, samples, reconstructions beside originals, the
codebook, nearest training items of samples, the doctor's findings, sizes of real files beside other formats, and how to
reproduce it. The file is below 5 MB, holds all that it shows, and opens without a network. What cannot be had, such as
the data of a published run, is left out, and a line says why.
"""

import argparse
from pathlib import Path

from pipelines.commands.flags import VerbParser, add_data_flag, add_run_flags, opened_run
from pipelines.files.errors import one_line_errors


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("--n", type=int, default=16, help="number of samples, and of items beside their "
                        "reconstructions (default: 16)")
    add_data_flag(parser)
    add_run_flags(parser, "RUN/report.html; also a file's name that ends with .html")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    from pipelines.api import load

    with opened_run(arguments, load) as run:
        out: Path = arguments.out or run.outputs
        path = run.report(out if out.suffix == ".html" else out / "report.html", n=arguments.n, seed=arguments.seed,
                          data_root=arguments.data_root, batch_size=arguments.batch_size)
    print(f"report on {run.folder}, {path.stat().st_size / 1e6:.1f} MB: {path}")


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
