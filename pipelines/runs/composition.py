"""From what Hydra composes to the configuration that a verb works with: whole, of the right types, its paths expanded.

Hydra merges files first and applies the command line last, and knows no types of components. What is left to do:

- An experiment's settings of a component hold for that component. With `autoencoder/encoder=image_dense` the encoder
  has its own yaml's values, and not what the experiment says of another encoder. The same is true of decoder,
  likelihood and prior. Of data and bottleneck, settings that the other one has too hold for it as well: `data.crop`,
  `autoencoder.bottleneck.dim`.
- An experiment may keep settings of several bottlenecks, by the names of their yaml:
  `autoencoder: {bottlenecks: {ema: {decay: 0.95}, fsq: {levels: [8, 8, 8]}}}`.
- The command line is the strongest, so it is applied once more where one of these changed a component.
"""

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pipelines.files.checks import brief
from pipelines.files.errors import InputError
from pipelines.files.places import config_names, configs, expanded
from pipelines.files.typed import LARGEST, LARGEST_SEED, read, unknown
from pipelines.runs.refused import known_groups, refused_override, unresolved
from pipelines.runs.settings import Evaluation, Extraction, General
from pipelines.training.settings import Settings, Stage1Settings

SECTIONS = {"extract": Extraction, "evaluate": Evaluation, "stage1": Stage1Settings, "stage2": Settings}
WHOLE = ("autoencoder/encoder", "autoencoder/decoder", "autoencoder/likelihood", "prior")  # groups, as above
SHARED = ("data", "autoencoder/bottleneck")
PARTS = ("encoder", "bottleneck", "decoder", "likelihood")  # that every autoencoder has
PATHS = ("runs_dir", "data.root", "data.cache", "data.run", "evaluate.unconditional")
TYPED = re.compile(r"(?P<key>\+{0,2}(?:" + "|".join(map(re.escape, ("run", "data.name", *PATHS)))
                   + r"))=(?P<value>.*)", re.DOTALL)

OWN = ("stage1_vqvae.", "stage2_prior.", "pipelines.")  # packages whose settings' ranges are known
SIZES = {
    *("dim", "hidden", "outer_hidden", "residual_hidden", "features", "channels", "num_codes", "num_codebooks"),
    *("num_samples", "num_layers", "kernel_size", "first_kernel_size", "temporal_kernel_size", "temporal_stride"),
    *("head_channels", "residual_channels", "gate_channels", "skip_channels", "dilation_cycle", "hop_length"),
    *("num_bands", "window_length", "num_components", "size", "crop", "length", "sample_rate_hz", "episodes", "frames"),
    *("clips", "words_per_clip", "voices", "temperature_steps", "strides", "factors", "levels", "out_channels"),
}  # integers that are at least 1; all others are at least 0
DEPTHS = {"num_layers", "num_residual_blocks", "num_downsamplings", "num_temporal_layers"}
DEEPEST = 1000


@contextmanager
def one_line(stage: str = "") -> Iterator[None]:
    """Hydra's and OmegaConf's errors of several lines as InputError; `stage`: the one that `train.` abbreviates."""
    try:
        yield
    except HydraException as error:
        raise InputError(refused_override(error, stage)) from error
    except OmegaConfBaseException as error:
        raise InputError(unresolved(error, stage)) from error


def composed_by_hydra(overrides: list[str]) -> DictConfig:
    """What Hydra makes of overrides, its own node `hydra` included. Also within a Hydra program, which is one state."""
    state = GlobalHydra.instance()
    program, state.hydra = state.hydra, None
    try:
        with one_line(), initialize_config_dir(str(configs()), version_base="1.3"):
            return compose("main", overrides=overrides, return_hydra_config=True)
    finally:
        state.hydra = program


def settled(cfg: DictConfig, hydra: Any, own: dict | None = None, given: list[str] | None = None) -> DictConfig:
    """The configuration in which all of the above is done. Raises InputError that names a key.

    hydra: the node of that name, with choices and overrides. own: the configuration that a run was made with, which
    stands for the experiment's; `given`: what the command line says besides, `KEY=VALUE`."""
    parser = OverridesParser.create()
    choices = OmegaConf.to_container(hydra.runtime.choices)
    with one_line():
        overrides = parser.parse_overrides(OmegaConf.to_container(hydra.overrides.task, resolve=False))
        changed: tuple[str, ...] = ("autoencoder.bottleneck",)
        if own is not None:
            changed = ("",)
            lay_over(cfg, own, {override.key_or_group for override in overrides})
            overrides = parser.parse_overrides(given or [])
        elif any(override.key_or_group in choices and override.key_or_group != "experiment" for override in overrides):
            changed += swap_components(cfg, hydra, choices)
        set_bottleneck(cfg, choices.get("autoencoder/bottleneck"))
        for override in overrides:
            if override.key_or_group not in choices:
                apply_again(cfg, override, changed)
        check_components(cfg)
        check_types(cfg)
        expand_paths(cfg)
    return cfg


