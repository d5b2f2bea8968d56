"""Predicts frames of held-out clips in the space of codes, conditioned on actions (arXiv 1711.00937, section 4.4).

    python pipelines/predict_video.py --run room_video --context 6 --frames 10 --actions forward
    python pipelines/predict_video.py --run doom_video --actions recorded forward right FILE

The frames of the context are encoded; the prior draws the codes of the frames that follow, conditioned on the recorded
actions, on one action throughout, or on those in a file, one name per line; the decoder turns the codes into frames.

Writes a GIF and a strip of frames per clip (top row: the recorded clip; below it, one row for each of --actions), and
an overview of all strips. --n decides which held-out clips supply the contexts; given its context, prediction i depends
only on --seed, i and its actions, not on --batch-size.
"""

import argparse

from pipelines.commands.flags import (
    VerbParser,
    add_data_flag,
    add_run_flags,
    add_truncation_flags,
    opened_run,
    truncation,
)
from pipelines.files.errors import one_line_errors


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    add_data_flag(parser)
    parser.add_argument("--n", type=int, default=8,
                        help="number of clips, spread over the held-out episodes (default: 8)")
    parser.add_argument("--context", type=int, default=6, help="frames that are given (default: 6)")
    parser.add_argument("--frames", type=int, default=10, help="frames that are predicted (default: 10)")
    parser.add_argument("--actions", nargs="+", default=["recorded"], metavar="NAME_OR_FILE", help="for the predicted "
                        "frames: one action, a file with one name per line, or 'recorded' (default: recorded)")
    add_truncation_flags(parser)
    add_run_flags(parser, "RUN/predictions")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    from pipelines.api import load

    with opened_run(arguments, load) as run:
        written = run.predict_clips(
            arguments.out or run.outputs / "predictions", arguments.n, arguments.context, arguments.frames,
            arguments.actions, data_root=arguments.data_root, seed=arguments.seed, batch_size=arguments.batch_size,
            **truncation(arguments))
    print(f"{written.count} clips, {written.figure}, with {run.folder}: {written.overview}")


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
