"""Trains a set of systems, each within the same budget, and compares what they reach in one table.

    python pipelines/compare.py mnist                       # a set of configs/compare/
    python pipelines/compare.py cifar10 --only VAE VQ-VAE data=cifar10_jpeg stage1.steps=500
    python pipelines/compare.py beta                        # a study: one system, one or two settings varied
    python pipelines/compare.py quantisers --minutes 2      # each stage of each system trains for so long

KEY=VALUE changes all systems. Each is a run under runs/compare_SET, made by the ordinary commands in separate
processes. After an interruption the same command resumes where it stopped, and nothing is measured twice. The metrics
of all systems become runs/compare_SET/{table.md, table.json, reconstructions.png, plot.png}, and report.html holds
table, images and plots: a click sorts or enlarges.
"""

import argparse
import re
from pathlib import Path

from pipelines.commands.flags import VerbParser, check_flags, folder
from pipelines.commands.processes import run_verb
from pipelines.files.errors import InputError, one_line_errors
from pipelines.files.places import config_names

OVERRIDE = re.compile(r"[+~]{0,2}[\w./@]+=|~\w")


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("set", help=f"one of {', '.join(config_names('compare'))}")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of all systems, as in train-stage1")
    parser.add_argument("--only", action="extend", nargs="+", default=[], metavar="SYSTEM",
                        help="only these systems, by their names in the set")
    parser.add_argument("--minutes", type=float, help="processor minutes per stage and system, instead of the set's; "
                        "steps follow from the measured time of one")
    parser.add_argument("--out", type=folder, help="folder of the runs and the table (default: runs/compare_SET)")
    arguments = parser.parse_intermixed_args()
    check_flags(arguments)
    given = [*arguments.only, *arguments.overrides]  # `--only VAE AE stage1.steps=5`: which is which is seen
    arguments.only = [word for word in arguments.only if not OVERRIDE.match(word)]
    arguments.overrides = [word for word in given if OVERRIDE.match(word)]
    for word in given:
        if word not in (*arguments.only, *arguments.overrides):
            raise InputError(f"{word}: expected KEY=VALUE, or --only before the name of a system")
    return arguments


def main(arguments: argparse.Namespace) -> None:
    import functools
    import json

    from pipelines.evaluation import budget, comparison
    from pipelines.evaluation.comparison import System
    from pipelines.files.atomic import write_atomically
    from pipelines.files.reading import yaml_bytes
    from pipelines.media.plots import plot_lines
    from pipelines.reporting.comparison_page import comparison_page
    from pipelines.runs.config import build, read_config
    from pipelines.splits.base import Data

    @functools.cache
    def data_of_all() -> Data:
        return build(systems[0].config["data"])

    def within_budget(system: System, verb: str) -> list[str]:
        """A verb's overrides: in a training, steps that fill the minutes, validated at their end."""
        stage = verb.removeprefix("train_")
        if stage == verb or minutes is None:
            return system.overrides
        steps = budget.steps_within(minutes, stage, system.overrides, data_of_all)
        print(f"{system.name}: {budget.describe_budget(system.run, stage)}", flush=True)
        return [*system.overrides, f"{stage}.steps={steps}", f"{stage}.validate_every={steps}"]

    def measure(system: System, with_prior: bool) -> None:
        """Trains and measures a system, unless that was done with this very configuration."""
        done = system.run.root / "compared.yaml"
        whole = system.config if minutes is None else system.config | {"minutes": minutes}
        if done.exists() and read_config(done) == whole:
            return
        prior = ("extract_codes", "train_stage2") if with_prior and comparison.has_codes(system) else ()
        for verb in ("train_stage1", *prior, "evaluate"):
            if status := run_verb(verb, within_budget(system, verb)):
                raise InputError(f"{system.name}: expected {verb} to succeed, found exit status {status}; its message "
                                 "is above")
        write_atomically(done, yaml_bytes(whole))

    out = arguments.out or Path("runs") / f"compare_{arguments.set}"
    spec = comparison.read_set(arguments.set)
    minutes = arguments.minutes or spec["minutes"]
    systems = comparison.make_systems(spec, arguments.overrides, arguments.only, out)
    for number, system in enumerate(systems, 1):
        print(f"[{number}/{len(systems)}] {system.name}: {system.run.root}", flush=True)
        measure(system, spec["prior"])
    rows = [comparison.row(system, spec["published"].get(system.name)) for system in systems]
    data, split = data_of_all(), comparison.read_figures(systems[0].run)["split"]
    shown = [*rows, *(comparison.file_rows(data, systems[0].config["data"], split) if spec["files"] else [])]
    title, table = f"{arguments.set}: {data.name}, {split} split", comparison.table(shown)
    legend = comparison.legend(rows)
    pictures = [out / "reconstructions.png", *([out / "plot.png"] if spec["plot"] else [])]
    write_atomically(out / "table.json", (json.dumps(shown, indent=1) + "\n").encode())
    write_atomically(out / "table.md", f"{title}\n\n{table}\n\n{legend}\n".encode())
    comparison.draw_reconstructions(out / "reconstructions.png", systems, data, split)
    if spec["plot"]:
        plot_lines(out / "plot.png", [comparison.panel(systems, rows, **axes) for axes in spec["plot"]])
    write_atomically(out / "report.html", comparison_page(title, shown, pictures))
    print(f"\n{title}\n\n{table}\n\n{legend}\n")
    print("\n".join(map(str, [out / "table.md", *pictures, out / "report.html"])))


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
