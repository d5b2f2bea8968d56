"""Makes a run small enough to ship: weights in half precision, without optimiser, codes and logs.

    1. Round stage 1, which changes its codes:
       python pipelines/publish.py --run runs/mnist --out runs/mnist_half
    2. Extract the codes again, train stage 2 on them, evaluate:
       make extract-codes stage2 evaluate EXPERIMENT=mnist ARGS="run=mnist_half"
    3. Publish again, now both stages; the codes stay the same:
       python pipelines/publish.py --run runs/mnist_half --out pretrained/mnist \\
           --license mit --data-license "CC BY-SA 3.0" --data-credit "Yann LeCun and others"
    4. Upload it to a hub, if you wish (extra [hub]; your own token, in HF_TOKEN):
       python pipelines/publish.py --run pretrained/mnist --to hf://OWNER/NAME

Stage 1 is rounded before its codes are extracted, so that codes, prior and decoder belong together. The prior's best
(averaged) weights are rounded last; metrics.json is the unpublished run's, measured before that rounding. To measure
the published run itself, extract its codes (they are the same), evaluate it, and remove its codes again. If the run was
trained on the codes of another run, that parent's stage 1 is copied to parent/; it must have been rounded before, since
otherwise its codes would change. Configurations are copied unchanged except for the paths of the data. Publishing an
already rounded stage 1 does not change its hash.

README.md is the model card: what it is, data and licences, figures, limits, how to load it, and the metadata that hubs
read. It is made of the run's files. Licences and credits are flags; those that are not given are taken from the card
that the run has, else stated as unknown. --card writes the card of a published run anew.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.commands.flags import VerbParser, flag, folder, naming_flags
from pipelines.files.errors import InputError, one_line_errors
from pipelines.files.places import expanded

if TYPE_CHECKING:
    from pipelines.runs.chain import LoadedRun


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("--run", required=True, type=expanded, help="a trained run: its folder or its name under runs/")
    parser.add_argument("--out", type=folder, help="a folder that does not exist yet")
    parser.add_argument("--card", action="store_true", help="write the card of the published run RUN anew")
    parser.add_argument("--to", metavar="hf://OWNER/NAME", help="upload the published run, OUT or RUN, to a hub; a new "
                        "repository is private")
    parser.add_argument("--license", metavar="ID", help="of the weights, as hubs call it: mit, cc-by-sa-4.0, other")
    parser.add_argument("--data-license", metavar="TEXT", help="of the data that it was trained on")
    parser.add_argument("--data-credit", metavar="TEXT", help="who made the data that it was trained on")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    from pipelines.kinds import kind_of
    from pipelines.runs.card import CARD, Terms, card, known_terms
    from pipelines.runs.find import find_run
    from pipelines.runs.hub import check_target, upload
    from pipelines.runs.publishing import publish, write_card
    from pipelines.runs.store import Run

    if arguments.out is None and arguments.to is None and not arguments.card:
        raise InputError("publish: expected --out FOLDER, --to hf://OWNER/NAME or --card, found none")
    if arguments.out is not None and arguments.card:
        raise InputError("--card: expected no --out beside it, which writes a card in any case, found both")
    with naming_flags(arguments):
        if arguments.to is not None:
            check_target(arguments.to)
        given = Terms(arguments.license, arguments.data_license, arguments.data_credit)
        source = find_run(arguments.run, Path("runs"))
        terms, target = given.or_else(known_terms(source)), Run(arguments.out or source.root)

        def write(loaded: "LoadedRun") -> bytes:
            task = kind_of(loaded.stage1.example.kind).hub_task
            return card(loaded, target.root.resolve().name, terms, task, arguments.to)

        if arguments.out is None:
            write_card(target, write)
            print(f"wrote {target.root / CARD}")
        else:
            published = publish(source, target, write)
            size = sum(path.stat().st_size for path in target.root.rglob("*") if path.is_file())
            print(f"published {published}: {target.root}, {size / 1e6:.2f} MB")
        for name, value in vars(terms).items():
            if value is None:
                print(f"note: {flag(name)} not given: the card says that it is unknown", file=sys.stderr)
        if arguments.to is not None:
            print(f"uploaded to {arguments.to}: {upload(target.root, arguments.to)}")


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
