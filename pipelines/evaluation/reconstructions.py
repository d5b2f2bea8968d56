"""Metrics of reconstructions, found in the folder `metrics/`: whatever class derives from `Metric`."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

import pipelines.metrics
from pipelines.evaluation.measured import Measured, Subject, shared_batches
from pipelines.metrics.base import Metric, Pairs
from pipelines.runs import plugins
from pipelines.splits.base import Batch
from stage1_vqvae.precision import full_float32


@cache
def all_metrics() -> tuple[Metric, ...]:
    """Every metric, the project's own first, files in alphabetical order."""
    return tuple(own() for own in plugins.subclasses(plugins.found_modules(pipelines.metrics, "metrics"), Metric))


def metrics_of(kind: str) -> list[Metric]:
    """The metrics that are measured on a kind of data."""
    return [metric for metric in all_metrics() if kind in metric.kinds]


@full_float32()
def reconstruction_figures(measured: Measured, subject: Subject, variance: float | None,
                           facts: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures of all metrics of the subject's kind of data over its whole split; variance and facts as in
    `Pairs`."""
    metrics = metrics_of(subject.data.kind)

    def of_batch(start: int, batch: Batch) -> list[dict[str, Tensor]]:
        stop = start + len(batch.x)
        lengths = measured.sizes[start:stop] if batch.lengths is None else batch.lengths.cpu()
        made = measured.reconstructions[start:stop].to(batch.x.device)
        pairs = Pairs(batch.x, made, lengths, variance, facts)
        return [{key: values.double().cpu() for key, values in metric.measure(pairs).items()} for metric in metrics]

    parts = list(shared_batches(subject.split, subject.options.batch_size, "metrics", of_batch))
    figures: dict[str, float | None] = {}
    for number, metric in enumerate(metrics):
        found = [part[number] for part in parts]
        figures |= metric.summary({key: torch.cat([own[key] for own in found]) for key in found[0]})
    return figures


def reconstruction_rows(kind: str, figures: Mapping[str, float | None]) -> list[tuple[str, float | None, str]]:
    """Of the printed table: name, figure, format."""
    return [(title, figures[key], form) for metric in metrics_of(kind) for key, title, form in metric.rows]
