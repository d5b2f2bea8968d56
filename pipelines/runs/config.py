"""Configuration: from the command line to objects, and from a run's folder back to objects, safely.

Training, extraction and evaluation are Hydra programs: `experiment=NAME key=value`, sweeps by `--multirun`.
`train.lr=1e-3` is short for `stage1.lr=1e-3` in stage 1's command and for `stage2.lr=1e-3` in stage 2's.
"""

import functools
import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pipelines.files.errors import InputError
from pipelines.files.places import configs
from pipelines.files.reading import read_yaml
from pipelines.runs import plugins
from pipelines.runs.composition import composed_by_hydra, settled, spelled

CONFIGS = str(configs())

# What a configuration that was read from a run may name, besides classes and functions of the two stage packages.
TRUSTED_PACKAGES = ("stage1_vqvae", "stage2_prior")
TRUSTED_MODULES = {"torch.nn.Identity", "torch.nn.ReLU", "torch.nn.GELU", "torch.nn.SiLU"}

FACT = re.compile(r"\$\{facts\.(\w+)\}")  # how a component asks for what only the data know, see facts.py


def composed(overrides: list[str]) -> DictConfig:
    """The configuration that a Hydra command makes of its overrides. Raises InputError for what does not compose."""
    cfg = composed_by_hydra([*plugins.config_search_path(), *map(spelled, overrides)])
    HydraConfig.instance().set_config(cfg)  # main.yaml asks for the chosen experiment's name
    hydra = cfg.hydra
    with open_dict(cfg):
        del cfg.hydra
    return settled(cfg, hydra)


def resolved(cfg: DictConfig) -> dict:
    """A configuration as plain data before the data are known: `${facts.NAME}` stays as it is."""
    names = set(FACT.findall(OmegaConf.to_yaml(cfg)))
    facts = {name: f"\\${{facts.{name}}}" for name in names}  # escaped: resolved to itself
    tree = OmegaConf.merge(OmegaConf.create({"facts": facts}), cfg)
    plain_tree = OmegaConf.to_container(tree, resolve=True)
    del plain_tree["facts"]
    return plain_tree


def plain(cfg: Any) -> Any:
    """A resolved copy of a configuration as dicts and lists. Raises InputError for a key without a value (`???`)."""
    if not OmegaConf.is_config(cfg):
        return cfg
    try:
        return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        where = f"{error.full_key}: " if error.full_key else ""
        raise InputError(f"{where}expected a value, found none ({str(error).splitlines()[0]})") from None


def build(cfg: Any, trusted_only: bool = False, **extra: Any) -> Any:
    """Makes the object that `_target_` names, depth first; `_partial_: true` gives a function that makes it.

    With `trusted_only`, for configurations read from a run's folder, `_target_` may name only classes and functions
    that the stage packages define, and a few torch.nn modules: nothing is imported because a file says so.
    Raises InputError for other names, for a misspelt or mistyped argument, and for a value that the class refuses."""
    if isinstance(cfg, DictConfig):
        cfg = plain(cfg)
    if isinstance(cfg, list):
        return [build(item, trusted_only) for item in cfg]
    if not isinstance(cfg, dict):
        return cfg
    if "_target_" not in cfg:
        return {key: build(value, trusted_only) for key, value in cfg.items()}
    name = cfg["_target_"]
    target = find_target(name, trusted_only)
    arguments = {
        key: build(value, trusted_only) for key, value in cfg.items() if key not in ("_target_", "_partial_")
    } | extra
    check_arguments(name, target, arguments)
    if cfg.get("_partial_"):
        return functools.partial(target, **arguments)
    try:
        return target(**arguments)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None


def find_target(name: Any, trusted_only: bool) -> Any:
    """The class or function of a dotted name."""
    if not isinstance(name, str) or "." not in name:
        raise InputError(f"_target_: expected a dotted name, found {name!r}")
    plugins.activate()
    if trusted_only and name not in TRUSTED_MODULES and not _is_trusted(name):
        raise InputError(f"_target_: expected a class of {' or '.join(TRUSTED_PACKAGES)}, found {name!r}")
    module_name, _, attribute = name.rpartition(".")
    try:
        target = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):  # it exists, and asks for something that does not
            raise InputError(f"_target_: {name}: expected a module that can be imported, found: {error}") from None
        raise InputError(f"_target_: expected something that exists, found {name!r}") from None
    except ImportError as error:
        raise InputError(f"_target_: {name}: expected a module that can be imported, found: {error}") from None
    except AttributeError:
        raise InputError(f"_target_: expected something that exists, found {name!r}") from None
    if trusted_only and name not in TRUSTED_MODULES:
        home = getattr(target, "__module__", None) or ""
        if not _is_trusted(home) or not callable(target):
            raise InputError(f"_target_: expected a class that a stage package defines, found {name!r} of {home!r}")
    return target


def _is_trusted(name: str) -> bool:
    """Whether a module, or something in it, belongs to the stage packages or to a folder that the user named."""
    return name.split(".")[0] in TRUSTED_PACKAGES or plugins.is_trusted(name)


def check_arguments(name: str, target: Callable, arguments: dict[str, Any]) -> None:
    """Raises InputError for an argument that the signature lacks, and for a scalar of another type than it states."""
    parameters = inspect.signature(target).parameters
    for key, value in arguments.items():
        if key not in parameters:
            raise InputError(f"{name}: expected one of {', '.join(parameters)}, found {key!r}")
        expected = parameters[key].annotation
        accepted = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}.get(expected)
        if accepted and (not isinstance(value, accepted) or (isinstance(value, bool) and expected is not bool)):
            raise InputError(f"{name}: {key}: expected {expected.__name__}, found {value!r}")


def read_config(path: Path) -> dict:
    """A YAML file as plain data: of a run's config.yaml what it says, in whatever format."""
    return read_yaml(path, "the configuration of a trained stage")
