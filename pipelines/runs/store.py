"""A run, which is one folder for all of an experiment, and how its trained stages are read back.

    runs/NAME/stage1/   config.yaml metrics.jsonl checkpoints/ tensorboard/
    runs/NAME/codes/    the code data set (pipelines/data/codes.py)
    runs/NAME/stage2/   as stage1
    runs/NAME/samples/  what sample.py draws
    runs/NAME/metrics.json, figures/   evaluate.py
    runs/NAME/parent/   of a published run on codes: the run that made them

A run on codes (data=codes) is tied to its parent by the hash of the parent's stage 1, which its configuration, its own
codes and its prior hold: every link is checked where it is used.
"""

import hashlib
import json
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pipelines.files.atomic import write_atomically
from pipelines.files.checks import brief, expect, is_names
from pipelines.files.errors import InputError
from pipelines.files.formats import CONFIG, FORMAT, format_of, migrated
from pipelines.files.reading import yaml_bytes
from pipelines.runs.config import read_config
from pipelines.runs.example import CodeSpec, Example, example_of
from pipelines.runs.saved import build_saved, check_autoencoder
from pipelines.splits.base import Data
from pipelines.splits.describe import NOUNS
from pipelines.training.checkpoint import State, find_checkpoint, read_trained, settle_latest, step_folders
from pipelines.training.layout import channels_last
from pipelines.training.loop import RESUMABLE
from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.bottlenecks.base import Quantizer
from stage1_vqvae.tiles import Tiled
from stage2_prior.prior import Prior

# What may differ from before in the configuration of a run that goes on.
# Of data.range it is what came of it that counts, which stands among the facts of the example.
MAY_CHANGE = {"train": RESUMABLE, "data": {"root", "download", "workers", "cache", "cache_bytes", "run", "range"}}


@dataclass(frozen=True)
class Run:
    """The folders of a run."""

    root: Path

    @property
    def stage1(self) -> Path:
        return self.root / "stage1"

    @property
    def codes(self) -> Path:
        return self.root / "codes"

    @property
    def stage2(self) -> Path:
        return self.root / "stage2"

    @property
    def samples(self) -> Path:
        return self.root / "samples"

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    @property
    def published_parent(self) -> Path:
        return self.root / "parent"


@dataclass(frozen=True)
class TrainedStage:
    """A stage read back from its folder: module in eval mode, configuration, state of its checkpoint."""

    module: torch.nn.Module
    config: dict  # in the present format
    saved: dict  # the same as config.yaml has it, in the format that it states
    state: State
    step_folder: Path
    example: Example | None  # what stage 1 knows of its data
    grid: tuple[int, ...]  # of the latents, or codes, of an item
    codes: CodeSpec | None  # what stage 2 knows of its data
    condition_on: tuple[str, ...]  # the labels that its decoder, or its prior, is conditioned on
    condition_on_length: bool  # whether a prior knows at each code how much of the clip has passed and is left

    @cached_property
    def tiled(self) -> Tiled:
        """Stage 1 for data of any size."""
        return Tiled(self.module, self.example.shape)

    @property
    def decoder_columns(self) -> list[int]:
        """The columns of the data's labels that stage 1's decoder is conditioned on."""
        return [self.example.label_names.index(name) for name in self.condition_on]

    @property
    def prior_columns(self) -> list[int]:
        """The columns of the codes' labels that stage 2 is conditioned on."""
        return [self.codes.label_names.index(name) for name in self.condition_on]


def run_of(cfg: Any) -> Run:
    """The run that a configuration names. Raises InputError for none."""
    if cfg.run is None:
        raise InputError("run: expected a name, found none; give one with run=NAME")
    return Run(Path(cfg.runs_dir) / cfg.run)


