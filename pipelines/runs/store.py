"""A run: one folder that holds all of an experiment, and how its trained stages are read back.

    runs/NAME/stage1/   config.yaml metrics.jsonl checkpoints/ tensorboard/
    runs/NAME/codes/    the code data set (pipelines/data/codes.py)
    runs/NAME/stage2/   as stage1
    runs/NAME/samples/  pictures of sample.py
    runs/NAME/metrics.json, figures/   evaluate.py
    runs/NAME/parent/   of a published run on codes: the run that made those

A run on codes (data=codes) hangs on its parent's stage 1 by that one's hash, which its configuration, its own codes and
its prior hold: every link is checked where it is used.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from pipelines.files.atomic import write_atomically
from pipelines.files.errors import InputError
from pipelines.files.places import pretrained
from pipelines.runs.config import build, read_config
from pipelines.splits.base import Data
from pipelines.training.checkpoint import find_checkpoint, load_weights, read_state, read_weights
from pipelines.training.loop import RESUMABLE

PRETRAINED = pretrained()


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
    config: dict
    state: dict
    step_folder: Path

    @property
    def decoder_columns(self) -> list[int]:
        """Of stage 1: the columns of the data's labels that its decoder is told."""
        return [self.config["example"]["label_names"].index(name) for name in self.config.get("condition_on", [])]


def run_of(cfg: Any) -> Run:
    """The run that a configuration names."""
    return Run(Path(cfg.runs_dir) / cfg.run)


