"""The training itself lost at least half of what it had gained: its figure on training data at least doubled again.

Medians of eighths of the training. A weight of the rate that still grows may make reconstructions worse, so only steps
after it has settled count; in the healthy runs it rises by at most a quarter.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.health.evidence import Facts, Row
from pipelines.health.finding import Change, Finding, change
from pipelines.health.series import highest_rate, series

ORDER, STAGES = 5, ("stage1", "stage2")
SPANS, ROWS_PER_SPAN = 8, 3
LOST, RATIO = 0.5, 2.0


def find(rows: Sequence[Row], facts: Facts, settings: Mapping[str, Any]) -> Finding | None:
    name = "bits" if facts.stage == "stage2" else "objective"
    values = series(rows, facts, "train", name)
    size = len(values) // SPANS
    if size < ROWS_PER_SPAN:
        return None
    spans = [values[start : start + size] for start in range(0, SPANS * size, size)]
    medians = [statistics.median(value for _, value in span) for span in spans]
    best = min(range(SPANS), key=medians.__getitem__)
    gained, lost = values[0][1] - medians[best], medians[-1] - medians[best]
    if gained <= 0 or lost < LOST * gained or 0 < medians[best] and medians[-1] < RATIO * medians[best]:
        return None
    lr = settings.get(f"{facts.stage}.lr") or highest_rate(rows)
    changes = [] if lr is None else [Change(f"{facts.stage}.lr", lr / 10, lr)]
    if not settings.get(f"{facts.stage}.grad_clip"):
        changes.append(change(settings, f"{facts.stage}.grad_clip", 1.0))
    return Finding(
        f"training {name} fell from {values[0][1]:.4g} to {medians[best]:.4g} by step {spans[best][-1][0]}, and rose "
        f"to {medians[-1]:.4g} by step {spans[-1][-1][0]}",
        "the training does not settle: steps are too large", tuple(changes))
