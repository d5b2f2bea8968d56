"""The codes do not follow the encodings: the squared distance between them is more than the encodings' own variance.

A single code at the mean of the encodings has exactly 1, so that any codebook above it lies elsewhere. The healthy runs
have from 0.2 to 0.5.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.health.evidence import Facts, Row
from pipelines.health.finding import Change, Finding, change
from pipelines.health.series import last_quarter, series

ORDER, STAGES = 3, ("stage1",)
MOST = 1.0
ROWS = 8
SLOW = 0.999  # of the moving averages: 1,000 updates
WEAK = 0.1  # of the codebook's own loss, which the paper gives 1
EVEN = -1.0  # rate_weight: the healthy runs go down to -0.26
BOTTLENECK = "autoencoder.bottleneck"


def find(rows: Sequence[Row], facts: Facts, settings: Mapping[str, Any]) -> Finding | None:
    errors = series(rows, facts, "train", "z_q nmse")
    if len(errors) < ROWS or last_quarter(errors) <= MOST:
        return None
    changes: list[Change] = []
    if (decay := settings.get(f"{BOTTLENECK}.decay") or 0) >= SLOW and f"{BOTTLENECK}.codebook_weight" not in settings:
        changes.append(Change(f"{BOTTLENECK}.decay", 0.99, str(decay)))
    if (weight := settings.get(f"{BOTTLENECK}.codebook_weight")) is not None and weight < WEAK:
        changes.append(change(settings, f"{BOTTLENECK}.codebook_weight", 1.0))
    if (weight := settings.get(f"{BOTTLENECK}.rate_weight") or 0) < EVEN:
        changes.append(change(settings, f"{BOTTLENECK}.rate_weight", -0.25))
    if not changes and (lr := settings.get("stage1.lr")):
        changes.append(change(settings, "stage1.lr", lr / 3))
    return Finding(
        f"step {errors[-1][0]}: the squared distance of the encodings from their codes is {last_quarter(errors):.3g} of "
        "the encodings' variance, and one code at their mean has 1",
        "the codebook lags behind the encodings, so the decoder reads vectors that say little of the data",
        tuple(changes), "" if changes else f"lower stage1.lr or {BOTTLENECK}.decay")
