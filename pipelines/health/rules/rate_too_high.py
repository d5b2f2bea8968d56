"""The latents cost at least as many bits as the data have: 8 per value. Nothing is compressed, and sampling them is as
hard as sampling the data.

The healthy runs spend from 0.012 to 0.19 of the data's bits. With a weighted rate (VAE, dVAE) the weight is too small,
with a fixed one there are too many codes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.health.evidence import Facts, Row
from pipelines.health.finding import Finding, change
from pipelines.health.series import last_quarter, series

ORDER, STAGES = 6, ("stage1",)
BITS = 8.0  # of a value: 256 levels
BOTTLENECK = "autoencoder.bottleneck"


def find(facts: Facts, settings: Mapping[str, Any], shape: tuple[int, ...], grid: tuple[int, ...],
         rows: Sequence[Row] = ()) -> Finding | None:
    if str(settings.get("autoencoder.likelihood._target_", "")).endswith(".Codes"):
        return None  # data of fewer levels
    bits, beta = BITS * math.prod(shape), settings.get("autoencoder.beta") or 0
    if facts.criterion == "bound":
        found = rate_bits(rows, facts, beta, math.prod(shape))
        if found is None or found < bits:
            return None
        changes = [change(settings, "autoencoder.beta", 10 * beta)]
    elif facts.num_codes:
        books = settings.get(f"{BOTTLENECK}.num_codebooks") or 1
        found = math.prod(grid) * books * math.log2(facts.num_codes)
        if found < bits:
            return None
        changes = [change(settings, f"{BOTTLENECK}.num_codebooks", max(1, int(books * bits / found / 2)))] if (
            books > 1) else []
        downsamplings = settings.get("autoencoder.encoder.num_downsamplings")
        if downsamplings is not None:
            changes.append(change(settings, "autoencoder.encoder.num_downsamplings", downsamplings + 1))
    else:
        return None
    return Finding(f"an item's latents cost {found:.4g} bits, the item itself {bits:.4g}",
                   "the rate is too high: nothing is compressed, so a prior has as much to learn as without latents",
                   tuple(changes), "" if changes else "fewer codes or positions")


def rate_bits(rows: Sequence[Row], facts: Facts, beta: float, dimensions: int) -> float | None:
    """Bits of an item's latents in the last quarter of the training, from its loss: objective + beta rate / dimensions
    + auxiliary. Validation has them for a VAE only: it chooses the codes of a dVAE without noise."""
    parts = [dict(series(rows, facts, "train", name)) for name in ("loss", "objective", "auxiliary")]
    rates = [(step, loss - parts[1][step] - parts[2][step]) for step, loss in parts[0].items()
             if step in parts[1] and step in parts[2]]
    if not rates or beta <= 0:
        return None
    return last_quarter(rates) * dimensions / beta / math.log(2)
