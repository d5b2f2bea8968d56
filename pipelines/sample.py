"""New images, audio or video by ancestral sampling: the prior draws codes, the decoder turns them into data.

    python pipelines/sample.py --n 64                                # the run whose stage 2 was trained last
    python pipelines/sample.py --run mnist --label digit=7 --temperature 0.9 --seed 1
    python pipelines/sample.py --run mnist --complete IMAGE          # keeps the upper half, samples the rest
    python pipelines/sample.py --run mnist --n 4 --complete IMAGE --mask MASK  # fills what is white in MASK
    python pipelines/sample.py --run fsdd --label digit=7 --label speaker=theo --seconds 0.5
    python pipelines/sample.py --run imagenet128 --n 4 --size 128x192       # another size than in training
    python pipelines/sample.py --run room_video --n 8 --actions forward

Writes one file per sample (PNG, WAV or GIF) and one overview of all. Sample i depends on --seed and i alone, not on --n
or --batch-size (on a GPU up to rounding). A VAE needs no learned prior: its latents are drawn from N(0, I), with the
standard deviation multiplied by --temperature. If the run was trained on another run's codes, its output is decoded
further by that run's decoder.

With --complete and --mask each sample fills a hidden part of an item, given all around it, later codes included, and
labels that are not given are drawn as the known codes say. The overview shows the candidates, the likeliest first;
candidates.csv has their bits and how well they mixed.
"""

import argparse
import time

from pipelines.commands.flags import (
    VerbParser,
    add_completion_flags,
    add_run_flags,
    add_truncation_flags,
    opened_run,
    truncation,
)
from pipelines.files.errors import one_line_errors
from pipelines.kinds import all_kinds


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("--n", type=int, default=64, help="number of samples (default: 64)")
    parser.add_argument("--label", action="append", default=[], metavar="NAME=CLASS", help="condition on a class "
                        "(repeatable); labels not given are drawn from their training distribution")
    add_truncation_flags(parser)
    parser.add_argument("--size", metavar="HxW", help="of images, or TxHxW of video: another size than the run's "
                        "items, if the prior takes other grids, as PixelCNN does")
    add_completion_flags(parser.add_argument_group("completion of a given item"))
    for kind in all_kinds().values():
        if "add_sample_flags" in vars(type(kind)):  # one that derives from another kind shares its flags
            kind.add_sample_flags(parser.add_argument_group(f"{kind.name} runs"))
    add_run_flags(parser, "RUN/samples")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    from pipelines.api import load

    with opened_run(arguments, load, shares=True) as run:
        print(f"sampling {arguments.n} from {run.folder}, {run.describe()}")
        start = time.monotonic()
        flags = {name: getattr(arguments, name) for kind in all_kinds().values() for name in kind.options}
        samples = run.sample(arguments.n, seed=arguments.seed, batch_size=arguments.batch_size, labels=arguments.label,
                             **truncation(arguments), **flags)
        overview = samples.save(arguments.out or run.outputs / "samples")
        print(f"{arguments.n} samples in {time.monotonic() - start:.1f} s: {overview}")


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
