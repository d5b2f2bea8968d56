"""New codes from a trained prior, and their way down through the decoder: what sample.py and evaluate.py share.

Every sample has a random generator of its own, made from (seed, its number): sample 7 is the same among 8 as among 64,
in whatever batches they are drawn.
"""

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pipelines.errors import InputError
from pipelines.runs import Run, TrainedStage, check_same_stage1, load_stage1, load_stage2
from stage2_prior.sampling import sample


def load_chain(run: Run, device: torch.device) -> tuple[TrainedStage, TrainedStage]:
    """Both stages of a run. Raises InputError where the prior was fitted to the codes of another stage 1."""
    stage2, stage1 = load_stage2(run, device), load_stage1(run, device)
    check_same_stage1(stage2.state.get("stage1_hash", "none"), stage1, run.stage2)
    return stage1, stage2


def choose_labels(stage2: TrainedStage, wanted: dict[str, str], draws: Tensor) -> Tensor | None:
    """Labels (n, L) int64 of the samples: those that are wanted by name, the others drawn from the training counts.

    draws: float64 (n, L) in [0, 1). Raises InputError for an unknown label or class, or a class without training data.
    """
    names, codes = stage2.config["condition_on"], stage2.config["codes"]
    for name in wanted:
        if name not in names:
            raise InputError(f"--label: expected one of the labels {names} of this prior, found {name!r}")
    columns = []
    for column, name in enumerate(names):
        index = codes["label_names"].index(name)
        classes, counts = codes["classes"][index], np.asarray(codes["label_counts"][index], dtype=np.float64)
        if name in wanted:
            if wanted[name] not in classes:
                shown = ", ".join(classes[:12]) + (", ..." if len(classes) > 12 else "")
                raise InputError(f"--label {name}: expected one of {shown}, found {wanted[name]!r}")
            chosen = classes.index(wanted[name])
            if counts[chosen] == 0:
                raise InputError(f"--label {name}: expected a class that the prior was trained on, found "
                                 f"{wanted[name]!r}, which had no training examples")
            columns.append(torch.full((len(draws),), chosen))
        else:
            edges = np.cumsum(counts)
            drawn = np.searchsorted(edges, draws[:, column].numpy() * edges[-1], side="right")
            columns.append(torch.from_numpy(drawn))
    return torch.stack(columns, 1).long() if columns else None


def sample_uniforms(stage2: TrainedStage, seed: int, numbers: range) -> tuple[Tensor, Tensor]:
    """The random numbers of samples `numbers`: for labels float64 (n, L), for codes float64 (n, *grid[, g])."""
    codes = stage2.config["codes"]
    shape = list(codes["grid"]) + ([codes["num_codebooks"]] if codes["num_codebooks"] > 1 else [])
    labels, uniforms = [], []
    for number in numbers:
        generator = np.random.Generator(np.random.Philox(key=[seed, number]))
        labels.append(torch.from_numpy(generator.random(len(stage2.config["condition_on"]))))
        uniforms.append(torch.from_numpy(generator.random(shape)))
    return torch.stack(labels), torch.stack(uniforms)


def generate(stage1: TrainedStage, stage2: TrainedStage, count: int, seed: int, batch_size: int, device: torch.device,
             wanted: dict[str, str] | None = None, known: Tensor | None = None, **truncation):
    """`count` samples in data units, their codes and their labels: (x, codes, labels or None), on the CPU.

    known: int64 (count, *grid[, g]), -1 where free; `truncation`: temperature, top_k, top_p. Shows a progress bar."""
    images, grids, labels = [], [], []
    with tqdm(total=count, desc="sampling", unit="sample", leave=False, dynamic_ncols=True, disable=None,
              bar_format="{l_bar}{bar}| {n:.0f}/{total} [{elapsed}<{remaining}]") as bar:
        for start in range(0, count, batch_size):
            numbers = range(start, min(start + batch_size, count))

            def progress(done: int, total: int) -> None:
                bar.update(numbers.start + len(numbers) * done / total - bar.n)

            draws, uniforms = sample_uniforms(stage2, seed, numbers)
            chosen = choose_labels(stage2, wanted or {}, draws)
            moved = None if chosen is None else chosen.to(device)
            fixed = None if known is None else known[numbers.start : numbers.stop].to(device)
            try:
                codes = sample(stage2.module, uniforms.to(device), labels=moved, known=fixed, progress=progress, **truncation)
            except ValueError as error:
                raise InputError(f"sampling: {error}") from None
            with torch.inference_mode():
                images.append(stage1.module.decode(codes).cpu())
            grids.append(codes.cpu())
            labels.append(chosen)
    return torch.cat(images), torch.cat(grids), None if labels[0] is None else torch.cat(labels)
