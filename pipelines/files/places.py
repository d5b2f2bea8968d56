"""Where configurations and pretrained runs are: at the top of a checkout, or inside the installed package."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def configs() -> Path:
    """The folder of main.yaml and of the configuration groups."""
    return _place("configs")


def config_names(group: str) -> list[str]:
    """The names in a group of the configuration, sorted."""
    return sorted(path.stem for path in (configs() / group).glob("*.yaml"))


def pretrained() -> Path:
    """The folder of the pretrained runs, one folder each."""
    return _place("pretrained")


def outputs(run: Path) -> Path:
    """Where verbs write what they make of a run: its folder; runs/NAME here for a run of the installed package, and for
    one in the cache of a hub, .../models--OWNER--NAME/snapshots/REVISION, which is shared."""
    places = run.resolve().parents
    if PACKAGE in places:
        return Path("runs") / run.name
    if len(places) > 1 and places[0].name == "snapshots" and places[1].name.startswith("models--"):
        return Path("runs") / places[1].name.rpartition("--")[2]
    return run


def expanded(path: str) -> str:
    """A path as it was typed, with the home folder in the place of `~` and variables of the environment in that of
    `$NAME`: a shell does that only where they stand first and unquoted."""
    return os.path.expanduser(os.path.expandvars(path))


def _place(name: str) -> Path:
    """A checkout, editable installs included, is known by its pyproject.toml; setup.py installs the copies."""
    checkout = PACKAGE.parent
    return checkout / name if (checkout / "pyproject.toml").is_file() else PACKAGE / "_installed" / name
