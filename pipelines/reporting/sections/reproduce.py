"""The commands that make such a run, and its configuration."""

import yaml

from pipelines.files.places import config_names, pretrained
from pipelines.reporting.html import Html, join, tag
from pipelines.reporting.subject import Reported
from pipelines.runs.store import TrainedStage

TITLE, ORDER = "How to reproduce", 90

PLACES = ("root", "cache", "run", "download", "workers")  # of this machine


def section(reported: Reported) -> Html:
    run, name = reported.run, reported.run.root.resolve().name
    published = pretrained().resolve() in run.root.resolve().parents
    commands = []
    if reported.loaded.stage1.example.imported:
        commands += ["# train one like it", "python pipelines/import_codes.py --run again --input ...",
                     *(["make stage2 RUN=again"] if reported.loaded.stage2 else []), ""]
    elif name in config_names("experiment"):
        commands += ["# train one like it", f"make stage1 EXPERIMENT={name} RUN=again",
                     *(["make extract-codes RUN=again", "make stage2 RUN=again"] if reported.loaded.stage2 else []), ""]
    else:
        commands += ["# train one like it: the settings are below, and configs/ has those of each experiment",
                     "make stage1 EXPERIMENT=... RUN=again", ""]
    commands += ["# use this one"] + ([] if published else [f"make evaluate RUN={name}"])
    if reported.loaded.stage2:
        commands += [f"python pipelines/sample.py --run {name} --n 64 --seed {reported.seed}"]
    commands += [f"python pipelines/doctor.py --run {name}", f"python pipelines/report.py --run {name}"]
    stages = [("stage 1", reported.loaded.stage1), *([("stage 2", reported.loaded.stage2)] if reported.loaded.stage2
                                                     else [])]
    return join(
        tag("pre", "\n".join(commands)),
        [tag("details", tag("summary", f"Settings of {title}"), tag("pre", settings(stage)))
         for title, stage in stages])


def settings(stage: TrainedStage) -> str:
    """The configuration that the stage was trained with, without paths of this machine and what the data said."""
    kept = {key: value for key, value in stage.config.items() if key not in ("example", "codes", "format")}
    if isinstance(kept.get("data"), dict):
        kept["data"] = {key: value for key, value in kept["data"].items() if key not in PLACES}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=100)
