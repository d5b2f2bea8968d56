"""Codes closer together than the rounding of what is compared with them.

Under bfloat16 autocast (8 bits) encodings are rounded by |e| 2^-8 / sqrt(12), about a thousandth of their norm; weights
stored in 16 bits may make two codes equal. A finding where the median distance of a code to its nearest neighbour is
below four times that rounding, or a twentieth of the codes in use equal another exactly. In the healthy runs the
distance is from 280 to 380 times the rounding, and no two codes are equal.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

from pipelines.health.evidence import Codebook
from pipelines.health.finding import Finding, change

ORDER, STAGES = 5, ("stage1",)
ROUNDING = 2**-8 / math.sqrt(12)  # of a value, relative
TIMES = 4
EQUAL = 0.05
LOOKED_AT = 2048  # codes of each codebook: distances of all pairs


def find(codebook: Codebook, settings: Mapping[str, Any]) -> Finding | None:
    for vectors, used in zip(codebook.vectors.float(), codebook.used):
        vectors = vectors[used][:LOOKED_AT]
        if len(vectors) < 2:
            continue
        distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distances.fill_diagonal_(math.inf).min(1).values
        equal = float((nearest == 0).double().mean())
        if equal > EQUAL:
            return Finding(f"{equal:.0%} of the codes in use equal another one exactly",
                           "rounding made different codes the same", (change(settings, "stage1.precision", "float32"),),
                           "weights that are stored in full precision")
        rounding = ROUNDING * float(vectors.norm(dim=1).median())
        if settings.get("stage1.precision") in ("auto", "bfloat16") and float(nearest.median()) < TIMES * rounding:
            return Finding(
                f"codes lie {float(nearest.median()):.2g} apart, and bfloat16 rounds encodings of their norm by "
                f"{rounding:.2g}", "which code is nearest is decided by rounding",
                (change(settings, "stage1.precision", "float32"),))
    return None
