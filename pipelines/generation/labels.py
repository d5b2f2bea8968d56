"""Labels of samples: which labels a run is conditioned on, and how those of a sample are chosen."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pipelines.files.errors import InputError
from pipelines.runs.example import CodeSpec, Example
from pipelines.runs.store import TrainedStage


def conditioning_labels(stage1: TrainedStage, stage2: TrainedStage) -> list[str]:
    """The labels that either stage is conditioned on, in the data's order."""
    used = {*stage2.condition_on, *stage1.condition_on}
    return [name for name in stage2.codes.label_names if name in used]


def choose_labels(spec: CodeSpec, names: list[str], wanted: Mapping[str, str], draws: Tensor) -> Tensor | None:
    """Labels (n, L) int64 of samples: the wanted classes, and others drawn from the training counts.

    names: which labels, L of them. draws: float64 (n, L) in [0, 1).
    Raises InputError for an unknown label or class, or a class without training data."""
    for name in wanted:
        if name not in names:
            raise InputError(f"label: expected one of the labels {names} of this run, found {name!r}")
    columns = []
    for column, name in enumerate(names):
        index = spec.label_names.index(name)
        classes, counts = spec.classes[index], np.asarray(spec.label_counts[index], dtype=np.float64)
        if name in wanted:
            chosen = class_number(f"label {name}", wanted[name], classes)
            if counts[chosen] == 0:
                raise InputError(f"label {name}: expected a class that the prior was trained on, found "
                                 f"{wanted[name]!r}, which had no training examples")
            columns.append(torch.full((len(draws),), chosen))
        else:
            edges = np.cumsum(counts)
            drawn = np.searchsorted(edges, draws[:, column].numpy() * edges[-1], side="right")
            columns.append(torch.from_numpy(drawn))
    return torch.stack(columns, 1).long() if columns else None


def decoder_labels(stage1: TrainedStage, wanted: Mapping[str, str], count: int) -> Tensor | None:
    """Labels (count, L) int64 for a decoder that is conditioned on some, all of which have to be given; else None."""
    for name in wanted:
        if name not in stage1.condition_on:
            raise InputError(f"label: expected one of the labels {list(stage1.condition_on)} that the decoder is "
                             f"conditioned on, found {name!r}")
    numbers = []
    for name in stage1.condition_on:
        classes = classes_of(stage1.example, name)
        if name not in wanted:
            raise InputError(f"label: expected {name}=CLASS, one of {shown(classes)}, found none")
        numbers.append(class_number(f"label {name}", wanted[name], classes))
    return torch.tensor([numbers] * count) if numbers else None


def parse_labels(pairs: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """["digit=7"] -> {"digit": "7"}; the name may be left out where there is just one label."""
    wanted = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals and len(names) == 1:
            name, value = names[0], pair
        elif not equals:
            raise InputError(f"label: expected NAME=CLASS with a name among {list(names)}, found {pair!r}")
        wanted[name] = value
    return wanted


def classes_of(example: Example, name: str) -> tuple[str, ...]:
    """The names of a label's classes."""
    return example.classes[example.label_names.index(name)]


def class_number(key: str, wanted: object, classes: Sequence[str]) -> int:
    """The place of a class among those of a label. Raises InputError at `key` for an unknown one."""
    if str(wanted) not in classes:
        raise InputError(f"{key}: expected one of {shown(classes)}, found {wanted!r}")
    return list(classes).index(str(wanted))


def shown(names: Sequence[str]) -> str:
    """Up to twelve names, for a message."""
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
