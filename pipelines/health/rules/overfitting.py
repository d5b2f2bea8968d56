"""Validation stays above its best at several validations in a row, while training goes on falling.

Three validations in a row, each 3 % above the best: one or two may be chance.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.health.evidence import Facts, Row
from pipelines.health.finding import Change, Finding, change
from pipelines.health.series import Series, series

ORDER, STAGES = 8, ("stage1", "stage2")
RISE, VALIDATIONS = 0.03, 3
MOST_DROPOUT = 0.5


def find(rows: Sequence[Row], facts: Facts, settings: Mapping[str, Any]) -> Finding | None:
    scores = series(rows, facts, "validation", facts.criterion)
    if len(scores) <= VALIDATIONS:
        return None
    best_step, best = min(scores, key=lambda score: score[1])
    latest = scores[-VALIDATIONS:]
    if best_step >= latest[0][0] or not all(score > best + RISE * abs(best) for _, score in latest):
        return None
    training, steps = series(rows, facts, "train", facts.criterion), [step for step, _ in scores]
    before, after = (training_before(training, steps, step) for step in (best_step, steps[-1]))
    if not before or not after or statistics.median(after) >= statistics.median(before):
        return None
    last = latest[-1][0]
    return Finding(
        f"step {last}: validation {facts.criterion} rose from {best:.4g} at step {best_step} to {latest[-1][1]:.4g}, "
        f"{last - best_step} updates after its best, while training fell from {statistics.median(before):.4g} to "
        f"{statistics.median(after):.4g}",
        f"the model memorises its training data; the checkpoint of step {best_step} is kept as best",
        changes(facts, settings, best_step, last),
        "more data" if facts.stage == "stage2" else "more data or augmentation (data.flip, data.pad)")


def changes(facts: Facts, settings: Mapping[str, Any], best_step: int, last: int) -> tuple[Change, ...]:
    """Fewer updates; stopping by itself; what makes a model memorise less."""
    found = [Change(f"{facts.stage}.steps", best_step, settings.get(f"{facts.stage}.steps", last))]
    if not settings.get(f"{facts.stage}.patience"):
        found.append(change(settings, f"{facts.stage}.patience", 3))
    if facts.stage == "stage2" and (dropout := settings.get("prior.dropout", 0.0)) < MOST_DROPOUT:
        found.append(Change("prior.dropout", min(MOST_DROPOUT, dropout + 0.2), settings.get("prior.dropout")))
    if facts.stage == "stage1" and isinstance(hidden := settings.get("autoencoder.encoder.hidden"), int):
        found.append(change(settings, "autoencoder.encoder.hidden", max(1, hidden // 2)))
    return tuple(found)


def training_before(training: Series, validated: list[int], step: int) -> list[float]:
    """The training's scores between the validation at `step` and the one before it."""
    earlier = max((other for other in validated if other < step), default=0)
    return [value for own, value in training if earlier < own <= step]
