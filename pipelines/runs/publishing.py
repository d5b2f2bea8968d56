"""A run made small enough to ship: weights in half precision, without optimiser, codes and logs, with a model card."""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from pipelines.files.atomic import folder_made_whole, write_atomically
from pipelines.files.errors import InputError
from pipelines.files.formats import FORMAT
from pipelines.files.locks import only_writer
from pipelines.files.reading import yaml_bytes
from pipelines.runs.card import CARD
from pipelines.runs.chain import LoadedRun, load_run
from pipelines.runs.config import read_config
from pipelines.runs.figures import read_figures
from pipelines.runs.store import Run, TrainedStage, load_parents, load_stage1, load_stage2, stage1_hash
from pipelines.training.checkpoint import write_parts

HALF_LARGEST = torch.finfo(torch.float16).max


# Settings of the data that name places on this machine.
PLACES = ("root", "cache", "run")
Card = Callable[[LoadedRun], bytes]


def publish(source: Run, target: Run, card: Card) -> str:
    """Writes `target`, a folder that does not exist yet, and says in words what it holds: both stages or stage 1 alone.

    card: README.md of the published run, as it is read back. Raises InputError for an existing folder, and for a run on
    codes whose parent's weights are not yet rounded."""
    if target.root.exists():
        raise InputError(f"out: expected a folder that does not exist yet, found {target.root}")
    with folder_made_whole(target.root, "publish") as folder:
        said = _write(source, Run(folder), target.root.name)
        write_atomically(folder / CARD, card(load_run(Run(folder), torch.device("cpu"))))
        return said


def write_card(run: Run, card: Card) -> None:
    """Writes README.md of a published run anew. Raises InputError for a run that is not published."""
    check_published(run)
    with only_writer(run.root, "publish"):
        write_atomically(run.root / CARD, card(load_run(run, torch.device("cpu"))))


def check_published(run: Run) -> None:
    """Raises InputError for a run whose configurations name places on this machine, or that has optimiser states."""
    while True:
        for stage in (run.stage1, run.stage2):
            path = stage / "config.yaml"
            data = read_config(path).get("data") if path.exists() else None
            if (isinstance(data, dict) and set(PLACES) & data.keys()) or [*stage.glob("checkpoints/*/optimizer.pt")]:
                raise InputError(f"run: expected a published run, found {run.root}, as it was trained; publish it: "
                                 "publish.py --run RUN --out FOLDER")
        if not run.published_parent.is_dir():
            return
        run = Run(run.published_parent)


def _write(source: Run, target: Run, name: str) -> str:
    """Fills the folder of `target`, which will be called `name`; returns in words what it holds."""
    cpu = torch.device("cpu")
    stage1 = load_stage1(source, cpu)
    parents = load_parents(source, stage1, cpu)
    for parent in parents:
        before = stage1_hash(parent)
        round_weights(parent.module)
        if stage1_hash(parent) != before:
            raise InputError("run: expected a run on the codes of a published run, found one on those of "
                             f"{parent.step_folder.parents[2]}; publish that, extract its codes and train on them")
    original = stage1_hash(stage1)
    round_weights(stage1.module)
    write_stage(target.stage1, stage1)
    home = target
    for parent in parents:
        home = Run(home.published_parent)
        write_stage(home.stage1, parent)
    if stage1_hash(stage1) != original:
        return "stage 1 alone (rounding changed it: extract its codes and train stage 2 on them)"
    if not (source.stage2 / "checkpoints" / "best").exists():
        return "stage 1 alone (the run has no stage 2)"
    stage2 = load_stage2(source, cpu)
    round_weights(stage2.module)
    write_stage(target.stage2, stage2)
    if (source.root / "metrics.json").exists():
        figures = {"format": FORMAT} | read_figures(source) | {"run": name}
        write_atomically(target.root / "metrics.json", (json.dumps(figures, indent=1) + "\n").encode())
    return "both stages"


@torch.no_grad()
def round_weights(module: torch.nn.Module) -> None:
    """Rounds every floating-point tensor to half precision, in place; its type stays."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and tensor.numel() > 1:  # scalars, such as an average error, stay exact
            if tensor.abs().max() > HALF_LARGEST:
                raise InputError(f"{name}: expected values up to {HALF_LARGEST}, found {tensor.abs().max():.3g}")
            tensor.copy_(tensor.half())


def write_stage(folder: Path, stage: TrainedStage) -> None:
    """Writes configuration, state and rounded weights, as one checkpoint that `best` names."""
    checkpoint = folder / "checkpoints" / stage.step_folder.name
    checkpoint.mkdir(parents=True)
    weights = {name: tensor.half() if tensor.is_floating_point() and tensor.numel() > 1 else tensor
               for name, tensor in stage.module.state_dict().items()}
    write_parts(checkpoint, stage.state, weights)
    write_atomically(folder / "checkpoints" / "best", f"{checkpoint.name}\n".encode())
    config = dict(stage.saved)  # in its own format, and so with its own hash
    if "data" in config:  # paths of this machine do not belong in a published run
        config["data"] = {key: value for key, value in config["data"].items() if key not in PLACES}
    write_atomically(folder / "config.yaml", yaml_bytes(config))
