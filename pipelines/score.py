"""How surprising your own images, audio or clips are to a trained run, and where: exact bits of their codes and data.

    python pipelines/score.py --run mnist --input FOLDER
    python pipelines/score.py --run fsdd --input word.wav --label speaker=theo
    python pipelines/score.py --run doom --input clip.npy --actions forward

Writes scores.csv, one row per file, the most surprising first: bits of the codes by the prior and of the data given the
codes, their sum, bits per dimension; the size of the same item as a lossless file (WebP or PNG, FLAC), and the bits
minus it, since complex items take more bits whether they are unusual or not; percentiles among held-out items; the
training item with the nearest codes. Beside it a map of bits for each file, and an overview of the most and the least
surprising ones. Labels of the prior that are not given are marginalised over.

Percentiles need the run's data, or its extracted codes for those of the codes alone; scores of held-out items are kept
in the run. Nearest training items need its extracted codes. What cannot be had is left out, and a line says why.
"""

import argparse
from pathlib import Path

from pipelines.commands.flags import VerbParser, add_data_flag, add_run_flags, folder, opened_run
from pipelines.files.errors import one_line_errors


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("--input", type=folder, required=True, metavar="FILE_OR_FOLDER")
    parser.add_argument("--label", action="append", default=[], metavar="NAME=CLASS",
                        help="a class of all files, required for each label that the decoder is conditioned on")
    parser.add_argument("--rank", default="codes", metavar="BY", help="what the order goes by: codes (bits per code), "
                        "bits (bits per dimension), codec (these minus a lossless file's) (default: codes)")
    parser.add_argument("--actions", metavar="NAME_OR_FILE", help="video: one action for all frames, or a file with "
                        "one action name per line")
    parser.add_argument("--held-out", type=int, default=1000, help="held-out items that percentiles are among, at most "
                        "(default: 1000)")
    add_data_flag(parser)
    add_run_flags(parser, "RUN/scores", seeded=False)
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    from pipelines.api import load

    with opened_run(arguments, load, shares=True) as run:
        out: Path = arguments.out or run.outputs / "scores"
        written = run.score_files(arguments.input, out, labels=arguments.label, rank=arguments.rank,
                                  actions=arguments.actions, held_out=arguments.held_out, data_root=arguments.data_root,
                                  batch_size=arguments.batch_size)
        print(f"{written.count} scores by {run.folder}, {written.figure}: {out / 'scores.csv'}, {written.overview}")


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
