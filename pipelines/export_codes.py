"""The codes of a run as files that need no code of this project, with a card of what they are.

    python pipelines/export_codes.py --run mnist_short --format npz --output codes
    python pipelines/export_codes.py --run tokens --format parquet --output codes

Writes each split to a file of its own, with labels, lengths and local fields: .npy, .npz, .safetensors, .parquet
(extra parquet), nanoGPT's .bin, or a folder of one .npy file per item. README.md and card.json say what the codes are:
K, grid, codebooks, items of each split, labels, what made them, and how to read them. import_codes.py reads all of it.
"""

import argparse
from pathlib import Path

from pipelines.commands.flags import VerbParser, folder, opened_run
from pipelines.files.errors import one_line_errors
from pipelines.files.places import expanded


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("--run", type=expanded, help="a run's folder, a name under runs/, or a pretrained name, tried "
                        "in this order, or hf://OWNER/NAME (default: the run whose stage 2 was trained last)")
    parser.add_argument("--runs-dir", type=folder, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--format", required=True, help="npy, npz, safetensors, parquet, bin or folder")
    parser.add_argument("--output", type=folder, required=True, metavar="FOLDER", help="does not exist yet")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    from pipelines.api import load

    with opened_run(arguments, load) as run:
        made = run.export_codes(arguments.output, arguments.format)
    files = ", ".join(f"{file} ({made.items[name]} items)" for name, file in made.files.items())
    print(f"codes of {run.folder}: {made.folder}: {files}; README.md says what they are")


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
