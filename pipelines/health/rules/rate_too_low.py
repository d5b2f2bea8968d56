"""Posterior collapse: the latents of an item carry less than one bit, so that the decoder does without them.

Of latents with a weighted rate (VAE, dVAE). The KL to the prior bounds what latents can say of an item; one bit tells
two items apart.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.health.evidence import End, Facts, Row
from pipelines.health.finding import Finding, change
from pipelines.health.rules.rate_too_high import rate_bits

ORDER, STAGES = 2, ("stage1",)
LEAST_BITS = 1.0


def find(rows: Sequence[Row], facts: Facts, settings: Mapping[str, Any], shape: tuple[int, ...], end: End
         ) -> Finding | None:
    several = settings.get("autoencoder.bottleneck.estimator") == "vimco"  # its bound is no sum
    beta = settings.get("autoencoder.beta") or 0
    if facts.criterion != "bound" or several or (found := rate_bits(rows, facts, beta, math.prod(shape))) is None:
        return None
    if found >= LEAST_BITS:
        return None
    changes = [change(settings, "autoencoder.beta", beta / 10)]
    if not settings.get("autoencoder.beta_warmup_steps"):
        changes.append(change(settings, "autoencoder.beta_warmup_steps", max(1, end.step // 4)))
    return Finding(f"step {end.step}: the latents of an item carry {max(found, 0):.2g} bits, expected 1 at least",
                   "posterior collapse: the rate is so dear that the decoder does without latents", tuple(changes))
