"""The configuration that a run was made with, so that `run=NAME` alone continues, extracts and evaluates it.

    stage1/config.yaml   seed, data, autoencoder, decoder_condition_on, stage1
    stage2/config.yaml   prior, stage2, condition_on, condition_on_length, split_codes
    settings.yaml        of the verbs after stage 1, as they were given when stage 1 was trained: all of stage 2 until
                         it has a config.yaml of its own, extract, evaluate

What is missing there has the values of configs/main.yaml. Files are not trusted: components are those of this project
or of the user's plugins, and every value is checked as one on the command line is.
"""

from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from pipelines.files.atomic import write_atomically
from pipelines.files.checks import expect, is_integer
from pipelines.files.formats import CONFIG, FORMAT, migrated
from pipelines.files.places import configs
from pipelines.files.typed import LARGEST
from pipelines.runs.config import find_target, read_config, resolved
from pipelines.runs.data import data_set_class
from pipelines.runs.facts import SPLIT
from pipelines.runs.store import Run
from pipelines.training.checkpoint import find_checkpoint

SETTINGS = "settings.yaml"
LATER = ("extract", "evaluate", "prior", "stage2", "condition_on", "condition_on_length", "split_codes")  # sections


def own_settings(run: Run) -> dict[str, Any]:
    """The sections of the configuration that a run was made with. Raises InputError for a file that is none."""
    path = run.stage1 / "config.yaml"
    saved = migrated(read_config(path), path, CONFIG)
    own = {key: saved.get(key) for key in ("seed", "data", "autoencoder")}
    own |= {"stage1": saved.get("train"), "decoder_condition_on": saved.get("condition_on")}
    if (noted := run.root / SETTINGS).is_file():
        content = migrated(read_config(noted), noted, CONFIG)
        own |= {key: content[key] for key in LATER if key in content}
    if (path := run.stage2 / "config.yaml").is_file() and find_checkpoint(run.stage2) is not None:
        saved = migrated(read_config(path), path, CONFIG)
        own |= {"prior": saved.get("prior"), "stage2": saved.get("train"), "split_codes": 1}
        if isinstance(saved.get("prior"), dict) and saved["prior"].get("_target_") == SPLIT:
            own |= whole_and_parts(path, saved["prior"])
        own |= {key: saved.get(key) for key in ("condition_on", "condition_on_length")}
    for key in ("data", "autoencoder", "prior"):
        if key in own:
            where = run.stage1 / "config.yaml" if key != "prior" else run.root
            expect(where, key, own[key], isinstance(own[key], dict), "a mapping")
            check_targets(where, key, own[key])
    own["data"] = with_places(own["data"])
    if data_set_class(run.stage1 / "config.yaml", own["data"].get("_target_")).own_run:
        own["data"]["run"] = str(run.root)
    return own


def whole_and_parts(path: Path, split: dict) -> dict[str, Any]:
    """Of the configuration of a `SplitCodes` the prior within, as it is given, and the sub-codes of a code."""
    inner = split.get("prior")
    sizes = [split.get("num_codebooks"), inner.get("num_codebooks") if isinstance(inner, dict) else None]
    expect(path, "prior", sizes, all(is_integer(size, 1, LARGEST) for size in sizes) and sizes[1] % sizes[0] == 0,
           "a prior of sub-codes with their number")
    return {"prior": inner, "split_codes": sizes[1] // sizes[0]}


def note_settings(run: Run, cfg: DictConfig) -> None:
    """Writes what later verbs need of the configuration that stage 1 is trained with. A run that was begun before there
    was such a file gets none: it is left as it is."""
    if find_checkpoint(run.stage1) is not None and not (run.root / SETTINGS).exists():
        return
    values = {key: value for key, value in resolved(cfg).items() if key in LATER}
    content = yaml.safe_dump({"format": FORMAT} | values, sort_keys=False)
    write_atomically(run.root / SETTINGS, content.encode())


def check_targets(path: Path, key: str, tree: Any) -> None:
    """Raises InputError for a component that is neither the project's nor a plugin's: nothing is imported because a
    file says so."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, value in items:
        where = f"{key}.{name}"
        if where == "data._target_":
            data_set_class(path, value)
        elif name == "_target_":
            find_target(value, trusted_only=True)
        else:
            check_targets(path, where, value)
            expect(path, where, value, not (isinstance(value, str) and "${oc." in value), "plain values")


def with_places(data: dict) -> dict:
    """A data set's configuration with the values of its yaml where it has none: a published run leaves out paths."""
    found: dict[str, Any] = {}
    for path in sorted((configs() / "data").glob("*.yaml")):
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        alike = sum(data.get(name) == value for name, value in values.items())
        if values.get("_target_") == data.get("_target_") and alike > sum(
                data.get(name) == value for name, value in found.items()):
            found = values
    return found | data
