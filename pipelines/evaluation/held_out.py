"""Scores of held-out items, which say how unusual an item's score is, kept in the run in `held_out_scores.json`.

They are computed from the run's data, where these can be found, else from its extracted codes, which give the bits of
the codes alone. The file is a cache: where it is not of these very stages, data and options, it is computed again.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pipelines.data.codes import CodeData
from pipelines.data.manifest import MANIFEST
from pipelines.files.atomic import write_atomically
from pipelines.files.errors import InputError
from pipelines.files.formats import FORMAT
from pipelines.files.reading import read_json
from pipelines.generation.actions import local_actions
from pipelines.generation.scores import Scores, prior_bits, score_items
from pipelines.metrics.nearest import code_rows, nearest_items
from pipelines.ranks.shares import by_first, first, shared
from pipelines.runs.chain import LoadedRun
from pipelines.runs.data import load_data
from pipelines.runs.store import check_same_stage1, stage1_hash, stage2_hash
from pipelines.splits.base import Data, Split
from pipelines.splits.order import spread

CACHE = "held_out_scores.json"
CODES, DATA = "extracted codes", "data"
ITEMS = 2**14  # training items that are compared at once
Codec = Callable[[Tensor, Tensor | None], Tensor | None]  # items in data units, lengths -> bits of lossless files


@dataclass(frozen=True)
class HeldOut:
    """Scores of n held-out items. All are per code or per data dimension, since items may have lengths."""

    split: str
    source: str
    code: list[float]  # bits per code
    total: list[float] | None  # bits per dimension, of codes and data; None where only codes were there
    corrected: list[float] | None  # the same without the size of a lossless file


def percentiles(values: Tensor, reference: list[float]) -> Tensor:
    """values (n,) -> float64 (n,), in percent: the share of the reference below each, equal ones counting half."""
    known = torch.tensor(reference, dtype=torch.float64).sort().values
    below, up_to = (torch.searchsorted(known, values.double(), side=side) for side in ("left", "right"))
    return 50 * (below + up_to).double() / len(known)


def held_out_scores(loaded: LoadedRun, given: tuple[str, ...], count: int, data_root: Path | None, codec: Codec,
                    cache: Path | None, batch_size: int) -> HeldOut:
    """The scores of `count` held-out items, or of all if there are fewer, evenly spread; those of `cache` where they
    fit. Without a cache they are computed each time.

    given: the labels that the prior is conditioned on with each item's own class; it is marginalised over the others.
    Raises InputError where there are neither data nor codes, and for a `data_root` that does not hold the data."""
    key = {"format": FORMAT, "stage1_hash": stage1_hash(loaded.stage1), "stage2_hash": stage2_hash(loaded.stage2),
           "given": list(given), "count": count}
    digest = loaded.stage1.example.facts.get("digest")  # of the training data
    if (known := _cached(cache, key | {"source": DATA, "data": digest})) is not None:
        return known
    data, why = _find_data(loaded, data_root)
    if data is None:
        return _of_codes(loaded, key, cache, batch_size, why)
    split, keep = held_out_split(data), cache is not None and data.digest == digest
    items = _announced(data.split(split), count, cache if keep else None)
    made = HeldOut(split, DATA, **_score_data(loaded, data.split(split).to(loaded.device), items, given, codec,
                                              batch_size))
    if keep:
        _keep(cache, key | {"data": digest}, made)
    return made


def nearest_training(loaded: LoadedRun, scores: Scores) -> tuple[Tensor, Tensor]:
    """For each item the number of the training item with the nearest codes, int64 (n,), and the share of codes that
    differ, float32 (n,). Raises InputError for a run without its codes, or with those of another stage 1."""
    if not (loaded.run.codes / MANIFEST).exists():
        raise InputError(f"{loaded.run.codes}: expected the run's codes, found none; extract them: make extract-codes")
    data = CodeData(loaded.run.codes)
    check_same_stage1(data.manifest.stage1_hash, loaded.stage1, loaded.run.codes)
    train = data.split("train")
    positions = None if train.lengths is None else scores.num_codes // scores.codes[0, 0].numel()
    parts = torch.arange(len(train) // data.manifest.views).split(ITEMS)
    return nearest_items(code_rows(scores.codes, positions), (code_rows(*split_codes(train, rows)) for rows in parts))


def split_codes(split: Split, items: Tensor) -> tuple[Tensor, Tensor | None]:
    """Codes (n, *grid[, g]) and lengths (n,) of some items of a split of a code data set, on the CPU."""
    parts = [split.batch(rows) for rows in items.split(1024)]
    lengths = None if parts[0].lengths is None else torch.cat([part.lengths.cpu() for part in parts])
    return torch.cat([part.x.cpu() for part in parts]), lengths


def _find_data(loaded: LoadedRun, root: Path | None) -> tuple[Data | None, str]:
    """The run's data, or None and why they cannot be found."""
    try:
        return load_data(loaded.run, loaded.stage1, root), ""
    except InputError as error:
        if root is not None:
            raise
        return None, str(error)


