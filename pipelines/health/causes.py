"""Causes that several findings share."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.health.evidence import Row
from pipelines.health.finding import Change

FAST, USUAL = 1e-2, 1e-3  # learning rates of Adam: above every experiment of this project (at most 5e-3); a common one
PATH = 0.01  # Adam moves a weight by about lr a step, and weights of 100 inputs are about 0.1


def learning_rate(rows: Sequence[Row], settings: Mapping[str, Any], stage: str) -> list[Change]:
    """A learning rate that is too high to settle, or too low to have moved the weights by a tenth of their size."""
    rates = [(row["step"], row["lr"]) for row in rows if row["split"] == "train" and row.get("lr") is not None]
    if not rates:
        return []
    highest = max(rate for _, rate in rates)
    starts = [0, *(step for step, _ in rates)]
    path = sum(rate * (step - start) for start, (step, rate) in zip(starts, rates))
    lr = settings.get(f"{stage}.lr", highest)
    if highest >= FAST:
        return [Change(f"{stage}.lr", min(USUAL, highest / 10), lr)]
    if path < PATH:
        return [Change(f"{stage}.lr", USUAL, lr)] if lr < USUAL / 10 else [
            Change(f"{stage}.steps", 10 * rates[-1][0], settings.get(f"{stage}.steps", rates[-1][0]))]
    return []
