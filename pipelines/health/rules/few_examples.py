"""Fewer than ten encodings per code in the whole training split: many codes then stand for a handful of encodings.

k-means libraries warn below 30 to 40 vectors per centre (faiss: 39), and training revisits the same ones. The healthy
runs have from 359 (the embedded digits) to 21,000 (MNIST).
"""

from collections.abc import Mapping
from typing import Any

from pipelines.health.evidence import CodeUse
from pipelines.health.finding import Finding, change

ORDER, STAGES = 1, ("stage1",)
FEWEST, ENOUGH = 10, 40  # encodings per code


def find(codes: CodeUse, settings: Mapping[str, Any]) -> Finding | None:
    num_codes, encodings = codes.counts.shape[1], codes.items * codes.positions
    if encodings >= FEWEST * num_codes:
        return None
    fitting = 2 ** max(1, int(encodings / ENOUGH).bit_length() - 1)
    key = "autoencoder.bottleneck.num_codes"
    return Finding(
        f"{codes.items} training items of {codes.positions:.4g} positions are {encodings / num_codes:.2g} encodings "
        f"for each of K = {num_codes} codes, expected {FEWEST} at least",
        "codes stand for single encodings: the codebook memorises the training data",
        (change(settings, key, fitting),) if key in settings else (),
        f"{FEWEST * num_codes / max(codes.positions, 1):.0f} training items or more" + (
            "" if key in settings else f", or fewer autoencoder.bottleneck.levels, for about {fitting} codes"))
