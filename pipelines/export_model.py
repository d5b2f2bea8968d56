"""Exports a run for other programs: encoder, decoder and one step of the prior, for `torch.export` and ONNX.

    python pipelines/export_model.py --run mnist --data-root FOLDER     # checked on held-out items of the run's data
    python pipelines/export_model.py --run fsdd --input word.wav        # or on items that are given

Writes encoder, decoder and prior, each as .pt2 (read by torch alone) and .onnx (by onnxruntime, among others), and
export.json, which describes inputs and outputs. Batches may have any size. A step of an autoregressive network (the
prior, a decoder that samples) is its full forward pass: logits of every position given the positions before it.

Each file is read back and compared with the original on real items: codes must be identical, other values within 1e-5
of the largest one. Where a file fails, none is left. docs/export.md shows how to run them. ONNX requires the extra
[export].
"""

import argparse
from pathlib import Path

from pipelines.commands.flags import VerbParser, add_data_flag, folder, opened_run
from pipelines.files.errors import one_line_errors
from pipelines.files.places import expanded


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("--input", type=folder, metavar="FILE", help="check on this image, recording or clip, in place "
                        "of held-out items")
    parser.add_argument("--items", type=int, default=8, help="held-out items to check on (default: 8)")
    parser.add_argument("--format", choices=("both", "pt2", "onnx"), default="both", help="(default: both)")
    add_data_flag(parser)
    parser.add_argument("--run", type=expanded, help="a run's folder, a name under runs/, or a pretrained name, tried "
                        "in this order, or hf://OWNER/NAME (default: the run whose stage 2 was trained last)")
    parser.add_argument("--runs-dir", type=folder, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--out", type=folder, help="folder for the files (default: RUN/export)")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    from pipelines.api import load

    with opened_run(arguments, load) as run:
        out: Path = arguments.out or run.outputs / "export"
        formats = ("pt2", "onnx") if arguments.format == "both" else (arguments.format,)
        written = run.export(out, arguments.input, arguments.items, arguments.data_root, formats)
    for file in written:
        same = "codes identical" if file.exact else f"largest difference {file.difference:.1e}"
        print(f"{out / file.file}: {file.size / 1e6:.2f} MB, {same}")


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
