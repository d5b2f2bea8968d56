"""The reconstructions are no better than the mean of the data: the objective is at the variance.

With a Gaussian likelihood of given variance the objective is the squared error over that variance, so that the mean of
all values has exactly 1. The average image, which a decoder can draw without codes, has 0.83 on the embedded digits.
The healthy runs have from 0.04 to 0.12.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.health.causes import learning_rate
from pipelines.health.evidence import End, Facts, Row
from pipelines.health.finding import Change, Finding, change
from pipelines.health.series import series

ORDER, STAGES = 4, ("stage1",)
LEAST = 0.8  # of the variance
STRONG = 5.0  # commitment_weight: the paper found no difference from 0.1 to 2
COMMITMENT = "autoencoder.bottleneck.commitment_weight"


def find(facts: Facts, settings: Mapping[str, Any], end: End, rows: Sequence[Row] = ()) -> Finding | None:
    if not str(settings.get("autoencoder.likelihood._target_", "")).endswith(".Gaussian") or (
            settings.get("autoencoder.likelihood.sigma") != "training_mse"):
        return None
    scores = [value for _, value in series(rows, facts, "validation", "objective")]
    if not scores and facts.criterion == "objective" and end.best_score is not None:
        scores = [end.best_score]
    if not scores or min(scores) < LEAST:
        return None
    changes: list[Change] = learning_rate(rows, settings, "stage1")
    if (settings.get(COMMITMENT) or 0) > STRONG:
        changes.append(change(settings, COMMITMENT, 0.25))
    if facts.criterion == "bound" and settings.get("autoencoder.beta"):
        changes.append(change(settings, "autoencoder.beta", settings["autoencoder.beta"] / 10))
    return Finding(
        f"after {end.step} updates the squared error on validation is {min(scores):.3g} of the data's variance, and "
        "the mean of all values has 1", "nothing was learned: reconstructions are no better than one average image",
        tuple(changes) or (Change("stage1.steps", 10 * end.step, settings.get("stage1.steps", end.step)),),
        "" if changes else "look at the data")
