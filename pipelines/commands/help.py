"""The text of --help of a command that Hydra configures.

It is read from configs/ as text, since the comments there explain the settings, and importing Hydra takes long."""

import re
import sys
import textwrap
from pathlib import Path

from pipelines.files.places import PACKAGE, configs
from pipelines.runs import plugins

EVERY_VERB = ("experiment", "run", "runs_dir", "seed")
WIDTH = 120
MEANING = re.compile(r"^    (\w+): \w+ = \S+  # (.*)$", re.MULTILINE)  # of a field of Settings
SETTING = re.compile(r"(?P<key>\w+):\s*(?P<value>[^#]*?)\s*(?:#\s*(?P<comment>.*))?$")
FLAGS = {
    "-h, --help": "show this text",
    "-m, --multirun": "run once for each combination of comma-separated values, as in seed=0,1,2 'run=x_${seed}'",
    "-c, --cfg job": "print the composed configuration instead of running",
    "-cd, --config-dir FOLDER": "a folder with configuration groups of your own",
}


def verb_help(docstring: str | None, stage: str, concerns: tuple[str, ...]) -> str:
    """What a command does, the groups and settings of configs/main.yaml that concern it, and the flags."""
    concerns = (*EVERY_VERB, *concerns)
    program = Path(sys.argv[0]).name
    described = settings(configs() / "main.yaml", concerns)
    if "train" in concerns:
        meaning = dict(MEANING.findall((PACKAGE / "training" / "settings.py").read_text(encoding="utf-8")))
        values = settings(configs() / "train" / f"{stage}.yaml")
        described |= {f"train.{key}": (value, meaning.get(key, "")) for key, (value, _) in values.items()}
    return "\n\n".join([
        f"usage: {program} [GROUP=NAME ...] [KEY=VALUE ...] [FLAGS]",
        (docstring or "").strip(),
        "groups, GROUP=NAME (a name is a file configs/GROUP/NAME.yaml):\n" + columns({
            group: ", ".join(names) for group, names in groups(concerns).items() if group != "train"}),
        "settings, KEY=VALUE (defaults, of which an experiment changes some):\n" + columns({
            f"{key}={value}": comment for key, (value, comment) in described.items()}),
        "The settings of a group, such as data.KEY=VALUE, are those in its file; --cfg job prints all of them."
        + ("" if configs().parent == PACKAGE.parent else f"\nconfigs/ is {configs()}."),
        "flags:\n" + columns(FLAGS),
    ])


def groups(concerns: tuple[str, ...] = ("",)) -> dict[str, list[str]]:
    """{"data": ["cifar10", ...], "autoencoder/bottleneck": ["ema", ...], ...}: the choices of each group."""
    found: dict[str, list[str]] = {}
    for root in (configs(), *plugins.config_folders()):
        for top in sorted(path for path in root.iterdir() if path.name in concerns and path.is_dir()):
            for folder in [top, *sorted(path for path in top.rglob("*") if path.is_dir() and top.name != "experiment")]:
                names = found.setdefault(folder.relative_to(root).as_posix(), [])
                names[:] = sorted({*names, *(path.stem for path in folder.glob("*.yaml"))})
    return found


def settings(path: Path, concerns: tuple[str, ...] | None = None) -> dict[str, tuple[str, str]]:
    """{"evaluate.samples": ("1000", its comment), ...} of a yaml file of one or two levels."""
    found: dict[str, tuple[str, str]] = {}
    parent = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        match = SETTING.fullmatch(line.strip())
        if not match or line.startswith("   "):
            continue
        key, value, comment = match["key"], match["value"], match["comment"] or ""
        parent = parent if line.startswith(" ") else key
        value = "NAME" if value.startswith("${") else value
        if not value or key == "defaults" or (concerns is not None and parent not in concerns):
            continue
        found[f"{parent}.{key}" if line.startswith(" ") else key] = value, comment
    return found


def columns(rows: dict[str, str]) -> str:
    """Two columns, the second wrapped."""
    width = min(36, max(map(len, rows)) + 2)
    lines = []
    for first, second in rows.items():
        wrapped = textwrap.wrap(second, WIDTH - width - 2, break_on_hyphens=False) or [""]
        if len(first) + 2 > width:
            lines.append(f"  {first}")
            first = ""
        lines += [f"  {first if number == 0 else '':<{width}}{part}".rstrip() for number, part in enumerate(wrapped)]
    return "\n".join(lines)
