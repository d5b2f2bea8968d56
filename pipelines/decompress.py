"""The items of a file that compress.py wrote, with the same run, on this or another machine.

    python pipelines/decompress.py --run mnist --input digits.ndc
    python pipelines/decompress.py --run mnist --input digits.ndc --item 17 --item cats/lion.png     # some of them

Writes one PNG, WAV or GIF per item, named as its source was; lossless video as frames in a .npy file. Items that are
damaged are named, all others are written; the exit status is then 2.
"""

import argparse

from pipelines.commands.flags import VerbParser, add_run_flags, folder, opened_run
from pipelines.files.errors import InputError, one_line_errors


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("--input", type=folder, required=True, metavar="FILE.ndc")
    parser.add_argument("--item", action="append", metavar="NAME_OR_NUMBER",
                        help="this item (repeatable; default: all)")
    add_run_flags(parser, "RUN/decompressed")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    from pipelines.api import load

    with opened_run(arguments, load) as run:
        out = arguments.out or run.outputs / "decompressed"
        made = run.decompress_files(arguments.input, out, arguments.item, arguments.seed, arguments.batch_size)
    print(f"{made.count} items of {arguments.input}: {out}")
    if made.damaged:
        shown = ", ".join(made.damaged[:10]) + (", ..." if len(made.damaged) > 10 else "")
        raise InputError(f"{arguments.input}: expected whole items, found damage in {len(made.damaged)}: {shown}")


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
