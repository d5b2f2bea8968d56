"""Labels of samples: which ones a run is conditioned on, how they are given on the command line or drawn."""

import numpy as np
import torch
from torch import Tensor

from pipelines.files.errors import InputError
from pipelines.runs.store import TrainedStage


def told_names(stage1: TrainedStage, stage2: TrainedStage) -> list[str]:
    """The labels that either stage is told, in the data's order."""
    told = {*stage2.condition_on, *stage1.condition_on}
    return [name for name in stage2.config["codes"]["label_names"] if name in told]


def choose_labels(codes: dict, names: list[str], wanted: dict[str, str], draws: Tensor) -> Tensor | None:
    """Labels (n, L) int64 of the samples: those that are wanted by name, the others drawn from the training counts.

    codes: of the prior's configuration. names: which labels, L of them. draws: float64 (n, L) in [0, 1).
    Raises InputError for an unknown label or class, or a class without training data."""
    for name in wanted:
        if name not in names:
            raise InputError(f"--label: expected one of the labels {names} of this run, found {name!r}")
    columns = []
    for column, name in enumerate(names):
        index = codes["label_names"].index(name)
        classes, counts = codes["classes"][index], np.asarray(codes["label_counts"][index], dtype=np.float64)
        if name in wanted:
            chosen = class_number(f"--label {name}", wanted[name], classes)
            if counts[chosen] == 0:
                raise InputError(f"--label {name}: expected a class that the prior was trained on, found "
                                 f"{wanted[name]!r}, which had no training examples")
            columns.append(torch.full((len(draws),), chosen))
        else:
            edges = np.cumsum(counts)
            drawn = np.searchsorted(edges, draws[:, column].numpy() * edges[-1], side="right")
            columns.append(torch.from_numpy(drawn))
    return torch.stack(columns, 1).long() if columns else None


def parse_labels(pairs: list[str], names: list[str]) -> dict[str, str]:
    """["digit=7"] -> {"digit": "7"}; the name may be left out where the prior has just one label."""
    wanted = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals and len(names) == 1:
            name, value = names[0], pair
        elif not equals:
            raise InputError(f"--label: expected NAME=CLASS with a name among {names}, found {pair!r}")
        wanted[name] = value
    return wanted


def class_number(key: str, wanted: str, classes: list[str]) -> int:
    """The place of a class among those of a label. Raises InputError at `key` for one that is not there."""
    if wanted not in classes:
        shown = ", ".join(classes[:12]) + (", ..." if len(classes) > 12 else "")
        raise InputError(f"{key}: expected one of {shown}, found {wanted!r}")
    return classes.index(wanted)
