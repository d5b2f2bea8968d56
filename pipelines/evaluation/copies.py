"""Whether the prior's samples are copies of training items: the nearest real items of samples, by codes and in data
space, beside those of held-out items.

The figure is the share of samples whose nearest item is a training item rather than a held-out one, with its mean and
standard error without copying (pipelines/metrics/copies.py). Both are exact where training and held-out items are drawn
alike; an encoder that fits its own training items better than others adds to the share. `evaluate.copies` samples are
compared with all items, or with so many, evenly spread, that this takes seconds.

Axes: n samples, or as many held-out items; m items, first training, then held-out ones; d features.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from pipelines.evaluation.held_out import split_codes
from pipelines.evaluation.measured import Subject
from pipelines.generation.samples import Samples
from pipelines.metrics.copies import copying, credits, quantiles
from pipelines.metrics.nearest import code_distances, code_rows, feature_distances
from pipelines.splits.base import Data, Split
from pipelines.splits.order import spread
from stage1_vqvae.bottlenecks.base import Quantizer

MOST = 2**36  # comparisons of codes, and products of features: less than a minute on one core
BLOCK = 256  # items whose features are in memory at once
SHOWN = 6  # samples in the figure
SPACES = {"codes": "by codes", "data": "in data space"}


@dataclass(frozen=True)
class Space:
    """Distances in one space. Numbers of items count among those that were compared."""

    credit: Tensor  # (m,) how many samples each item is the nearest of
    distances: Tensor  # (n,) of each sample to its nearest training item
    training: Tensor  # (n,) the number of that item
    held_out: Tensor  # (n,) the number of the nearest held-out item
    held_out_distances: Tensor  # (n,) of held-out items to their nearest training items

    def figures(self, training: int) -> dict:
        return {**asdict(copying(self.credit, training)), "samples": quantiles(self.distances),
                "held_out": quantiles(self.held_out_distances)}


@dataclass(frozen=True)
class Copies:
    """Samples and their nearest items in each space, None where it cannot be compared."""

    samples: Samples
    training: Tensor  # the numbers of the training items that were compared
    held_out: Tensor  # and of the held-out ones
    spaces: dict[str, Space | None]

    @property
    def figures(self) -> dict:
        """Under the key `copies` of metrics.json."""
        found = {name: None if space is None else space.figures(len(self.training))
                 for name, space in self.spaces.items()}
        return {"num_samples": len(self.samples.x), "training_items": len(self.training),
                "held_out_items": len(self.held_out), **found}


def find_copies(subject: Subject, kind: ModuleType) -> Copies | None:
    """None without a prior of codes, with evaluate.copies=0, and for a kind of data that compares no items. `kind`: the
    evaluation of the kind of data."""
    count, loaded = subject.options.copies, subject.loaded
    comparable = isinstance(loaded.stage1.module.bottleneck, Quantizer) and hasattr(kind, "features")
    if loaded.stage2 is None or not count or not comparable:
        return None
    samples, data = subject.samples(count), pixels(subject)
    splits = [subject.codes["train"], subject.codes[subject.split_name]]
    whole = len(splits[0]) // subject.views  # the first view: as the data are
    held_out = torch.arange(len(splits[1]))
    features = kind.features(samples.x, samples.lengths, data)
    cost = 2 * len(samples.x) * max(splits[0].batch(torch.arange(1)).x.numel(), features.shape[1])
    training = spread(max(len(held_out), MOST // cost - len(held_out)), whole)
    queries = spread(count, len(held_out))
    real, lengths = zip(*(split_codes(split, items) for split, items in zip(splits, (training, held_out))))
    rows = code_rows(torch.cat(real), None if lengths[0] is None else torch.cat(lengths))
    hop = loaded.stage1.example.shape[-1] // loaded.stage1.grid[0]
    own = code_rows(samples.codes, None if samples.lengths is None else -(-samples.lengths // hop))
    rows, own = (part.to(subject.device) for part in (rows, own))
    by_codes = compare(code_distances(own, rows), code_distances(rows[len(training) :][queries], rows[: len(training)]),
                       len(training))
    by_data, parts = None, [data.split(name) for name in ("train", subject.split_name)]
    if [len(part) for part in parts] == [whole, len(held_out)]:
        by_data = compare(*data_distances(features, parts, (training, held_out), queries, data, kind, subject),
                          len(training))
    return Copies(samples, training, held_out, {"codes": by_codes, "data": by_data})


def pixels(subject: Subject) -> Data:
    """The data that samples are compared with: of a run on codes the images below."""
    data = subject.data
    for _ in subject.loaded.parents:
        data = data.parent_data
    return data


def data_distances(features: Tensor, splits: list[Split], items: tuple[Tensor, Tensor], queries: Tensor, data: Data,
                   kind: ModuleType, subject: Subject) -> tuple[list[Tensor], list[Tensor]]:
    """Distances of samples, whose features are (n, d), to training and held-out items (n, m), and of the held-out items
    `queries` to training items, each in a list of one block. Items pass in blocks."""
    def blocks(split: Split, own: Tensor) -> Iterator[Tensor]:
        for part in own.split(BLOCK):
            batch = split.batch(part)
            yield kind.features(batch.x, batch.lengths, data).to(subject.device)

    features = features.to(subject.device)
    held_out = torch.cat(list(blocks(splits[1], items[1][queries])))
    found, others = [], []
    for block in blocks(splits[0], items[0]):
        found.append(feature_distances(features, block))
        others.append(feature_distances(held_out, block))
    found += [feature_distances(features, block) for block in blocks(splits[1], items[1])]
    return [torch.cat(found, 1)], [torch.cat(others, 1)]


def compare(samples: Iterator[Tensor] | list[Tensor], held_out: Iterator[Tensor] | list[Tensor], training: int
            ) -> Space:
    """Blocks (b, m) of distances of samples, blocks (b, training) of distances of held-out items."""
    credit: Tensor | float = 0.0
    parts = []
    for block in samples:
        credit = credit + credits(block)
        parts.append((*block[:, :training].min(1), block[:, training:].min(1).indices))
    distances, numbers, others = (torch.cat(part).cpu() for part in zip(*parts))
    own = torch.cat([block.min(1).values for block in held_out]).cpu()
    return Space(credit.cpu(), distances, numbers, others, own)


def copy_rows(found: dict | None) -> list[tuple[str, float | None, str]]:
    """Of the printed table: name, figure, format."""
    rows: list[tuple[str, float | None, str]] = []
    for name, title in SPACES.items():
        if found is not None and (own := found[name]) is not None:
            rows += [(f"samples nearest to training, {title}", own["share"], ".1%"),
                     ("  without copying", own["expected"], ".1%"), ("  standard error", own["standard_error"], ".1%")]
    return rows


def draw_copies(found: Copies | None, subject: Subject, kind: ModuleType) -> dict[str, Path]:
    """The samples with the nearest training items by codes, above these items, those nearest in data space, and the
    nearest held-out items."""
    if found is None:
        return {}
    data, path = pixels(subject), subject.run.figures / "nearest.png"
    chosen = found.spaces["codes"].distances.argsort(stable=True)[:SHOWN]
    rows = {"sample": (found.samples.x[chosen], None if found.samples.lengths is None else
                       found.samples.lengths[chosen])}
    for name, title in SPACES.items():
        if (space := found.spaces[name]) is not None:
            for kind_of_item, split, numbers, items in (
                    ("training", "train", space.training, found.training),
                    ("held-out", subject.split_name, space.held_out, found.held_out)):
                batch = data.split(split).batch(items[numbers[chosen]])
                rows[f"nearest {kind_of_item}, {title}"] = (batch.x.cpu(), batch.lengths)
    kind.draw_rows(path, rows, data)
    return {"samples and their nearest items": path}