def _of_codes(loaded: LoadedRun, key: dict[str, Any], cache: Path | None, batch_size: int, why: str) -> HeldOut:
    """Scores of the extracted codes. Raises InputError that begins with `why` where there are none."""
    if not (loaded.run.codes / MANIFEST).exists():
        raise InputError(f"{why}; and no codes in {loaded.run.codes}")
    data = CodeData(loaded.run.codes)
    check_same_stage1(data.manifest.stage1_hash, loaded.stage1, loaded.run.codes)
    extraction = data.manifest.extraction
    if (known := _cached(cache, key | {"source": CODES, "data": extraction})) is not None:
        return known
    split = held_out_split(data)
    items = _announced(data.split(split), key["count"], cache)
    given = [name for name in key["given"] if name in loaded.stage2.condition_on]
    code = _score_codes(loaded, data.split(split).to(loaded.device), items, given, batch_size)
    made = HeldOut(split, CODES, code, None, None)
    _keep(cache, key | {"data": extraction}, made)
    return made


def held_out_split(data: Data) -> str:
    """The name of the split that figures are measured on."""
    return "test" if "test" in data.splits else "validation"


def _announced(split: Split, count: int, cache: Path | None) -> Tensor:
    """The items that are scored, after a line that says so: it may take a minute."""
    items = spread(count, len(split))
    print(f"scoring {len(items)} held-out items" + ("" if cache is None else f", kept in {cache}"), file=sys.stderr)
    return items


def _keep(cache: Path | None, key: Mapping[str, Any], made: HeldOut) -> None:
    if cache is None or not first():
        return
    cache.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(cache, (json.dumps(dict(key) | asdict(made)) + "\n").encode())


def _cached(path: Path | None, key: Mapping[str, Any]) -> HeldOut | None:
    """What the cache holds for this key; None where it holds anything else. Ranks hear it from the first."""
    if path is None or not by_first(path.exists):
        return None
    try:
        content = read_json(path, "scores of held-out items")
    except InputError:
        return None
    lists = [content.get(name) for name in ("code", "total", "corrected")]
    fits = lists[0] is not None and all(
        own is None or isinstance(own, list) and own and all(isinstance(value, float) for value in own)
        for own in lists)
    if not fits or any(content.get(name) != value for name, value in key.items()):
        return None
    return HeldOut(str(content.get("split")), key["source"], *lists)


def _score_data(loaded: LoadedRun, split: Split, items: Tensor, given: tuple[str, ...], codec: Codec,
                batch_size: int) -> dict[str, list[float] | None]:
    names = loaded.stage1.example.label_names
    actions = loaded.stage1.example.facts.get("action_names")

    def of_rows(rows: Tensor) -> list[list[float]]:
        batch = split.batch(rows)
        x, lengths = batch.x.cpu(), None if batch.lengths is None else batch.lengths.cpu()
        local = local_actions(batch.actions.cpu(), len(actions), loaded.stage1.grid[0]) if actions else None
        labels = {name: batch.labels[:, names.index(name)].cpu() for name in given}
        found = score_items(loaded, x, lengths, labels, batch_size, local, maps=False)
        sizes = codec(x, lengths)
        corrected = [] if sizes is None else ((found.bits - sizes) / found.dimensions).tolist()
        return [found.bits_per_code.tolist(), found.bits_per_dim.tolist(), corrected]

    parts = items.split(batch_size)
    made = tqdm(shared(parts, of_rows), total=len(parts), desc="held-out items", unit="batch", leave=False,
                dynamic_ncols=True, disable=None)
    code, total, corrected = ([value for part in own for value in part] for own in zip(*made, strict=True))
    return {"code": code, "total": total, "corrected": corrected or None}


def _score_codes(loaded: LoadedRun, split: Split, items: Tensor, given: list[str], batch_size: int) -> list[float]:
    names: tuple[str, ...] = loaded.stage2.codes.label_names

    def of_rows(rows: Tensor) -> list[float]:
        batch = split.batch(rows)
        labels = {name: batch.labels[:, names.index(name)].cpu() for name in given}
        positions = None if batch.lengths is None else batch.lengths.cpu()
        bits = prior_bits(loaded, batch.x, positions, labels, batch.local).flatten(1).sum(1)
        width = batch.x[0, 0].numel()
        counts = torch.full((len(rows),), batch.x.shape[1]) if positions is None else positions
        return (bits / (counts * width)).tolist()

    return [value for part in shared(items.split(batch_size), of_rows) for value in part]
