"""One line for a flag or an override that a verb configured by Hydra refuses, with the nearest right one."""

import difflib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipelines.commands.help import EVERY_VERB, groups, settings
from pipelines.files.errors import InputError
from pipelines.files.places import configs

if TYPE_CHECKING:
    from hydra.errors import HydraException

# Hydra's own flags; not --run and --experimental-rerun, for which it takes `--run NAME` and `--experiment NAME`.
HYDRA_FLAGS = {
    *("-m", "--multirun", "-c", "--cfg", "--resolve", "-p", "--package", "-i", "--info", "-cd", "--config-dir"),
    *("-cn", "--config-name", "-sc", "--shell-completion", "--hydra-help", "--version"),
}


def refuse_flags(arguments: list[str]) -> None:
    """Raises InputError for a flag that Hydra has not: `--experiment mnist` -> expected experiment=mnist."""
    for number, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if not flag.startswith("-") or flag in HYDRA_FLAGS:
            continue
        following = arguments[number + 1 : number + 2]
        if not equals and following and "=" not in following[0] and not following[0].startswith("-"):
            value = following[0]
        key = nearest(flag.lstrip("-").replace("-", "_"), [*known_keys(), *groups(tuple(top_groups()))])
        expected = f"{key}={value or 'VALUE'}" if key else "KEY=VALUE (--help lists the keys)"
        raise InputError(f"{flag}: expected {expected}, found a flag")


def refused_override(error: "HydraException", stage: str) -> str:
    """`KEY: expected ..., found ...` from Hydra's error of several lines."""
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

    cause, summary = error.__cause__, str(error).splitlines()[0]
    if isinstance(error, OverrideParseException):
        return f"{in_users_terms(error.override, stage)}: expected KEY=VALUE in Hydra's syntax, found {reason(error)}"
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        close = nearest(name, error.options)
        expected = close or f"one of {', '.join(error.options)}"
        return f"{group}: expected {expected}, found {name!r}"
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        parent, key = cause.parent_node, str(cause.key)
        prefix = cause.full_key.removesuffix(key)
        siblings = [f"{prefix}{name}" for name in parent] if parent is not None else []
        candidates = [*siblings, *(groups(tuple(top_groups())) if not prefix else ())]
        close = nearest(cause.full_key, candidates)
        expected = close or f"one of {', '.join(candidates)}"
        return in_users_terms(f"{cause.full_key}: expected {expected}, found a key that the configuration lacks", stage)
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        found = str(cause).splitlines()[0]
        return in_users_terms(f"{cause.full_key}: expected a value of the setting's type, found: {found}", stage)
    return f"expected overrides that fit the configuration, found: {in_users_terms(summary, stage)}"


def reason(error: "HydraException") -> str:
    lines = [line for line in str(error).splitlines() if not line.startswith(("Error parsing", "See https"))]
    return "no value" if any("missing EQUAL" in line for line in lines) else lines[0]


def in_users_terms(text: str, stage: str) -> str:
    """`stage1.lr` -> `train.lr`."""
    return re.sub(rf"(?<![\w.]){stage}\.", "train.", text)


def known_keys() -> list[str]:
    """Of configs/main.yaml and of a stage's training; without the names of the groups' own settings."""
    train = [f"train.{key}" for key in settings(configs() / "train" / "stage1.yaml")]
    return [*EVERY_VERB, *settings(configs() / "main.yaml"), *train]


def top_groups() -> list[str]:
    return [path.name for path in configs().iterdir() if path.is_dir()]


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that is the name, or ends in `.name`, or else is most like it; None where none is close."""
    candidates = list(dict.fromkeys(candidates))
    if name in candidates:
        return name
    for candidate in candidates:
        if candidate.rpartition(".")[2] == name:
            return candidate
    close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
    return close[0] if close else None