def claim_folder(folder: Path, config: dict) -> None:
    """Writes a stage's config.yaml; where the stage has a checkpoint, the one there is compared with `config` first.

    Raises InputError for a difference other than steps, device, logging and where the data are: such a run could not
    go on. A configuration of an earlier format keeps it, and with it the hash that codes and priors know."""
    path, content = folder / "config.yaml", {"format": FORMAT} | config
    if find_checkpoint(folder) is not None or step_folders(folder):
        if not path.exists():
            raise InputError(f"{path}: expected the configuration of the checkpoints beside it, found no such file; "
                             f"put it back, give the run another name with run=NAME, or remove {folder}")
        saved = read_config(path)
        before = migrated(saved, path, CONFIG)
        old, new = _digests(before, config)
        if old != new and not first_difference({"data": before.get("data")}, {"data": config.get("data")}):
            raise InputError(f"{path}: {changed_data(config['example'], old, new)}; give the run another name with "
                             "run=NAME, or bring back the data")
        if difference := first_difference(_without_digest(before), _without_digest(config)):
            key, there, here = difference
            key = {"example.facts.range": "data.range"}.get(key, key)
            if key.endswith(".variance"):
                key = f"the data changed? {key}"  # a fact of the data, unless it was given
            raise InputError(f"{path}: {key}: expected {there!r} as in this run so far, found {here!r}; "
                             "give the run another name with run=NAME, or remove its folder")
        if format_of(saved, path, CONFIG) < FORMAT:
            content = saved
            for section, names in MAY_CHANGE.items():
                if section in config:
                    both = names & config[section].keys() & content[section].keys()
                    content[section] |= {name: config[section][name] for name in both}
        settle_latest(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, yaml_bytes(content))


