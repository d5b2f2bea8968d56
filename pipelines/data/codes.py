"""The code data set: what stage 1 encodes a data set to and stage 2 is trained on. Writer and reader side by side.

One folder:

    train-00000.safetensors ...   codes (n, *grid[, g]), uint8 up to 256 codes, uint16 up to 65,536, else int32;
                                  labels (n, L) int64; and what the encoder adds: lengths (n,) int64, local fields
                                  (n, c, *grid) by other names, with size 1 on an axis along which nothing changes, as
                                  in actions (n, c, t, 1, 1)
    manifest.json                 sizes, labels, hash of the stage 1 that made it, checksum of each shard; written last

Shards hold `shard_size` items each, whatever the size of the batches, and appear whole or not at all. So an extraction
that was interrupted goes on with the shards that are missing, and ends with the same bytes as one that was not. Ranks
write shards in turn.
Axes: n items, b items of a batch, g codebooks, L labels of an item, c channels; *grid is any number of axes.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor
from tqdm import tqdm

from pipelines.data.manifest import MANIFEST, MOST_CODES, Manifest, Shard, read_manifest
from pipelines.files.atomic import write_atomically
from pipelines.files.checks import brief, expect
from pipelines.files.errors import InputError
from pipelines.files.platforms import memory_bytes
from pipelines.files.reading import read_file
from pipelines.files.tensors import Place, tensor_places
from pipelines.ranks.shares import by_first, leave_to_first, shared
from pipelines.splits.base import Batch, Data, Split
from pipelines.splits.rows import Channels, FileRows, Piece, Rows, held

Encode = Callable[[Batch], dict[str, Tensor]]

# The layout of shards, as it enters the hash `extraction`. While it stays, an extraction that an earlier format of the
# manifest began can go on.
SHARDS = 1

IN_MEMORY = 2**28  # bytes: a field of a split that takes no more is held in memory, any other stays in its files
PIECE = 2**22  # bytes of a shard that are checked at a time


def write_codes(
    folder: Path,
    data: Data,
    encode: Encode,
    *,
    num_codes: int,
    num_codebooks: int,
    stage1_hash: str,
    parent_hash: str | None = None,
    device: torch.device | str = "cpu",
    views: int = 1,
    seed: int = 0,
    batch_size: int = 256,
    shard_size: int = 8192,
    overwrite: bool = False,
    other_data: str | None = None,
) -> "CodeData":
    """Encodes every split of `data` into `folder`, apart from shards that are already there, and reads it back.

    `encode` maps a batch on `device` to "codes" (b, *grid[, g]) int64 and anything to store beside them: "lengths"
    (b,), local fields (b, c, *grid), each size of the grid or 1. With `views` > 1 the training split is written that
    many times, first without augmentation, then as in epochs 0, 1, ... with `seed`: item v * n + i is view v of item i.
    other_data: the digest of `data` if they are not those that stage 1 was trained on.

    Raises InputError where the folder holds codes of another model or other settings, unless `overwrite` removes them.
    """
    for key, found, lowest, highest in (("num_codes", num_codes, 2, MOST_CODES), ("extract.views", views, 1, 2**31),
                                        ("extract.batch_size", batch_size, 1, 2**31),
                                        ("extract.shard_size", shard_size, 1, 2**31)):
        if not lowest <= found <= highest:
            raise InputError(f"{key}: expected {lowest} to {highest}, found {found}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    splits = {name: data.split(name).to(device) for name in data.splits}
    manifest = _plan(data, splits, encode, num_codes, num_codebooks, stage1_hash, parent_hash, views, seed, shard_size,
                     other_data)
    there = by_first(lambda: _prepare(folder, manifest, overwrite))
    if MANIFEST in there:
        return CodeData(folder)

    def write(planned: tuple[str, int, int, str]) -> tuple[int, str]:
        name, start, stop, file = planned
        if file not in there:
            arrays = _encode(splits[name], start, stop, batch_size, seed, encode, manifest)
            write_atomically(folder / file, save(arrays, metadata={"extraction": manifest.extraction}))
        content = read_file(folder / file, "a shard")
        return len(content), hashlib.sha256(content).hexdigest()

    plan: list[tuple[str, int, int, str]] = []
    for name, split in splits.items():
        count = len(split) * (views if name == "train" else 1)
        plan += [(name, start, min(start + shard_size, count), f"{name}-{start // shard_size:05d}.safetensors")
                 for start in range(0, count, shard_size)]
    order = sorted(plan, key=lambda planned: planned[3] in there)  # so that ranks share what is missing
    made: dict[str, Shard] = {}
    with tqdm(total=sum(stop - start for _, start, stop, _ in plan), desc="codes", unit="item", disable=None,
              dynamic_ncols=True) as bar:
        for (_, start, stop, file), (size, digest) in zip(order, shared(order, write), strict=True):
            made[file] = Shard(file, stop - start, size, digest)
            bar.update(stop - start)
    leave_to_first()
    manifest.splits.update({name: tuple(made[file] for own, _, _, file in plan if own == name) for name in splits})
    write_atomically(folder / MANIFEST, manifest.to_json())
    return CodeData(folder)


@dataclass(frozen=True, kw_only=True)
class CodeSplit(Split):
    """Codes, int64 in a batch; 8, 16 or 32 bits in memory or, where they are many, in the files of the data set. uint16
    is kept as int16, since torch cannot index uint16."""

    num_codebooks: int

    def batch(self, indices: Tensor, seed: int = 0, epoch: int | Tensor | None = None) -> Batch:
        """The codes at `indices`. Nothing about them is random: augmented views are items of their own."""
        batch = self._take(indices)
        x, local = batch.x.long(), batch.local
        local = None if local is None else local.expand(-1, -1, *x.shape[1 : local.ndim - 1])
        return batch._replace(x=x & 0xFFFF if batch.x.dtype == torch.int16 else x, local=local)


def to_channels(codes: Tensor, num_codebooks: int) -> Tensor:
    """Codes (b, *grid[, g]) of a model -> (b, g, *grid), the layout of data: an axis of codebooks even where g = 1."""
    return codes[:, None] if num_codebooks == 1 else codes.movedim(-1, 1)


def from_channels(x: Tensor) -> Tensor:
    """The inverse of `to_channels`."""
    return x[:, 0] if x.shape[1] == 1 else x.movedim(1, -1)


class CodeData(Data):
    """A code data set, checked: each shard's checksum, types, sizes and ranges. It may be larger than memory: of each
    split, labels and lengths are held, and codes and local fields if they take at most `IN_MEMORY`.

    It is a data set like any other, with items (*grid[, g]); `manifest` says where the codes come from.
    Raises InputError that names file and key, what was expected and what was found.
    """

    kind = "codes"

    def __init__(self, folder: Path | str):
        folder = Path(folder)
        self.manifest = read_manifest(folder)
        self.name = self.manifest.data["name"]
        self.shape = self.manifest.item_shape
        self.label_names, self.classes = self.manifest.label_names, self.manifest.classes
        self.splits = tuple(self.manifest.splits)
        bits, views = math.prod(self.shape) * math.log2(self.num_codes), self.manifest.views
        self.remarks = (f"K = {self.num_codes}, {bits:.0f} bits per item",
                        *([f"{views} views of each training item"] if views > 1 else []))
        _check_sizes(folder, self.manifest)
        self._parts = {name: _read_split(folder, name, self.manifest) for name in self.splits}
        counts = _label_counts(self, 1)
        expect(folder / MANIFEST, "label_counts", self.label_counts, self.label_counts == counts,
               f"the counts of the training shards, {brief(counts)}")

    num_codes = property(lambda self: self.manifest.num_codes)
    num_codebooks = property(lambda self: self.manifest.num_codebooks)
    grid = property(lambda self: self.manifest.grid)
    label_counts = property(lambda self: self.manifest.label_counts)
    stage1_hash = property(lambda self: self.manifest.stage1_hash)

    def _split(self, name: str) -> CodeSplit:
        return self._parts[name]


def _plan(data: Data, splits: dict[str, Split], encode: Encode, num_codes: int, num_codebooks: int, stage1_hash: str,
          parent_hash: str | None, views: int, seed: int, shard_size: int, other_data: str | None) -> Manifest:
    """The manifest without its shards; one item is encoded to find out the grid."""
    with torch.inference_mode():
        grid = tuple(encode(splits["train"].batch(torch.arange(1)))["codes"].shape[1:])
    if num_codebooks > 1:
        assert grid[-1] == num_codebooks, (grid, num_codebooks)
        grid = grid[:-1]
    facts = {
        "num_codes": num_codes,
        "num_codebooks": num_codebooks,
        "grid": grid,
        "data": {"name": data.name, "kind": data.kind, "shape": data.shape},
        "label_names": data.label_names,
        "classes": data.classes,
        "label_counts": _label_counts(data, views),
        "views": views,
        "stage1_hash": stage1_hash,
        "parent_hash": parent_hash,
    }
    counts = {name: len(split) for name, split in splits.items()}
    settings = {"version": SHARDS, "counts": counts, "seed": seed, "shard_size": shard_size}
    if other_data is not None:
        settings["other_data"] = other_data
    extraction = hashlib.sha256(json.dumps(facts | settings, sort_keys=True).encode()).hexdigest()
    return Manifest(**facts, extraction=extraction, splits={})


def _prepare(folder: Path, manifest: Manifest, overwrite: bool) -> list[str]:
    """Makes sure that the folder holds files of this extraction only, and returns their names. Raises InputError for
    files of another one and for damaged ones, or removes them if `overwrite`."""
    there: list[str] = []
    for leftover in folder.glob(".*.tmp"):  # of a killed process
        leftover.unlink()
    for path in [*folder.glob(MANIFEST), *sorted(folder.glob("*-[0-9][0-9][0-9][0-9][0-9]*.safetensors"))]:
        if overwrite:  # the manifest first: if this is interrupted, what is left does not look like a data set
            path.unlink()
            continue
        try:
            if path.name == MANIFEST:
                found = read_manifest(folder).extraction
            else:
                read_file(path, "a shard")
                with safe_open(path, "np") as shard:
                    found = (shard.metadata() or {}).get("extraction")
        except SafetensorError as error:
            raise InputError(f"{path}: expected a complete shard, found a damaged one ({error}); "
                             "extract.overwrite=true extracts all codes again") from error
        if found != manifest.extraction:
            raise InputError(f"{path}: expected codes of this stage 1 ({manifest.stage1_hash[:12]}) with these "
                             "settings, found another extraction's; extract.overwrite=true removes them")
        there.append(path.name)
    return there


def _encode(split: Split, start: int, stop: int, batch_size: int, seed: int, encode: Encode,
            manifest: Manifest) -> dict[str, np.ndarray]:
    """Items [start, stop) of a split's views, one view after the other, in the types in which they are stored."""
    parts, rows = [], torch.arange(start, stop).split(batch_size)

    def batch_of(number: int) -> Batch:
        items = rows[number]
        return split.batch(items % len(split), seed, epoch=items // len(split) - 1)  # view 0: epoch -1, not augmented

    for items, batch in zip(rows, split.batches(batch_of, range(len(rows))), strict=True):
        with torch.inference_mode():
            encoded = {name: tensor.cpu() for name, tensor in encode(batch).items()}
        codes = encoded["codes"]
        assert codes.shape == (len(items), *manifest.item_shape), (codes.shape, manifest.item_shape)
        assert 0 <= codes.min() and codes.max() < manifest.num_codes, (codes.min(), codes.max(), manifest.num_codes)
        parts.append(encoded | {"labels": batch.labels.cpu()})
    # contiguous: safetensors writes an array as it lies in memory, whatever the order of its axes there
    arrays = {name: np.ascontiguousarray(np.concatenate([part[name].numpy() for part in parts])) for name in parts[0]}
    return arrays | {"codes": arrays["codes"].astype(manifest.dtype)}


def _label_counts(data: Data, views: int) -> tuple[tuple[int, ...], ...]:
    """The number of training items of each class, for each label."""
    columns = data.split("train").labels.unbind(1)
    return tuple(tuple((torch.bincount(column, minlength=count) * views).tolist())
                 for column, count in zip(columns, data.num_classes, strict=True))


def _check_sizes(folder: Path, manifest: Manifest) -> None:
    """Raises InputError unless each shard exists, has the size that the manifest states, which is enough for its items,
    and what is held of each item, whatever its size, fits into memory: labels, length, and places in two orders."""
    items = 0
    for name, shards in manifest.splits.items():
        for shard in shards:
            path = folder / shard.file
            if not path.is_file() or path.resolve().parent != folder.resolve():
                raise InputError(f"{folder / MANIFEST}: splits.{name}: expected {shard.file} beside it, found none")
            size, least = path.stat().st_size, shard.count * math.prod(manifest.item_shape) * manifest.dtype.itemsize
            if size != shard.bytes:
                raise InputError(f"{path}: expected {shard.bytes} bytes, found {size}")
            if size < least:
                raise InputError(f"{folder / MANIFEST}: splits.{name}: expected {shard.file} to have room for "
                                 f"{shard.count} items ({least} bytes), found {size} bytes")
            items += shard.count
    memory, needed = memory_bytes(), 8 * items * (len(manifest.classes) + 3)
    if memory is not None and needed > memory:
        raise InputError(f"{folder}: expected items whose labels and order fit into memory, {memory} bytes, found "
                         f"{items} items, {needed} bytes")


def read_fields(folder: Path, name: str, manifest: Manifest) -> dict[str, Rows]:
    """The fields of a split, as they are stored; each shard is checked, and no more of it is in memory than `PIECE`."""
    shards = manifest.splits[name]
    checked = [_check_shard(folder / shard.file, shard, manifest) for shard in shards]
    kinds = [{field: (place.dtype, place.shape[1:]) for field, place in own.items()} for own in checked]
    for shard, kind in zip(shards, kinds, strict=True):
        expect(folder / shard.file, "fields", kind, kind == kinds[0], f"those of {shards[0].file}, {kinds[0]}")
    return {field: FileRows([Piece(folder / shard.file, own[field].offset, shard.count)
                             for shard, own in zip(shards, checked, strict=True)], dtype, item)
            for field, (dtype, item) in kinds[0].items() if dtype is not None}


def _read_split(folder: Path, name: str, manifest: Manifest) -> CodeSplit:
    fields = read_fields(folder, name, manifest)
    codes, labels, lengths = (fields.pop(name, None) for name in ("codes", "labels", "lengths"))
    assert codes is not None and labels is not None
    local = Channels([fields[name] for name in sorted(fields)]) if fields else None
    return CodeSplit(
        held(codes, IN_MEMORY),
        labels[:],
        local=None if local is None else held(local, IN_MEMORY),
        lengths=None if lengths is None else lengths[:],
        num_codebooks=manifest.num_codebooks,
    )


def _check_shard(path: Path, shard: Shard, manifest: Manifest) -> dict[str, Place]:
    """The arrays of a shard, whose checksum, types, shapes and ranges are those that the manifest states."""
    places, _ = tensor_places(path, f"a safetensors file with the checksum {shard.sha256[:12]}...")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != shard.sha256:
        raise InputError(f"{path}: expected the checksum {shard.sha256[:12]}..., found {found[:12]}...: it is damaged; "
                         "extract.overwrite=true extracts all codes again")
    int64 = np.dtype(np.int64)
    forms = {"codes": (manifest.dtype, manifest.item_shape), "labels": (int64, (len(manifest.classes),)),
             **({"lengths": (int64, ())} if "lengths" in places else {})}
    for name, (dtype, shape) in forms.items():
        place, form = places.get(name), (str(dtype), (shard.count, *shape))
        stored = None if place is None else (str(place.dtype), place.shape)
        expect(path, name, stored, stored == form, str(form))
    for name in places.keys() - forms.keys():
        dtype, shape = places[name].dtype, places[name].shape
        fits = dtype is not None and len(shape) == 2 + len(manifest.grid) and shape[0] == shard.count and all(
            size in (1, own) for size, own in zip(shape[2:], manifest.grid))
        expect(path, name, shape, fits,
               f"a local field of shape ({shard.count}, c, *{manifest.grid}), any size of the grid replaced by 1")
    _check_range(path, "codes", *_range(path, places["codes"]), 0, manifest.num_codes - 1)
    if "lengths" in places:
        _check_range(path, "lengths", *_range(path, places["lengths"]), 1, manifest.grid[0])
    if manifest.classes:
        least, most = _range(path, places["labels"])
        for column, names in enumerate(manifest.classes):
            _check_range(path, f"labels[:, {column}]", least[column], most[column], 0, len(names) - 1)
    return places


def _range(path: Path, place: Place) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest value of an array that is not empty, read in pieces: of labels (n, L) of each column (L,)."""
    assert place.dtype is not None
    count, columns = place.shape[0], place.shape[1:] if place.dtype == np.int64 else ()
    rows = FileRows([Piece(path, place.offset, count)], place.dtype, place.shape[1:])
    step = max(1, PIECE // max(rows.item_bytes, 1))
    found = []
    for start in range(0, count, step):
        values = rows.array(np.arange(start, min(start + step, count))).reshape(-1, *columns)
        found.append((values.min(0), values.max(0)))
    return np.min([least for least, _ in found], 0), np.max([most for _, most in found], 0)


def _check_range(path: Path, name: str, least: np.ndarray, most: np.ndarray, lowest: int, highest: int) -> None:
    found = int(least), int(most)
    expect(path, name, found, lowest <= found[0] and found[1] <= highest, f"values from {lowest} to {highest}")
