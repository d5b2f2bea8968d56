"""Your own images, audio or video as a small file, by the encoder and the prior; decompress.py reads it on any machine.

    python pipelines/compress.py --run mnist --input digits/                  # one file for the whole folder
    python pipelines/compress.py --run mnist --input seven.png --lossless     # every pixel is kept
    python pipelines/compress.py --run imagenet128_codec --input holiday.jpg --whole   # at its own size
    python pipelines/compress.py --run fsdd --input word.wav --label speaker=theo

Lossy by default: the codes of each item, by the prior's exact probabilities. With --lossless the data as well, by the
decoder's likelihood: of images, video, and the codes of a run on codes. Images are cropped and resized, and audio is
resampled, to what the run was trained on; with --whole images and video keep their size. Audio may have any length. The
file can be read with this run alone, and with the same weights; a
damaged part loses its own items, about a kilobyte, and no others.
"""

import argparse

from pipelines.commands.flags import VerbParser, add_run_flags, folder, opened_run
from pipelines.files.errors import one_line_errors


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("--input", type=folder, required=True, metavar="FILE_OR_FOLDER")
    parser.add_argument("--lossless", action="store_true", help="keep every value, not the codes alone")
    parser.add_argument("--rate-weight", type=float, default=0.0, help="of a file that is not lossless: how much bits "
                        "weigh against error in the choice of codes; 0.2 makes files of photos a tenth smaller "
                        "(default: 0, the encoder's codes)")
    parser.add_argument("--whole", action="store_true", help="keep all of each image or clip, at its own size, in "
                        "place of cropping and resizing it to the run's")
    parser.add_argument("--label", action="append", default=[], metavar="NAME=CLASS", help="a class of all items "
                        "(repeatable); of labels not given the likeliest is stored with each item")
    parser.add_argument("--actions", metavar="NAME_OR_FILE", help="of video whose prior is conditioned on actions: one "
                        "for all frames, or a file with one name per line")
    add_run_flags(parser, "RUN/compressed/NAME.ndc; also a file's name that ends with .ndc", seeded=False)
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    from pipelines.api import load

    with opened_run(arguments, load, shares=True) as run:
        out = arguments.out or run.outputs / "compressed"
        if out.suffix != ".ndc":
            out = out / f"{arguments.input.resolve().stem}.ndc"
        made = run.compress_files(arguments.input, out, arguments.lossless, arguments.actions, arguments.label,
                                  arguments.batch_size, arguments.rate_weight, arguments.whole)
        print(f"{made.count} items in {made.bytes} bytes, {made.bytes / made.count:.1f} each: {out}")


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
