"""The sizes of real compressed files, beside the prior's bits, which are a bound."""

import io
from dataclasses import replace

import torch

from pipelines.codec.items import Given, compress
from pipelines.codec.models import UNKNOWN, Models, holds_conditions
from pipelines.evaluation.measured import Subject
from pipelines.splits.order import spread

ITEMS, ALONE = 256, 8  # measured: in one file, and each in a file of its own


def file_bytes(subject: Subject) -> dict[str, float] | None:
    """Bytes per item of one lossy file of many items, and of files of one item; what the first has beyond the prior's
    bits, as a ratio. Labels are those of the data. None for a prior with local features that a file does not hold."""
    if not holds_conditions(subject.loaded):
        return None
    models = Models(subject.loaded)
    batch = subject.split.batch(spread(ITEMS, len(subject.split)))
    columns = [subject.data.label_names.index(name) for name in models.names]
    labels = batch.labels.cpu()[:, columns] if columns else torch.full((len(batch.x), 0), UNKNOWN)
    cpu = [None if x is None else x.cpu() for x in (batch.lengths, batch.actions)]
    given = Given(batch.x.cpu(), labels, cpu[0], cpu[1] if models.num_actions else None)
    together = compress(models, io.BytesIO(), [given], False, subject.options.batch_size)
    alone = [compress(models, io.BytesIO(), [one(given, row)], False, 1).bytes
             for row in range(min(ALONE, len(given.x)))]
    return {"items": together.count, "bytes_per_item": together.bytes / together.count,
            "over_prior": 8 * together.bytes / together.code_bits, "bytes_alone": sum(alone) / len(alone),
            "exceptions": together.exceptions}


def one(given: Given, row: int) -> Given:
    """One of the items."""
    parts = {name: None if (x := getattr(given, name)) is None else x[row : row + 1]
             for name in ("x", "labels", "lengths", "actions")}
    return replace(given, **parts)
