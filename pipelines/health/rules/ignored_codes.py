"""The decoder does not use the latents: with those of other items it describes the data as well as with their own.

As evaluate.py measures it on held-out items; the difference is within three standard errors of 0 (by chance once in
700). Decoders that see all earlier values can do that.
"""

from collections.abc import Mapping
from typing import Any

from pipelines.health.finding import Finding

ORDER, STAGES = 4, ("stage1",)
ERRORS = 3.0


def find(figures: Mapping[str, Any], settings: Mapping[str, Any]) -> Finding | None:
    latents = figures.get("latents")
    shuffled = latents.get("shuffled") if isinstance(latents, Mapping) else None
    if not isinstance(shuffled, Mapping):
        return None
    saved, error = shuffled.get("nats_saved"), shuffled.get("standard_error")
    if not isinstance(saved, int | float) or not isinstance(error, int | float) or saved > ERRORS * error:
        return None
    return Finding(
        f"an item's own latents save {saved:.3g} nats against those of other items, with a standard error of "
        f"{error:.2g}",
        "the decoder ignores the latents", (), "a decoder that sees less of the earlier values (fewer "
        "autoencoder.decoder.network.num_layers), or a lower autoencoder.beta")