def swap_components(cfg: DictConfig, hydra: Any, choices: dict[str, Any]) -> tuple[str, ...]:
    """Gives components that the command line chose their own values, where an experiment chose others. Returns keys."""
    if not isinstance(choices.get("experiment"), str):
        return ()
    places = [f"'file://{source.path}'" for source in hydra.runtime.config_sources
              if source.schema == "file" and source.path != str(configs())]
    search = [f"hydra.searchpath=[{','.join(places)}]"] if places else []
    before = composed_by_hydra([*search, f"experiment={choices['experiment']}"]).hydra.runtime.choices
    swapped = [group for group in (*WHOLE, *SHARED) if choices.get(group) != before.get(group)]
    if not swapped:
        return ()
    groups = {group: choice for group, choice in choices.items()
              if group.partition("/")[0] in ("data", "autoencoder", "prior")}
    pure = composed_by_hydra([*search, "~experiment", *(f"{group}={choice if choice is not None else 'null'}"
                                                        for group, choice in groups.items())])
    for group in swapped:
        key = group.replace("/", ".")
        node = OmegaConf.select(pure, key)
        if not isinstance(node, DictConfig):
            continue
        kept = OmegaConf.select(cfg, key) if group in SHARED else None
        values = OmegaConf.to_container(node, resolve=False)
        if isinstance(kept, DictConfig):
            shared = OmegaConf.to_container(kept, resolve=False)
            values |= {name: value for name, value in shared.items() if name in values and not name.startswith("_")}
        replace_node(cfg, key, values)
    return tuple(group.replace("/", ".") for group in swapped)


def replace_node(cfg: DictConfig, key: str, values: Any) -> None:
    parent, _, name = key.rpartition(".")
    home = OmegaConf.select(cfg, parent) if parent else cfg
    if isinstance(home, DictConfig):
        with open_dict(cfg):
            home[name] = values


def set_bottleneck(cfg: DictConfig, name: str | None) -> None:
    """Gives the chosen bottleneck the experiment's settings for it. Raises InputError for a setting that it lacks."""
    autoencoder = cfg.get("autoencoder")
    if not isinstance(autoencoder, DictConfig):
        return
    with open_dict(cfg):
        settings = autoencoder.pop("bottlenecks", {}) or {}
    bottleneck = autoencoder.get("bottleneck")
    for key, value in (settings.get(name) or {}).items():
        if not isinstance(bottleneck, DictConfig) or key not in bottleneck:
            known = ", ".join(key for key in bottleneck or () if key != "_target_")
            raise InputError(f"autoencoder.bottlenecks.{name}: expected one of {known}, found {key!r}")
        bottleneck[key] = value


def apply_again(cfg: DictConfig, override: Override, changed: Iterable[str]) -> None:
    """Applies `KEY=VALUE` of the command line to the components that changed since Hydra did; "": all of them."""
    key = override.key_or_group
    if override.is_delete() or not any(not own or f"{key}.".startswith(f"{own}.") for own in changed):
        if override.is_delete() and "" in changed:
            raise InputError(f"~{key}: expected KEY=VALUE for a run that goes on, found a deletion")
        return
    parent, _, name = key.rpartition(".")
    home = OmegaConf.select(cfg, parent) if parent else cfg
    known = list(home) if isinstance(home, DictConfig) else []
    if name not in known and not (override.is_add() or override.is_force_add()):
        raise InputError(unknown(key, [f"{parent}.{own}" if parent else str(own) for own in known]))
    OmegaConf.update(cfg, key, override.value(), merge=True, force_add=True)


def lay_over(cfg: DictConfig, own: dict[str, Any], chosen: set[str]) -> None:
    """Puts the sections of a run's own configuration in the place of those composed, but for components that the
    command line chose."""
    for key, values in own.items():
        names = {group for group in chosen if group.split("/")[0] == key}
        if key in names:
            continue
        if names:  # autoencoder/bottleneck=fsq
            values = values | {group.split("/")[1]: OmegaConf.to_container(cfg[key][group.split("/")[1]], resolve=False)
                               for group in names}
        replace_node(cfg, key, values)


def check_components(cfg: DictConfig) -> None:
    """Raises InputError where a component is missing, and for a number in one that cannot be."""
    for key in ("data", "autoencoder", "prior"):
        _check_component(key, cfg.get(key, None))
    for part in PARTS:
        _check_component(f"autoencoder.{part}", cfg.autoencoder.get(part, None))
    for key in ("data", "autoencoder", "prior"):
        _check_numbers(key, cfg[key], "")


