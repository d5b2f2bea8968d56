"""Makes a run small enough to ship: weights in half precision, without optimiser, codes and logs.

    1. Round stage 1, which changes its codes:
       python pipelines/publish.py --run runs/mnist --out runs/mnist_half
    2. Extract the codes again, train stage 2 on them, evaluate:
       make extract-codes stage2 evaluate EXPERIMENT=mnist ARGS="run=mnist_half"
    3. Publish again, now both stages; the codes stay the same:
       python pipelines/publish.py --run runs/mnist_half --out pretrained/mnist

Stage 1 is rounded before its codes are extracted, so that codes, prior and decoder belong together. The prior's best
(averaged) weights are rounded last; metrics.json is the unpublished run's, measured before that rounding. To measure
the published run itself, extract its codes (they are the same), evaluate it, and remove its codes again. If the run was
trained on the codes of another run, that parent's stage 1 is copied to parent/; it must have been rounded before, since
otherwise its codes would change. Configurations are copied unchanged except for the paths of the data. Publishing an
already rounded stage 1 does not change its hash.
"""

import argparse
from pathlib import Path

from pipelines.commands.flags import VerbParser, folder, naming_flags
from pipelines.files.errors import one_line_errors
from pipelines.files.places import expanded


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("--run", required=True, type=expanded, help="a trained run: its folder or its name under runs/")
    parser.add_argument("--out", type=folder, required=True, help="a folder that does not exist yet")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    from pipelines.runs.find import find_run
    from pipelines.runs.publishing import publish
    from pipelines.runs.store import Run

    with naming_flags(arguments):
        published = publish(find_run(arguments.run, Path("runs")), Run(arguments.out))
    size = sum(path.stat().st_size for path in arguments.out.rglob("*") if path.is_file())
    print(f"published {published}: {arguments.out}, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
