"""What a metric of reconstructions is. Files of this folder, and of `metrics/` in folders that NDR_PLUGINS names, are
found by looking: each class that derives from `Metric` is measured on the kinds of data that it names.

Axes: n items of a batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """Originals and their reconstructions, in data units, on the device that the run is evaluated on."""

    real: Tensor  # (n, *shape)
    made: Tensor  # (n, *shape)
    lengths: Tensor  # (n,) int64, on the CPU: how much of the first axis is real
    variance: float | None  # one scalar over the training data; None where it has no meaning
    facts: Mapping[str, Any] = field(default_factory=dict)  # of the kind of data: sample_rate_hz, hop_length


class Metric(ABC):
    """Figures of reconstructions. `measure` gives one value per item, `summary` makes a figure of all of them."""

    kinds: tuple[str, ...]  # kinds of data that it is measured on
    rows: tuple[tuple[str, str, str], ...]  # of the printed table: key of the figure, title, format

    @abstractmethod
    def measure(self, pairs: Pairs) -> dict[str, Tensor]:
        """{key: float64 (n,)}, one value per item; NaN where an item has none."""

    def summary(self, values: dict[str, Tensor]) -> dict[str, float | None]:
        """All items' values -> the figures: their means, items without a value left out, None where none has one."""
        return {key: number(own.nanmean()) for key, own in values.items()}


def number(value: Tensor) -> float | None:
    """() -> a float; None for NaN."""
    return None if bool(torch.isnan(value)) else float(value)