def _check_component(key: str, node: Any) -> None:
    group = key.replace(".", "/")
    if not isinstance(node, DictConfig) or not isinstance(node.get("_target_"), str):
        found = node if node is None or isinstance(node, str | int | float) else "no _target_"
        raise InputError(f"{key}: expected {group}=NAME with one of {', '.join(config_names(group))}, found "
                         f"{'none' if found is None else found}")


def _check_numbers(key: str, node: Any, target: str) -> None:
    """Numbers of the project's own components at any depth; those that are asked of the data are not there yet."""
    if isinstance(node, ListConfig):
        items = [(key, key.rpartition(".")[2], own) for own in node._iter_ex(resolve=False)]
    else:
        target = node.get("_target_", None) or target
        items = [(f"{key}.{name}", str(name), OmegaConf.to_container(node, resolve=False)[name]) for name in node]
    for where, name, value in items:
        if isinstance(value, dict | list | DictConfig | ListConfig):
            inner = value if isinstance(value, DictConfig | ListConfig) else OmegaConf.create(value)
            _check_numbers(where, inner, target)
        elif isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{where}: expected a finite number, found {value}")
        elif isinstance(value, int) and not isinstance(value, bool) and str(target).startswith(OWN):
            least = 1 if name in SIZES else 0
            most = DEEPEST if name in DEPTHS else LARGEST_SEED if name == "seed" else LARGEST
            if not least <= value <= most:
                bound = f">= {least}" if value < least else f"<= {most}"
                raise InputError(f"{where}: expected an integer {bound}, found {brief(value)}")


def check_types(cfg: DictConfig) -> None:
    """Gives every setting outside the components its type. Raises InputError for a value that is not of it."""
    values: dict[str, Any] = {key: asdict(read(kind, key, _resolved(cfg, key))) for key, kind in SECTIONS.items()}
    values |= asdict(General(**{key: _resolved(cfg, key) for key in General.__dataclass_fields__}))
    for key, value in values.items():
        replace_node(cfg, key, value)


def _resolved(cfg: DictConfig, key: str) -> Any:
    value = cfg.get(key, None)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def expand_paths(cfg: DictConfig) -> None:
    """`~` and `$NAME` in the settings that are paths."""
    for key in PATHS:
        parent, _, name = key.rpartition(".")
        home = OmegaConf.select(cfg, parent) if parent else cfg
        if isinstance(home, DictConfig) and name in home and not OmegaConf.is_missing(home, name):
            found = home[name]
            if isinstance(found, str) and (path := expanded(found)) != found:
                home[name] = path


def spelled(override: str, multirun: bool = False) -> str:
    """A path or name as people type it, `data.root=~/Pictures/été (2024)`, in Hydra's quotes; all else as it is.

    Raises InputError for a group with a value that is no name, `data=null` or `prior=true`, which Hydra takes for a
    bug."""
    group, equals, name = override.lstrip("+").partition("=")
    if digits := re.search(r"\d{1000,}", name.replace("_", "")):  # which Python refuses to read or write
        raise InputError(f"{group}: expected a value of fewer digits, found {len(digits[0])}")
    if equals and group.lstrip("~").partition("@")[0] in known_groups() and not _is_name(override, multirun):
        own = group.lstrip("~")
        raise InputError(f"{own}: expected {own}=NAME with one of {', '.join(config_names(own.partition('@')[0]))}, "
                         f"found {name or 'nothing'}")
    match = TYPED.fullmatch(override)
    if match is None or (value := match["value"]) in ("", "null", "???") or (multirun and "," in value):
        return override
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return override
    quoted = re.sub(r"(\\*)'", r"\1\1\\'", value)
    quoted += "\\" * (len(value) - len(value.rstrip("\\")))
    return f"{match['key']}='{quoted}'"


def _is_name(override: str, multirun: bool) -> bool:
    """Whether the value of a group's override is a name, or several; what cannot be parsed is left to Hydra."""
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return True
    if parsed.is_sweep_override():
        return multirun
    value = parsed.value()
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name for name in names)


def run_to_continue(overrides: list[str], multirun: bool) -> Path | None:
    """The folder of the run that `run=NAME` names where no experiment is named beside it; None where there is no such
    run yet."""
    given = dict(override.split("=", 1) for override in overrides if "=" in override)
    name, home = (given.get(key, default).strip("'\"") for key, default in (("run", ""), ("runs_dir", "runs")))
    if multirun or not name or any(override.lstrip("+~").startswith("experiment") for override in overrides):
        return None
    root = Path(expanded(home)) / name
    return root if (root / "stage1" / "config.yaml").is_file() else None
