"""What rules read from the rows of a training."""

import statistics
from collections.abc import Sequence

from pipelines.health.evidence import Facts, Row

Series = list[tuple[int, float]]  # (step, value), by step


def series(rows: Sequence[Row], facts: Facts, split: str, name: str) -> Series:
    """The values of a figure from the step on from which they are comparable; those that were no numbers left out."""
    return [(row["step"], row[name]) for row in rows
            if row["split"] == split and row["step"] >= facts.settled_from and row.get(name) is not None]


def last_quarter(values: Series) -> float:
    """The median over the last quarter of the steps that have a value."""
    return statistics.median(value for _, value in values[-max(1, len(values) // 4) :])


def highest_rate(rows: Sequence[Row]) -> float | None:
    """The highest learning rate so far."""
    return max((row["lr"] for row in rows if row.get("lr") is not None), default=None)
