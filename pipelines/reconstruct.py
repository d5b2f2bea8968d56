"""Your own images or audio through the encoder, the bottleneck and the decoder.

    python pipelines/reconstruct.py --run imagenet128 --input holiday.jpg
    python pipelines/reconstruct.py --run cifar10_compact --input FOLDER --out FOLDER
    python pipelines/reconstruct.py --run fsdd --input word.wav --label speaker=theo

    python pipelines/reconstruct.py --run imagenet128 --input holiday.jpg --whole     # at its own size, however large

Writes each reconstruction, and one overview of originals and reconstructions. Images are cropped and resized, and audio
is resampled, to what the run was trained on; with --whole images keep their size. Audio may have any length. If the run
was trained on another run's codes, the overview shows every level and several decodings of the same codes.
"""

import argparse

from pipelines.commands.flags import VerbParser, add_run_flags, folder, opened_run
from pipelines.files.errors import one_line_errors


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("--input", type=folder, required=True, metavar="FILE_OR_FOLDER")
    parser.add_argument("--label", action="append", default=[], metavar="NAME=CLASS",
                        help="a class for each label that the decoder is conditioned on")
    parser.add_argument("--whole", action="store_true", help="keep all of each image, at its own size, in place of "
                        "cropping and resizing it to the run's")
    add_run_flags(parser, "RUN/reconstructions")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    from pipelines.api import load

    with opened_run(arguments, load, shares=True) as run:
        written = run.reconstruct_files(arguments.input, arguments.out or run.outputs / "reconstructions",
                                        labels=arguments.label, seed=arguments.seed, batch_size=arguments.batch_size,
                                        whole=arguments.whole)
        print(f"{written.count} reconstructions with {run.folder}, {written.figure}: {written.overview}")


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
