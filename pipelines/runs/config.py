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

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pipelines.files.errors import InputError
from pipelines.files.places import configs
from pipelines.files.reading import read_yaml
from pipelines.runs import plugins
from pipelines.training.settings import Settings

CONFIGS = str(configs())

# Types of the loop's settings, so that Hydra itself refuses `train.lr=abc`.
ConfigStore.instance().store(group="train", name="settings", node=Settings)

# What a configuration that was read from a run may name, besides classes and functions of the two stage packages.
TRUSTED_PACKAGES = ("stage1_vqvae", "stage2_prior")
TRUSTED_MODULES = {"torch.nn.Identity", "torch.nn.ReLU", "torch.nn.GELU", "torch.nn.SiLU"}

FACT = re.compile(r"\$\{facts\.(\w+)\}")  # how a component asks for what only the data know, see facts.py


def composed(overrides: list[str]) -> DictConfig:
    """The configuration that a Hydra command makes of its overrides. Raises InputError for what does not compose."""
    try:
        with initialize_config_dir(CONFIGS, version_base="1.3"):
            cfg = compose("main", overrides=[*plugins.config_search_path(), *overrides], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(f"expected overrides that fit it, found: {str(error).splitlines()[0]}") from None
    HydraConfig.instance().set_config(cfg)  # main.yaml asks for the chosen experiment's name
    hydra = cfg.hydra
    with open_dict(cfg):
        del cfg.hydra
    return settle_bottleneck(cfg, hydra)


def settle_bottleneck(cfg: DictConfig, hydra: Any) -> DictConfig:
    """Gives the chosen bottleneck the experiment's settings for it. Raises InputError for a setting that it lacks.

    An experiment keeps its settings of bottlenecks apart, by the names of their yaml:

        autoencoder: {bottlenecks: {ema: {decay: 0.95}, fsq: {levels: [8, 8, 8]}}}

    With `autoencoder/bottleneck=fsq` it is then FSQ that is set, and a bottleneck that is not listed has its own yaml's
    values. Hydra merges files before it applies the command line, and would need one file per experiment and bottleneck
    to choose between them; so the settings are merged here, after Hydra, and what the command line says of the
    bottleneck is applied once more: it is the strongest. `hydra`: the node of that name, with choices and overrides.
    """
    with open_dict(cfg):
        settings = cfg.autoencoder.pop("bottlenecks", {})
    name = hydra.runtime.choices.get("autoencoder/bottleneck")
    for key, value in settings.get(name, {}).items():
        if key not in cfg.autoencoder.bottleneck:
            expected = ", ".join(key for key in cfg.autoencoder.bottleneck if key != "_target_")
            raise InputError(f"autoencoder.bottlenecks.{name}: expected one of {expected}, found {key!r}")
        cfg.autoencoder.bottleneck[key] = value
    given = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    for override in OverridesParser.create().parse_overrides(given):
        key = override.key_or_group
        if f"{key}.".startswith("autoencoder.bottleneck.") and not override.is_delete():
            OmegaConf.update(cfg, key, override.value(), merge=True)
    return cfg


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
