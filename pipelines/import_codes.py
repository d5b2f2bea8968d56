"""Codes of another program as a run: token files in, a code data set out, ready for train_stage2.py and what follows.

    python pipelines/import_codes.py --run tokens --input tokens.npy
    python pipelines/import_codes.py --run tokens --input tokens.npz --grid 16 16 --num-codes 1024 --labels labels.csv
    python pipelines/import_codes.py --run music --input codes.safetensors --codebook-axis first --padding -1
    python pipelines/import_codes.py --run text --input data/shakespeare --item-length 256       # train.bin and val.bin
    python pipelines/train_stage2.py run=tokens

Reads .npy, .npz, .safetensors, .parquet, nanoGPT's .bin and folders of one .npy file per item, of integers (n, ...):
items (t), (h, w) or (t, h, w), with an axis of codebooks if --codebook-axis says so. Found unless given: the format,
the grid (the shape of an item), K (the largest code, rounded up to a power of two), labels and lengths (in the file, or
beside it in NAME.labels.csv and NAME.lengths.npy), splits (files train, validation and test of a folder). Samples are
written in the format that came in. docs/tokens.md has the details.
"""

import argparse
import sys
from pathlib import Path

from pipelines.commands.flags import VerbParser, check_flags, folder, naming_flags
from pipelines.files.errors import InputError, one_line_errors


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("--run", required=True, help="name of the run that is made")
    parser.add_argument("--runs-dir", type=folder, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--input", type=folder, required=True, metavar="FILE_OR_FOLDER")
    parser.add_argument("--validation", type=folder, metavar="FILE_OR_FOLDER", help="the items to validate on")
    parser.add_argument("--test", type=folder, metavar="FILE_OR_FOLDER", help="the items of a test split")
    parser.add_argument("--format", help="npy, npz, safetensors, parquet, bin or folder (default: by the name)")
    parser.add_argument("--key", help="the array, or column, of the codes (default: codes, or the only one)")
    parser.add_argument("--grid", type=int, nargs="+", metavar="SIZE", help="1 to 3 sizes; cuts a flat item into a "
                        "grid in raster order (default: the shape of an item)")
    parser.add_argument("--codebook-axis", choices=("first", "last"), help="an item is (g, *grid), as audio codecs "
                        "have it, or (*grid, g) (default: one codebook, no axis)")
    parser.add_argument("--num-codes", type=int, metavar="K", help="the number of codes of each codebook (default: the "
                        "largest code plus 1, rounded up to a power of two)")
    parser.add_argument("--labels", action="append", default=[], metavar="[NAME=]FILE", help="a .csv file with names "
                        "of labels in the first line and a row per item, or a .npy file (repeatable)")
    parser.add_argument("--lengths", type=folder, metavar="FILE", help="a .npy file: how many positions of each item "
                        "are not padding")
    parser.add_argument("--padding", type=int, metavar="VALUE", help="this value at the end of an item is padding")
    parser.add_argument("--item-length", type=int, metavar="N", help="of a .bin file: the codes of an item")
    parser.add_argument("--dtype", choices=("uint16", "uint32"), help="of a .bin file (default: uint16)")
    parser.add_argument("--validation-fraction", type=float, default=0.1, help="of items without splits (default: 0.1)")
    parser.add_argument("--seed", type=int, default=0, help="random seed; which items are held out depends on it alone "
                        "(default: 0)")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    from pipelines.data.importing import Wishes, import_tokens
    from pipelines.runs.store import Run
    from pipelines.splits.describe import describe
    from pipelines.tokens.base import Options

    check_flags(arguments)
    if not arguments.run or Path(arguments.run).name != arguments.run or arguments.run.startswith("."):
        raise InputError(f"--run: expected the name of a run, found {arguments.run!r}")
    for name in ("grid", "item_length"):
        found = getattr(arguments, name)
        if found is not None and (min(sizes := [found] if name == "item_length" else found) < 1 or max(sizes) >= 2**31
                                  or len(sizes) > 3):
            raise InputError(f"--{name.replace('_', '-')}: expected sizes >= 1, at most 3 of them, found {sizes}")
    paths = {"train": arguments.input, "validation": arguments.validation, "test": arguments.test}
    wishes = Wishes(
        arguments.format, Options(arguments.key, arguments.item_length, arguments.dtype), arguments.grid,
        arguments.codebook_axis, arguments.num_codes, arguments.lengths, arguments.padding, arguments.labels,
        arguments.validation_fraction, arguments.seed)
    run = Run(arguments.runs_dir / arguments.run)
    with naming_flags(arguments):
        made = import_tokens(run, {name: path for name, path in paths.items() if path is not None}, wishes)
    print(describe(made.codes))
    books = f", {made.layout.num_codebooks} codebooks" if made.layout.num_codebooks > 1 else ""
    which = "as given" if arguments.num_codes is not None else "rounded up; --num-codes gives another"
    lengths = ", items with lengths" if made.layout.padded else ""
    for what in made.left_out:
        print(f"note: left out: {what}", file=sys.stderr)
    print(f"codes are imported: {run.codes}; format {made.layout.format} of {made.layout.dtype}, grid "
          f"{'x'.join(map(str, made.layout.grid))}{books}{lengths}, K = {made.codes.num_codes} (largest code "
          f"{made.largest}, {which}); next: train_stage2.py run={arguments.run}")


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
