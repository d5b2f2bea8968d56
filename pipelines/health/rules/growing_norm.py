"""The norm of the encodings grows by a quarter or more from each fourth of the training to the next, or has grown to
twenty times what it was at the start.

Three times in a row a quarter is a factor of two, and what settles grows less and less; the learning rate that falls to
zero ends any growth, hence the second figure. In the healthy runs the norm at most triples. The commitment term is what
holds encodings near their codes. FSQ and BSQ scale encodings first, so that their norm means nothing there.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.health.evidence import Facts, Row
from pipelines.health.finding import Change, Finding, change
from pipelines.health.series import highest_rate, series

ORDER, STAGES = 3, ("stage1",)
GROWTH = 1.25
FAR = 20.0
SPANS, ROWS_PER_SPAN = 4, 5  # of the training's rows so far
SCALED = "autoencoder.bottleneck.levels", "autoencoder.bottleneck.num_bits"
COMMITMENT = "autoencoder.bottleneck.commitment_weight"
USUAL = 0.25  # the paper's


def find(rows: Sequence[Row], facts: Facts, settings: Mapping[str, Any]) -> Finding | None:
    norms = series(rows, facts, "train", "z_e norm")
    size = len(norms) // SPANS
    if size < ROWS_PER_SPAN or any(key in settings for key in SCALED):
        return None
    latest = norms[-SPANS * size :]
    medians = [statistics.median(norm for _, norm in latest[start : start + size])
               for start in range(0, len(latest), size)]
    grows = all(later >= GROWTH * earlier > 0 for earlier, later in zip(medians, medians[1:]))
    if not grows and not medians[-1] >= FAR * norms[0][1] > 0:
        return None
    weight, lr = settings.get(COMMITMENT), settings.get("stage1.lr") or highest_rate(rows)
    changes = [] if weight is None else [change(settings, COMMITMENT, max(USUAL, 4 * weight))]
    if lr:
        changes.append(Change("stage1.lr", lr / 3, lr))
    return Finding(
        f"step {norms[-1][0]}: the norm of the encodings grew from {norms[0][1]:.3g} at step {norms[0][0]} to "
        f"{medians[-1]:.3g}{' and goes on' if grows else ''}",
        "encodings run away from their codes, which cannot follow", tuple(changes),
        f"raise {COMMITMENT}" if weight is None else "")
