"""A run made small enough to ship: weights rounded to half precision, without optimiser, codes and logs.

    python pipelines/publish.py --run runs/mnist --out runs/mnist_half         # stage 1 only: the codes are another's
    make extract-codes stage2 evaluate EXPERIMENT=mnist ARGS="run=mnist_half"
    python pipelines/publish.py --run runs/mnist_half --out pretrained/mnist   # stage 1 is as before: stage 2 comes along

A stage 1 is rounded before its codes are extracted, so that codes, prior and decoder belong together. The prior's best
(averaged) weights are rounded last; metrics.json is that of the run before. To measure the published run itself, extract
its codes (they are the same), evaluate it, and remove its codes again. Of a run on the codes of another one, that
parent's stage 1 comes along as parent/: it has to be rounded already, or its codes would not be those the run knows.
"""

import argparse
import json
from pathlib import Path

import torch
import yaml

from pipelines.files.atomic import write_atomically
from pipelines.files.errors import InputError, one_line_errors
from pipelines.files.formats import FORMAT
from pipelines.runs.figures import read_figures
from pipelines.runs.store import Run, TrainedStage, load_parents, load_stage1, load_stage2, stage1_hash
from pipelines.training.checkpoint import write_parts

HALF_LARGEST = torch.finfo(torch.float16).max


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Writes a run with half-precision weights and without what training needs.")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    source, target, cpu = Run(arguments.run), Run(arguments.out), torch.device("cpu")
    if target.root.exists():
        raise InputError(f"--out: expected a folder that does not exist yet, found {target.root}")
    stage1 = load_stage1(source, cpu)
    parents = load_parents(source, stage1, cpu)
    for parent in parents:
        before = stage1_hash(parent)
        round_weights(parent.module)
        if stage1_hash(parent) != before:
            raise InputError("--run: expected a run on the codes of a published run, found one on those of "
                             f"{parent.step_folder.parents[2]}; publish that, extract its codes and train on them")
    original = stage1_hash(stage1)
    round_weights(stage1.module)
    write_stage(target.stage1, stage1)
    home = target
    for parent in parents:
        home = Run(home.published_parent)
        write_stage(home.stage1, parent)
    kept = stage1_hash(stage1) == original
    if kept and (source.stage2 / "checkpoints" / "best").exists():
        stage2 = load_stage2(source, cpu)
        round_weights(stage2.module)
        write_stage(target.stage2, stage2)
        if (source.root / "metrics.json").exists():
            figures = {"format": FORMAT} | read_figures(source) | {"run": target.root.name}
            write_atomically(target.root / "metrics.json", (json.dumps(figures, indent=1) + "\n").encode())
        print(f"published with both stages: {target.root}")
    else:
        why = "it had no stage 2" if kept else "rounding changed it: extract its codes and train stage 2 on them"
        print(f"published stage 1 alone ({why}): {target.root}")
    size = sum(path.stat().st_size for path in target.root.rglob("*") if path.is_file())
    print(f"{size / 1e6:.2f} MB")


@torch.no_grad()
def round_weights(module: torch.nn.Module) -> None:
    """Every floating tensor to the nearest half-precision value, kept in its own type."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and tensor.numel() > 1:  # single numbers, an error's average say, stay exact
            if tensor.abs().max() > HALF_LARGEST:
                raise InputError(f"{name}: expected values up to {HALF_LARGEST}, found {tensor.abs().max():.3g}")
            tensor.copy_(tensor.half())


def write_stage(folder: Path, stage: TrainedStage) -> None:
    """Configuration, state and rounded weights, as one checkpoint that `best` names."""
    checkpoint = folder / "checkpoints" / stage.step_folder.name
    checkpoint.mkdir(parents=True)
    weights = {name: tensor.half() if tensor.is_floating_point() and tensor.numel() > 1 else tensor
               for name, tensor in stage.module.state_dict().items()}
    write_parts(checkpoint, stage.state, weights)
    write_atomically(folder / "checkpoints" / "best", f"{checkpoint.name}\n".encode())
    config = dict(stage.saved)  # in its own format, and so with its own hash
    if "data" in config:  # where they lie on this machine is nobody's business
        config["data"] = {key: value for key, value in config["data"].items() if key not in ("root", "cache", "run")}
    write_atomically(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False).encode())


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
