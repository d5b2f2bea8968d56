"""The codes do not follow the encodings: they lie away from the means of the encodings that choose them, by 0.15 of the
encodings' variance or more in the last quarter of the training.

Where the codebook has converged that is 0, whatever the number of codes. The healthy runs end below 0.01, moving
averages over 10,000 updates at 0.23 after 200. Codebooks learned by gradient, which Adam moves by no more than about
the learning rate in each dimension, are at 0.4 after 200 updates and at 0.03 after 1,400.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.health.evidence import End, Facts, Row
from pipelines.health.finding import Change, Finding, change
from pipelines.health.series import last_quarter, series

ORDER, STAGES = 3, ("stage1",)
MOST = 0.15
ROWS = 8
SLOW = 0.999  # of the moving averages: 1,000 updates
BOTTLENECK = "autoencoder.bottleneck"


def find(rows: Sequence[Row], facts: Facts, settings: Mapping[str, Any], end: End) -> Finding | None:
    lags = series(rows, facts, "train", "codebook lag")
    if len(lags) < ROWS or last_quarter(lags) < MOST:
        return None
    changes: list[Change] = []
    if f"{BOTTLENECK}.codebook_weight" in settings:  # learned by gradient
        changes += [Change("autoencoder/bottleneck", "ema"),
                    Change("stage1.steps", 4 * end.step, settings.get("stage1.steps", end.step))]
    elif (settings.get(f"{BOTTLENECK}.decay") or 0) >= SLOW:
        changes.append(change(settings, f"{BOTTLENECK}.decay", 0.99))
    if lr := settings.get("stage1.lr"):
        changes.append(change(settings, "stage1.lr", lr / 3))
    return Finding(
        f"step {end.step}: the squared distance of the codes from the means of their encodings is "
        f"{last_quarter(lags):.3g} of the encodings' variance, expected less than {MOST:.3g}",
        "the codebook lags behind the encodings, so the decoder reads other vectors than the encoder means",
        tuple(changes), f"raise {BOTTLENECK}.commitment_weight, which slows the encodings down")
