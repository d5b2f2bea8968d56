"""Makes the `doom` data set: walks through two places of Doom, rendered by ViZDoom. Requires the extra [video].

    python pipelines/make_doom_data.py --folder data/doom --episodes 128 --frames 512
"""

import argparse
import os
from pathlib import Path

from pipelines.commands.flags import VerbParser, check_flags, folder
from pipelines.files.errors import one_line_errors


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("--folder", type=folder, default=Path(os.environ.get("DATA_ROOT", "data")) / "doom",
                        help="folder of the data set (default: $DATA_ROOT/doom, else data/doom)")
    parser.add_argument("--episodes", type=int, default=128,
                        help="number of walks, half of them in each place (default: 128)")
    parser.add_argument("--frames", type=int, default=512, help="frames per episode, 8.75 per second (default: 512)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    from pipelines.data.doom import generate_doom

    check_flags(arguments)
    folder = generate_doom(arguments.folder, arguments.episodes, arguments.frames, arguments.seed)
    print(f"doom data set written: {folder}; {arguments.episodes} episodes of {arguments.frames} frames")


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