def claim_folder(folder: Path, config: dict) -> None:
    """Writes a stage's config.yaml; where the stage has a checkpoint, the one there is held against what is given now.

    Raises InputError for a difference other than steps, device and logging: those runs could not go on."""
    path = folder / "config.yaml"
    if path.exists() and find_checkpoint(folder) is not None:
        if difference := first_difference(read_config(path), config):
            key, there, here = difference
            raise InputError(f"{path}: {key}: expected {there!r} as in this run so far, found {here!r}; "
                             "give the run another name with run=NAME, or remove its folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, yaml.safe_dump(config, sort_keys=False).encode())


def first_difference(old: Any, new: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """The first leaf in which two configurations differ, besides those that may change when a run goes on."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            inner = f"{key}.{name}" if key else str(name)
            if inner in {f"train.{name}" for name in RESUMABLE} | {"data.root", "data.download", "data.workers",
                                                                   "data.cache", "data.run"}:
                continue
            if found := first_difference(old.get(name), new.get(name), inner):
                return found
        return None
    return None if old == new else (key, old, new)


def load_stage1(run: Run, device: torch.device, which: str = "best") -> TrainedStage:
    """The autoencoder of a run, with the checkpoint that `which` names."""
    return _load(run.stage1, "autoencoder", "stage 1", which, device)


def load_stage2(run: Run, device: torch.device, which: str = "best") -> TrainedStage:
    """The prior of a run; its averaged weights where they are kept."""
    return _load(run.stage2, "prior", "stage 2", which, device)


def _load(folder: Path, component: str, title: str, which: str, device: torch.device) -> TrainedStage:
    step_folder = find_checkpoint(folder, which) or find_checkpoint(folder, "latest")  # stopped before a validation
    if step_folder is None:
        raise InputError(f"{folder}: expected a trained {title}, found no checkpoint; train it first: "
                         f"make {title.replace(' ', '')}")
    config = read_config(folder / "config.yaml")
    if component not in config:
        raise InputError(f"{folder / 'config.yaml'}: expected the key {component!r}, found none")
    module = build(config[component], trusted_only=True)
    averaged = step_folder / "ema.safetensors"
    weights = averaged if averaged.exists() else step_folder / "model.safetensors"
    load_weights(module, read_weights(weights), weights)
    return TrainedStage(module.to(device).eval().requires_grad_(False), config, read_state(step_folder), step_folder)


def stage1_hash(stage: TrainedStage) -> str:
    """SHA-256 over the sorted (name, dtype, shape, bytes) of the weights in use and the autoencoder's configuration."""
    digest = hashlib.sha256(json.dumps(stage.config["autoencoder"], sort_keys=True).encode())
    for name, tensor in sorted(stage.module.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_same_stage1(expected: str, stage1: TrainedStage, what: Path) -> None:
    """Raises InputError unless `what` (codes, a prior) was made with this very stage 1."""
    found = stage1_hash(stage1)
    if expected != found:
        raise InputError(f"{what}: expected to be used with the stage 1 it was made with ({expected[:12]}), found "
                         f"{stage1.step_folder} ({found[:12]}); extract the codes and train stage 2 again")


def check_same_data(run: Run, stage1: TrainedStage, data: Data, data_config: dict) -> None:
    """Raises InputError where the run was trained on other data, or another split of them, than those given now."""
    example, path = stage1.config["example"], run.stage1 / "config.yaml"
    found = {"data": data.name, "shape": list(data.shape), "classes": [list(names) for names in data.classes]}
    if data.kind == "codes":
        found["parent"] = {"stage1_hash": data.parent_hash, "extraction": data.extraction}
    if data.kind == "video":
        found["action_names"] = list(data.action_names)
    difference = first_difference({"data": stage1.config["data"]}, {"data": data_config}) or first_difference(
        {key: example[key] for key in found}, found)
    if difference:
        key, there, here = difference
        raise InputError(f"{path}: {key}: expected {str(there)[:80]} as in training, found {str(here)[:80]} now")


def parent_of(run: Run, stage1: TrainedStage) -> Run | None:
    """The run whose codes a run was trained on, where it was then; None for a run on pictures or sounds."""
    if stage1.config["example"]["kind"] != "codes":
        return None
    if run.published_parent.is_dir():
        return Run(run.published_parent)
    parent = Run(Path(stage1.config["data"].get("run", run.published_parent)))
    if not parent.stage1.is_dir():
        raise InputError(f"{run.stage1 / 'config.yaml'}: data.run: expected the run whose codes {run.root} was trained "
                         f"on, found no stage 1 in {parent.root}; if it moved, make stage1 with data.run=RUN notes it")
    return parent


def load_parents(run: Run, stage1: TrainedStage, device: torch.device, parent: Run | None = None) -> list[TrainedStage]:
    """The stages 1 between a run on codes and pixels: of its parent, of that one's parent, ...; [] for any other run.

    `parent`: where that is, if not where it was in training. Raises InputError where a stage is not the one that the
    run above it was trained on."""
    stages, parent = [], parent or parent_of(run, stage1)
    while parent is not None:
        below = load_stage1(parent, device)
        expected, found = stage1.config["example"]["parent"]["stage1_hash"], stage1_hash(below)
        if expected != found:
            raise InputError(f"{run.stage1}: expected the parent it was trained on ({expected[:12]}), found "
                             f"{below.step_folder} ({found[:12]}): {parent.root} was trained anew; extract its codes "
                             f"and train {run.root} on them")
        stages.append(below)
        run, stage1, parent = parent, below, parent_of(parent, below)
    return stages


def chosen_run(named: Path | None, runs_dir: Path) -> Run:
    """The run that is named; else the one whose stage 2 was trained last, as its state says; else the project's own."""
    if named:
        return Run(named)
    trained = []
    for pointer in sorted(runs_dir.glob("*/stage2/checkpoints/best")):
        step_folder = find_checkpoint(pointer.parent.parent, "best")
        trained.append((read_state(step_folder).get("trained_at", ""), pointer.parents[2]))
    if trained:
        return Run(max(trained)[1])
    if (PRETRAINED / "mnist").is_dir():
        return Run(PRETRAINED / "mnist")
    raise InputError(f"--run: expected a run, found no trained stage 2 in {runs_dir}; train one: make demo")
