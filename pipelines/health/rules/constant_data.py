"""The data hold next to nothing: nearly all values are equal (all black, silence), or they vary by less than two of the
256 levels.

Four fifths of MNIST's pixels are black, and line drawings may reach 0.98: 0.995 is beyond both. Photographs have a
standard deviation of 64 to 69 levels, MNIST of 79.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.health.evidence import Facts, Row
from pipelines.health.finding import Change, Finding
from pipelines.health.series import last_quarter, series

ORDER, STAGES = 0, ("stage1",)
MOST_EQUAL = 0.995
LEAST_DEVIATION = 2.0  # levels


def find(facts: Facts, settings: Mapping[str, Any], rows: Sequence[Row] = ()) -> Finding | None:
    equal = series(rows, facts, "train", "equal values")
    variance = settings.get("autoencoder.likelihood.variance")
    if equal and last_quarter(equal) >= MOST_EQUAL:
        evidence = f"{last_quarter(equal):.2%} of the values of the training data are equal"
    elif isinstance(variance, int | float) and variance < LEAST_DEVIATION**2:
        deviation = math.sqrt(max(variance, 0))
        evidence = f"the values of the training data have a standard deviation of {deviation:.2g} of 256 levels"
    else:
        return None
    deep = "data.range" in settings  # images whose pixels may have more than 8 bits
    return Finding(evidence, "the data are nearly constant, all black or silent, so there is nothing to learn",
                   (Change("data.range", "auto", settings["data.range"] or "null"),) if deep else (),
                   "look at the files of data.root" if "data.root" in settings or deep else "look at the data")
