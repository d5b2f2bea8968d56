"""Quality of reconstructions and samples as sets: precision, recall, density, coverage and a Fréchet distance, in the
features of small networks trained here on the same data (local_features.py).

Held-out items are the real set that all are compared with: as many training items, which say what real items reach;
their own reconstructions; and as many samples of the prior. The Fréchet distance is of the kind of the FID, but not the
FID, which is that in the features of one Inception network: it is printed under a name of its own, and only values in
the features of the same network, by its digest, of as many items, can be compared.
"""

import sys
from types import ModuleType
from typing import NamedTuple

from torch import Tensor

from pipelines.evaluation.measured import Measured, Subject
from pipelines.metrics.density_coverage import density_coverage
from pipelines.metrics.frechet import frechet_distance
from pipelines.metrics.precision_recall import precision_recall
from pipelines.runs.chain import LoadedRun
from pipelines.splits.base import Batch
from pipelines.splits.order import spread
from stage1_vqvae.bottlenecks.base import Quantizer

FEWEST = 256  # items: four for each of 64 features, and a share of them has a standard error of up to 3 %
SOURCES = {"real": "real items", "reconstructions": "reconstructions", "samples": "samples"}
FIGURES = {"frechet_local_features": ("Fréchet distance, local features", ".4g"), "precision": ("precision", ".3f"),
           "recall": ("recall", ".3f"), "density": ("density", ".3f"), "coverage": ("coverage", ".3f")}


class Made(NamedTuple):
    """A set of items in data units."""

    x: Tensor  # (n, *shape)
    lengths: Tensor | None = None  # (n,) int64


def measure_quality(measured: Measured, subject: Subject, kind: ModuleType) -> dict | None:
    """The key `quality` of metrics.json: for each network its accuracy and digest, and the figures of each set. None
    with evaluate.quality=0; where there is nothing to train a network on, or too few items, a line says so.

    `kind`: the evaluation of the kind of data."""
    limit, data, split = subject.options.quality, subject.data, subject.split
    if not limit:
        return None
    if not hasattr(kind, "local_features"):
        return off(f"items of the kind {data.kind} have no network of local features")
    train, rows = data.split("train"), kind.rows_of_item(data)
    items = min(max(1, limit // rows), len(split), len(train))
    if items * rows < FEWEST:
        return off(f"expected {FEWEST} {'items' if rows == 1 else 'frames'} of each set, or figures of real items "
                   f"vary as much as those of samples; found {items * rows}")
    numbers = spread(items, len(split))
    held_out = split.batch(numbers)
    networks = kind.local_features(subject, held_out)
    if not networks:
        return off(f"{data.name} has no labels to train a network on")
    sets = {"real": Made(*_of(train.batch(spread(items, len(train))))),
            "reconstructions": Made(measured.reconstructions[numbers], measured.sizes[numbers])}
    if can_sample(subject.loaded):
        drawn = subject.samples(items)
        sets["samples"] = Made(drawn.x, drawn.lengths)
    found: dict[str, dict] = {}
    for network in networks:
        real = network.extract(*_of(held_out))
        found[network.task] = {"accuracy": network.accuracy, "digest": network.digest} | {
            name: set_figures(real, network.extract(*sets[name])) if name in sets else None for name in SOURCES}
    return {"num_items": items * rows, "networks": found}


def off(reason: str) -> dict | None:
    """Says why there are no figures, in a line; they are None."""
    print(f"note: quality: not measured: {reason}", file=sys.stderr)
    return None


def set_figures(real: Tensor, made: Tensor) -> dict[str, float]:
    """Features of two sets (n, d), (m, d) -> FIGURES of the second, by name."""
    return dict(zip(FIGURES, (frechet_distance(real, made), *precision_recall(real, made),
                              *density_coverage(real, made)), strict=True))


def can_sample(loaded: LoadedRun) -> bool:
    """Whether there is a distribution to sample from: a trained prior of codes, or latents that have one."""
    bottleneck = loaded.stage1.module.bottleneck
    return loaded.stage2 is not None if isinstance(bottleneck, Quantizer) else bottleneck.prior_draws > 0


def quality_rows(found: dict | None) -> list[tuple[str, float | None, str]]:
    """Of the printed table: name, figure, format."""
    rows: list[tuple[str, float | None, str]] = []
    for task, network in ((found or {}).get("networks") or {}).items():
        rows.append((f"network of local features: {task} accuracy", network["accuracy"], ".1%"))
        for key, (title, form) in FIGURES.items():
            there = {name: own[key] for name in SOURCES if (own := network[name]) is not None}
            first, *others = there
            rows.append((f"{title}: {SOURCES[first]}", there[first], form))
            rows += [(f"  {SOURCES[name]}", there[name], form) for name in others]
    return rows


def _of(batch: Batch) -> tuple[Tensor, Tensor | None]:
    return batch.x, batch.lengths
