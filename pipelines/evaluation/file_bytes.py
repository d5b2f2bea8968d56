"""The sizes of real compressed files, beside the prior's bits, which are a bound."""

import io
from collections.abc import Sequence
from dataclasses import replace

import torch

from pipelines.codec.items import Given, compress
from pipelines.codec.models import UNKNOWN, Models, holds_conditions
from pipelines.evaluation.measured import Subject
from pipelines.splits.base import Batch
from pipelines.splits.order import spread

ITEMS, ALONE = 256, 8  # measured: in one file, and each in a file of its own


def file_bytes(subject: Subject) -> dict[str, float] | None:
    """Bytes per item of one lossy file of many items, and of files of one item; what the first has beyond the prior's
    bits, as a ratio. Labels are those of the data. None for a prior with local features that a file does not hold."""
    if not holds_conditions(subject.loaded):
        return None
    models, batch = Models(subject.loaded), subject.split.batch(spread(ITEMS, len(subject.split)))
    given = given_items(models, batch, subject.data.label_names)
    return compressed_sizes(models, given, min(ALONE, len(given.x)), subject.options.batch_size)


def given_items(models: Models, batch: Batch, label_names: Sequence[str]) -> Given:
    """Items of a data set with those of their labels and actions that the models are conditioned on."""
    columns = [label_names.index(name) for name in models.names]
    labels = batch.labels.cpu()[:, columns] if columns else torch.full((len(batch.x), 0), UNKNOWN)
    lengths, actions = (None if x is None else x.cpu() for x in (batch.lengths, batch.actions))
    return Given(batch.x.cpu(), labels, lengths, actions if models.num_actions else None)


def compressed_sizes(models: Models, given: Given, alone: int, batch_size: int) -> dict[str, float]:
    """Of one file of all items, and of the first `alone` of them in a file each: the keys of `files` in
    metrics.json."""
    together = compress(models, io.BytesIO(), [given], False, batch_size)
    apart = [compress(models, io.BytesIO(), [one(given, row)], False, 1).bytes for row in range(alone)]
    return {"items": together.count, "bytes_per_item": together.bytes / together.count,
            "over_prior": 8 * together.bytes / together.code_bits, "bytes_alone": sum(apart) / alone,
            "exceptions": together.exceptions}


def one(given: Given, row: int) -> Given:
    """One of the items."""
    parts = {name: None if (x := getattr(given, name)) is None else x[row : row + 1]
             for name in ("x", "labels", "lengths", "actions")}
    return replace(given, **parts)
