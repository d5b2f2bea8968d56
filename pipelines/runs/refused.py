"""Hydra's and OmegaConf's errors, of many lines, as one: `KEY: expected ..., found ...`, with the nearest right key."""

import re
from functools import cache

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from pipelines.files.places import configs
from pipelines.files.typed import nearest, unknown


def refused_override(error: HydraException, stage: str = "") -> str:
    """In the user's terms; `stage` ("stage1", "stage2") is what `train.` abbreviates."""
    cause, summary = error.__cause__, str(error).splitlines()[0]
    if isinstance(error, OverrideParseException):
        where = in_users_terms(" ".join(error.override.split()), stage)
        return f"{where}: expected KEY=VALUE in Hydra's syntax, found {reason(error)}{hint(error.override)}"
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        expected = nearest(name, error.options) or f"one of {', '.join(error.options)}"
        return f"{group}: expected {expected}, found {name!r}"
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return unresolved(cause, stage)
    if match := re.search(r"[Cc]ould not override '(?P<key>[^']*)'", summary):
        return in_users_terms(unknown(match["key"], known_groups()), stage)
    return f"command line: expected overrides that fit the configuration, found: {in_users_terms(summary, stage)}"


def unresolved(error: OmegaConfBaseException, stage: str = "") -> str:
    """Of a value that does not fit, or that refers to something that is not there."""
    key, found = error.full_key or "configuration", str(error).splitlines()[0]
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        parent = error.parent_node
        prefix = key.removesuffix(str(error.key))
        names = [str(name) for name in parent] if hasattr(parent, "keys") else []
        known = [f"{prefix}{name}" for name in names if name not in ("_target_", "_partial_", "hydra")]
        return in_users_terms(unknown(key, dict.fromkeys([*known, *(known_groups() if not prefix else ())])), stage)
    if "Interpolation" in type(error).__name__:
        return in_users_terms(f"{key}: expected a value that can be resolved, found: {found}", stage)
    return in_users_terms(f"{key}: expected a value of the setting's type, found: {found}", stage)


def reason(error: HydraException) -> str:
    lines = [line for line in str(error).splitlines() if not line.startswith(("Error parsing", "See https"))]
    if any("missing EQUAL" in line for line in lines):
        return "no value"
    return lines[0] if lines else "none"


def hint(override: str) -> str:
    """How to write a value that Hydra's syntax does not take as it stands."""
    key, equals, value = override.partition("=")
    if not equals or "'" in value:
        return ""
    return f"; a value with special characters is quoted twice, \"{key}='...'\""


def in_users_terms(text: str, stage: str) -> str:
    """`stage1.lr` -> `train.lr`."""
    return re.sub(rf"(?<![\w.@]){stage}\.", "train.", text) if stage else text


@cache
def known_groups() -> list[str]:
    """data, autoencoder, autoencoder/bottleneck, ...: the folders of configs/."""
    root = configs()
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*")
                  if path.is_dir() and path.relative_to(root).parts[0] not in ("compare", "train")
                  and path.parent.name != "experiment")
