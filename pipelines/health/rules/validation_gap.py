"""At its best, validation keeps less than half of what training has gained, and is 1.5 times as high.

The healthy runs keep 0.84 of the gain or more, and are at most 1.2 times as high. Memorising costs more only after the
best validation (rule `overfitting`); here validation never follows.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.health.evidence import End, Facts, Row
from pipelines.health.finding import Change, Finding, change
from pipelines.health.series import series

ORDER, STAGES = 7, ("stage1", "stage2")
LOST, RATIO = 0.5, 1.5
FRACTION = "data.validation_fraction"


def find(rows: Sequence[Row], facts: Facts, settings: Mapping[str, Any], end: End) -> Finding | None:
    name = "bits" if facts.stage == "stage2" else "objective"  # of both splits
    training, validation = (series(rows, facts, split, name) for split in ("train", "validation"))
    if len(training) < 2 or not validation:
        return None
    step, held_out = min(validation, key=lambda score: score[1])
    near = [value for own, value in training if 0.75 * step <= own <= step] or [training[-1][1]]
    trained, first = statistics.median(near), training[0][1]
    if held_out - trained < LOST * (first - trained) or 0 < trained and held_out < RATIO * trained:
        return None
    if first <= trained:
        return None
    changes: list[Change] = []
    if (settings.get(FRACTION) or 0) > 0.5:
        changes.append(change(settings, FRACTION, 0.1))
    return Finding(
        f"step {step}: validation {name} is {held_out:.4g} at its best, where training has {trained:.4g}",
        "what was learned does not carry over to the validation split: its items differ from the training items, or "
        "these are too few", tuple(changes),
        "check that the validation items come from the same source, prepared in the same way (data.root/validation)"
        if not changes else "more training items")
