"""The training items of a run as codes, and as data where these can be found: nearest items, and where a code occurs.

Axes: n training items, t codes of an item in raster order (codebooks included).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipelines.data.codes import CodeData
from pipelines.data.manifest import MANIFEST
from pipelines.evaluation.held_out import split_codes
from pipelines.explorer.items import labels_of, real_data, shown
from pipelines.explorer.page import Context
from pipelines.files.errors import InputError
from pipelines.metrics.nearest import code_distances, code_rows
from pipelines.runs.store import check_same_stage1
from pipelines.splits.base import Data
from pipelines.splits.order import spread

MOST_CODES = 2**26  # that are looked through: 64 MB with up to 256 codes; of larger sets evenly spread items are taken


@dataclass(frozen=True)
class TrainingCodes:
    """Codes of training items, or of some of them."""

    numbers: Tensor  # int64 (n,): of the items in the data set
    codes: Tensor  # (n, *grid[, g]), in the smallest type that holds them
    lengths: Tensor | None  # (n,) in codes
    rows: Tensor  # (n, t), -1 in padding
    labels: Tensor  # int64 (n, L)
    items: int  # of the whole split
    data: CodeData

    @property
    def words(self) -> str:
        """Which items were looked at."""
        return f"{self.items:,} training items" if len(self.numbers) == self.items else (
            f"{len(self.numbers):,} of {self.items:,} training items")

    def nearest(self, codes: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Codes (b, *grid[, g]) -> places (b,) in `numbers`, and the share of codes that differ (b,)."""
        blocks = [block.min(1) for block in code_distances(code_rows(codes, lengths), self.rows)]
        return torch.cat([block.indices for block in blocks]), torch.cat([block.values for block in blocks])


def training_codes(context: Context) -> TrainingCodes:
    """The run's training codes, read once. Raises InputError where it has none."""
    if "training codes" not in context.shared:
        context.shared["training codes"] = _read(context)
    return context.shared["training codes"]


def _read(context: Context) -> TrainingCodes:
    loaded = context.loaded
    if not (loaded.run.codes / MANIFEST).exists():
        raise InputError(f"this run has no extracted codes: make extract-codes RUN={loaded.run.root.name} writes them")
    data = CodeData(loaded.run.codes)
    check_same_stage1(data.manifest.stage1_hash, loaded.stage1, loaded.run.codes)
    train = data.split("train")
    items = len(train) // data.manifest.views
    numbers = spread(min(items, max(1, MOST_CODES // train.x[0].numel())), items)
    codes, lengths = split_codes(train, numbers)
    rows = code_rows(codes, lengths)
    return TrainingCodes(numbers, codes.to(code_rows(codes).dtype), lengths, rows, train.labels[numbers].cpu(), items,
                         data)


def training_item(context: Context, place: int) -> dict[str, Any]:
    """The item at this place of the training codes: the real one where the data can be found, else its codes decoded;
    "source" says which."""
    own = training_codes(context)
    number, found = int(own.numbers[place]), real_data(context, 0)
    labels = labels_of(own.data.label_names, own.data.classes, own.labels[place].tolist())
    if not isinstance(found, str):
        return held(context, found, "train", number) | {"source": "real", "number": number, "labels": labels}
    codes, length = own.codes[place].long(), None
    if own.lengths is not None:
        codes = codes[: int(own.lengths[place])]
    needed = {name: labels[name] for name in context.loaded.stage1.condition_on}
    made = context.run.decode(codes, **needed)
    return shown(context, made, length) | {"source": "decoded", "number": number, "labels": labels}


def held(context: Context, data: Data, split: str, number: int) -> dict[str, Any]:
    """A real item of the data, as the browser shows it."""
    batch = data.split(split).batch(torch.tensor([number]))
    return shown_data(context, batch.x.cpu(), None if batch.lengths is None else int(batch.lengths[0]))


def shown_data(context: Context, x: Tensor, length: int | None) -> dict[str, Any]:
    """An item (1, *shape) as the run's data hold it: of a run on codes through the decoders below."""
    from pipelines.generation.decoding import descend
    from pipelines.splits.noise import generator

    if context.loaded.parents:
        x = descend(context.loaded.parents, x.to(context.loaded.device), [generator(0, 0)])
    return shown(context, x[0], length)