def first_difference(old: Any, new: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """The first leaf in which two configurations differ, besides those that may change when a run goes on."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            inner = f"{key}.{name}" if key else str(name)
            if any(inner == f"{section}.{name}" for section, names in MAY_CHANGE.items() for name in names):
                continue
            if found := first_difference(old.get(name), new.get(name), inner):
                return found
        return None
    return None if old == new else (key, old, new)


def load_stage1(run: Run, device: torch.device, which: str = "best") -> TrainedStage:
    """The autoencoder of a run, with the checkpoint that `which` names."""
    return _load(run.stage1, "autoencoder", Autoencoder, "stage 1", which, device)


def load_stage2(run: Run, device: torch.device, which: str = "best") -> TrainedStage:
    """The prior of a run; its averaged weights where they are kept."""
    return _load(run.stage2, "prior", Prior, "stage 2", which, device)


def _load(folder: Path, component: str, kind: type, title: str, which: str, device: torch.device) -> TrainedStage:
    trained = read_trained(folder, which)
    if trained is None:  # training stopped before a validation that counts
        trained = read_trained(folder, "latest")
        if trained is None:
            command = f"make {title.replace(' ', '')}"
            if step_folders(folder):
                raise InputError(f"{folder / 'checkpoints'}: expected best or latest to name a checkpoint, found "
                                 f"neither; training that goes on puts it right: {command}")
            raise InputError(f"{folder}: expected a trained {title}, found no checkpoint; train it first: {command}")
        print(f"note: {folder}: no validation counts yet, so the latest checkpoint is used, {trained[0].name}",
              file=sys.stderr)
    step_folder, state, weights_path, weights = trained
    path = folder / "config.yaml"
    saved = read_config(path)
    config = migrated(saved, path, CONFIG)
    example = Example.from_config(config, path) if component == "autoencoder" else None
    codes = CodeSpec.from_config(config, path) if component == "prior" else None
    for key in (component, "train", *(("data",) if example else ())):
        expect(path, key, config.get(key), isinstance(config.get(key), dict), "a mapping")
    known, condition_on = (example or codes).label_names, config.get("condition_on")
    expect(path, "condition_on", condition_on, is_names(condition_on) and set(condition_on) <= set(known),
           f"names among {list(known)}")
    length = config.get("condition_on_length") if codes else False
    expect(path, "condition_on_length", length, isinstance(length, bool), "true or false")

    def check(model: Any) -> tuple[int, ...]:
        if example is not None:
            return check_autoencoder(model, example.shape, len(condition_on), path)
        classes = [len(codes.classes[codes.label_names.index(name)]) for name in condition_on]
        for key, found, expected in (("num_codes", model.num_codes, codes.num_codes),
                                     ("num_codebooks", model.num_codebooks, codes.num_codebooks),
                                     ("num_classes", list(model.num_classes), classes),
                                     ("grid_axes", model.grid_axes, len(codes.grid))):
            expect(path, f"prior.{key}", found, found == expected, f"{expected} as its codes have")
        return codes.grid

    module, grid = build_saved(config[component], path, component, kind, weights, weights_path, check)
    module.to(device)
    if device.type == "cuda":  # on a CPU the bits of an evaluation are those of the plain layout
        channels_last(module)
    return TrainedStage(module.eval().requires_grad_(False), config, saved, state, step_folder, example, grid,
                        codes, tuple(condition_on), length)


def stage1_hash(stage: TrainedStage) -> str:
    """SHA-256 over the autoencoder's configuration and the sorted (name, dtype, shape, bytes) of the weights in use.

    Both are taken as config.yaml states them, in its own format: so a run keeps its hash when formats change. Since
    format 2 a component counts by its role and its own name, `bottleneck/EMAQuantizer`, wherever it is defined."""
    return _stage_hash(stage, "autoencoder")


def stage2_hash(stage: TrainedStage) -> str:
    """The same of the prior and the weights of it that are in use."""
    return _stage_hash(stage, "prior")


def _stage_hash(stage: TrainedStage, component: str) -> str:
    configuration = stage.saved[component]
    if format_of(stage.saved, stage.step_folder, CONFIG) > 1:
        configuration = logical_names(configuration, component)
    digest = hashlib.sha256(json.dumps(configuration, sort_keys=True).encode())
    for name, tensor in sorted(stage.module.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def logical_names(tree: Any, role: str) -> Any:
    """A configuration with `role/Name` in the place of each `_target_: package.module.Name`."""
    if isinstance(tree, list):
        return [logical_names(item, role) for item in tree]
    if not isinstance(tree, dict):
        return tree
    return {key: f"{role}/{value.rpartition('.')[2]}" if key == "_target_" else logical_names(value, key)
            for key, value in tree.items()}


def check_same_stage1(expected: str | None, stage1: TrainedStage, what: Path) -> None:
    """Raises InputError unless `what` (codes, a prior) was made with this very stage 1."""
    found = stage1_hash(stage1)
    if expected != found:
        raise InputError(f"{what}: expected to be used with the stage 1 it was made with ({str(expected)[:12]}), found "
                         f"{stage1.step_folder} ({found[:12]}); extract the codes and train stage 2 again")


def check_same_codes(stage1: TrainedStage, stage2: TrainedStage) -> None:
    """Raises InputError unless stage 2 models codes of the sizes and labels that stage 1 makes."""
    example, codes, bottleneck = stage1.example, stage2.codes, stage1.module.bottleneck
    path = stage2.step_folder.parents[1] / "config.yaml"
    if not isinstance(bottleneck, Quantizer):
        raise InputError(f"{path}: expected a stage 1 with codes, found {type(bottleneck).__name__}")
    for key, expected in (("num_codes", bottleneck.num_codes), ("num_codebooks", bottleneck.num_codebooks),
                          ("grid", stage1.grid), ("shape", example.shape), ("data", example.data),
                          ("label_names", example.label_names), ("classes", example.classes)):
        found = getattr(codes, key)
        expect(path, f"codes.{key}", found, found == expected, f"{brief(expected)} as stage 1 has")


def check_same_data(run: Run, stage1: TrainedStage, data: Data, data_config: dict, other_data: bool = False
                    ) -> str | None:
    """Raises InputError where the run was trained on other data, or another split of them, than those given now.

    With `other_data`, files of other content are taken, with a note on stderr; their digest is returned. Whatever the
    configuration says of the data must be the same all the same. Runs that know no digest take any files. The same
    files in a folder of another name are the same data."""
    there, here = (example.to_config() for example in (stage1.example, example_of(data)))
    difference = first_difference({"data": stage1.config["data"]}, {"data": data_config})
    old, new = _digests({"example": there}, {"example": here})
    names = ("shape", "classes", "facts") if old and old == new else ("data", "shape", "classes", "facts")
    if difference := difference or first_difference(
            *({name: _without_digest({"example": example})["example"][name] for name in names}
              for example in (there, here))):
        key, then, now = difference
        key = {"facts.range": "data.range"}.get(key, key.removeprefix("facts."))
        raise InputError(f"{run.stage1 / 'config.yaml'}: {key}: expected {str(then)[:80]} as in training, found "
                         f"{str(now)[:80]} now")
    if old == new:
        return None
    said = f"{run.stage1 / 'config.yaml'}: {changed_data(here, old, new)}"
    if not other_data:
        raise InputError(f"{said}; to use these, extract.other_data=true or evaluate.other_data=true")
    print(f"note: {said}", file=sys.stderr)
    return new


def changed_data(example: dict, old: str, new: str) -> str:
    """Says that the source of the data has another content than in training."""
    noun = NOUNS.get(example["kind"], "data")
    return f"the {noun} changed: expected those of training ({old[:12]}), found others ({new[:12]})"


def _digests(old: dict, new: dict) -> tuple[str, str]:
    """The digests of the data that two configurations know; ("", "") where one of them knows none."""
    old, new = ((config.get("example") or {}).get("facts", {}).get("digest") for config in (old, new))
    return (old, new) if old and new else ("", "")


def _without_digest(config: dict) -> dict:
    if not isinstance(example := config.get("example"), dict):
        return config
    facts = {name: fact for name, fact in example.get("facts", {}).items() if name != "digest"}
    return config | {"example": example | {"facts": facts}}


def parent_of(run: Run, stage1: TrainedStage) -> Run | None:
    """The run whose codes a run was trained on, where it was then; None for a run that is not on codes."""
    if "parent" not in stage1.example.facts:
        return None
    if run.published_parent.is_dir():
        return Run(run.published_parent)
    named = stage1.config["data"].get("run", str(run.published_parent))
    expect(run.stage1 / "config.yaml", "data.run", named, isinstance(named, str), "the folder of a run")
    parent = Run(Path(named))
    if not parent.stage1.is_dir():
        raise InputError(f"{run.stage1 / 'config.yaml'}: data.run: expected the run whose codes {run.root} was trained "
                         f"on, found no stage 1 in {parent.root}; if it moved, make stage1 with data.run=RUN notes it")
    return parent


def load_parents(run: Run, stage1: TrainedStage, device: torch.device, parent: Run | None = None) -> list[TrainedStage]:
    """Stage 1 of the parent of a run on codes, of the parent's parent, ..., down to the data; [] for any other run.

    `parent`: where the parent is, if not where it was in training. Raises InputError where a stage is not the one that
    the run above it was trained on."""
    stages, parent = [], parent or parent_of(run, stage1)
    while parent is not None:
        below = load_stage1(parent, device)
        expected, found = stage1.example.facts["parent"]["stage1_hash"], stage1_hash(below)
        if expected != found:
            raise InputError(f"{run.stage1}: expected the parent it was trained on ({expected[:12]}), found "
                             f"{below.step_folder} ({found[:12]}): {parent.root} was trained anew; extract its codes "
                             f"and train {run.root} on them")
        _check_below(run, stage1, below)
        stages.append(below)
        run, stage1, parent = parent, below, parent_of(parent, below)
    return stages


def _check_below(run: Run, stage1: TrainedStage, below: TrainedStage) -> None:
    """Raises InputError unless the data of a run on codes are of the sizes of the codes that the run below makes."""
    path, bottleneck = run.stage1 / "config.yaml", below.module.bottleneck
    shape = (bottleneck.num_codebooks, *below.grid)
    expect(path, "example.shape", stage1.example.shape, stage1.example.shape == shape, f"{shape} as the run below has")
    found = stage1.module.likelihood.params_per_value
    expect(path, "autoencoder.likelihood", found, found == bottleneck.num_codes, f"{bottleneck.num_codes} codes")
