"""Speaker conversion: recordings decoded with the label of another speaker. The words stay, the voice changes.

    python pipelines/convert_speaker.py --run fsdd --input seven.wav --speaker theo
    python pipelines/convert_speaker.py --input FOLDER --speaker theo --out FOLDER

Takes audio files of any rate, bit depth and number of channels; writes WAV files at the run's rate, and one overview of
originals above conversions.
"""

import argparse

from pipelines.commands.flags import VerbParser, add_run_flags, folder, opened_run
from pipelines.files.errors import one_line_errors


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("--input", type=folder, required=True, metavar="FILE_OR_FOLDER")
    parser.add_argument("--speaker", required=True, help="one of the speakers that the run was trained on")
    parser.add_argument("--label", default="speaker", help="the label that is changed (default: speaker)")
    add_run_flags(parser, "RUN/conversions", batch_size=16)
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    from pipelines.api import load

    with opened_run(arguments, load, shares=True) as run:
        written = run.convert_files(arguments.input, arguments.out or run.outputs / "conversions", arguments.label,
                                    arguments.speaker, seed=arguments.seed, batch_size=arguments.batch_size)
        print(f"{written.count} conversions to {arguments.speaker} with {run.folder}: {written.overview}")


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
