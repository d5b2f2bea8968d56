"""The code data set: what stage 1 makes of a data set and stage 2 learns from. Writer and reader side by side.

One folder:

    train-00000.safetensors ...   codes (n, *grid[, g]) uint8 up to 256 codes, else uint16; labels (n, L) int64; and what
                                  the encoder adds: lengths (n,) int64, local fields (n, c, *grid) under any other name
    manifest.json                 sizes, labels, hash of the stage 1 that made it, checksum of each shard; written last

Shards hold `shard_size` items each, whatever the size of the batches, and appear whole or not at all. So an extraction
that was interrupted goes on after the last whole shard, and ends with the same bytes as one that was not.
Axes: n items, g codebooks, L labels of an item, c channels; *grid is any number of axes.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save
from torch import Tensor
from tqdm import tqdm

from pipelines.data.base import Batch, Data, Split
from pipelines.errors import InputError
from pipelines.training.checkpoint import write_atomically

VERSION = 1
MANIFEST = "manifest.json"
LARGEST_MANIFEST = 64 * 2**20  # bytes: some 400,000 shards
SHARD_NAME = re.compile(r"[a-z][a-z0-9_]*-\d{5}\.safetensors")
HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Shard:
    """One file of a code data set."""

    file: str
    count: int  # items
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What manifest.json says; stage 2 and sampling take their sizes from here."""

    num_codes: int
    num_codebooks: int
    grid: tuple[int, ...]
    data: dict[str, Any]  # name, kind and shape of the data set that was encoded
    label_names: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]  # sorted names of each label's classes
    label_counts: tuple[tuple[int, ...], ...]  # items of the training split in each of them
    views: int  # passes over the training split: one plain, the others augmented
    stage1_hash: str
    parent_hash: str | None  # where the data were codes themselves: the hash of the stage 1 that made those
    extraction: str  # hash of all that the shards' bytes depend on besides the data: the same for an extraction resumed
    splits: dict[str, tuple[Shard, ...]]

    @property
    def item_shape(self) -> tuple[int, ...]:
        return self.grid if self.num_codebooks == 1 else (*self.grid, self.num_codebooks)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8 if self.num_codes <= 256 else np.uint16)


def write_codes(
    folder: Path,
    data: Data,
    encode: Callable[[Batch], dict[str, Tensor]],
    *,
    num_codes: int,
    num_codebooks: int,
    stage1_hash: str,
    parent_hash: str | None = None,
    device: torch.device | str = "cpu",
    views: int = 1,
    seed: int = 0,
    batch_size: int = 256,
    shard_size: int = 4096,
    overwrite: bool = False,
) -> "CodeData":
    """Encodes every split of `data` into `folder`, or what of it is still missing there, and reads it back.

    `encode` maps a batch on `device` to "codes" (b, *grid[, g]) int64 and what else is to be stored with them:
    "lengths" (b,), local fields (b, c, *grid). With `views` > 1 the training split is written so many times over, plain
    first and then augmented as the data set does in its epochs 0, 1, ... with `seed`: item v * n + i is view v of i.

    Raises InputError where the folder holds codes of another model or other settings, unless `overwrite` removes them.
    """
    if not 2 <= num_codes <= 2**16:
        raise InputError(f"num_codes: expected 2 to 65536, which fit in 16 bits, found {num_codes}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        grid = tuple(encode(data.split("train").to(device).batch(torch.arange(1)))["codes"].shape[1:])
    if num_codebooks > 1:
        assert grid[-1] == num_codebooks, (grid, num_codebooks)
        grid = grid[:-1]
    counts = {name: len(data.split(name)) * (views if name == "train" else 1) for name in data.splits}
    facts = {
        "num_codes": num_codes,
        "num_codebooks": num_codebooks,
        "grid": grid,
        "data": {"name": data.name, "kind": data.kind, "shape": data.shape},
        "label_names": data.label_names,
        "classes": data.classes,
        "views": views,
        "stage1_hash": stage1_hash,
        "parent_hash": parent_hash,
    }
    settings = facts | {"version": VERSION, "counts": counts, "shard_size": shard_size, "seed": seed}
    extraction = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    label_counts = _label_counts(data, views)
    manifest = Manifest(**facts, label_counts=label_counts, extraction=extraction, splits={})
    if overwrite:
        _remove(folder)
    _check_same_extraction(folder, manifest)
    if (folder / MANIFEST).exists():
        return CodeData(folder)

    for name in data.splits:
        split, shards = data.split(name).to(device), []
        with tqdm(total=counts[name], desc=f"codes {name}", unit="item", disable=None, dynamic_ncols=True) as bar:
            for number, start in enumerate(range(0, counts[name], shard_size)):
                path = folder / f"{name}-{number:05d}.safetensors"
                count = min(shard_size, counts[name] - start)
                if not path.exists():
                    batches = _batches(split, start, start + count, batch_size, seed)
                    arrays = _encode_shard(batches, encode, manifest)
                    write_atomically(path, save(arrays, metadata={"extraction": extraction}))
                content = path.read_bytes()
                shards.append(Shard(path.name, count, len(content), hashlib.sha256(content).hexdigest()))
                bar.update(count)
        manifest.splits[name] = tuple(shards)
    text = json.dumps({"version": VERSION} | asdict(manifest), indent=1)
    write_atomically(folder / MANIFEST, (text + "\n").encode())
    return CodeData(folder)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a code data set, every field checked. Raises InputError that names file and key."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise InputError(f"{path}: expected the manifest of a finished code data set, found none; extract the codes: "
                         "make extract-codes")
    if path.stat().st_size > LARGEST_MANIFEST:
        raise InputError(f"{path}: expected at most {LARGEST_MANIFEST} bytes, found {path.stat().st_size}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON, found {error}") from error
    _expect(path, "manifest", content, isinstance(content, dict), "an object")
    version = content.pop("version", None)
    _expect(path, "version", version, version == VERSION, str(VERSION))
    names = {field.name for field in fields(Manifest)}
    for problem, keys in (("missing", names - content.keys()), ("unknown", content.keys() - names)):
        if keys:
            raise InputError(f"{path}: expected the keys of version {VERSION}, found {min(keys)!r} {problem}")
    return _checked_manifest(path, content)


class CodeSplit(Split):
    """Codes as int64. Stored in their 8 or 16 bits; torch indexes no uint16, so 16 bits lie in int16 and are masked."""

    def batch(self, indices: Tensor, seed: int = 0, epoch: int | Tensor | None = None) -> Batch:
        """The codes at `indices`; there is nothing random about them, their augmented views are items of their own."""
        batch = self._take(indices)
        x = batch.x.long()
        return batch._replace(x=x & 0xFFFF if batch.x.dtype == torch.int16 else x)


class CodeData(Data):
    """A code data set that was read and found whole: the checksum of each shard, its types, sizes and ranges.

    Its own attributes are those of any data set; `manifest` holds the rest. All splits are read into memory.
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
        _check_sizes(folder, self.manifest)
        self._parts = {name: _read_split(folder, name, self.manifest) for name in self.splits}
        counts = _label_counts(self, 1)
        _expect(folder / MANIFEST, "label_counts", self.manifest.label_counts, self.manifest.label_counts == counts,
                f"those of the training shards, {_brief(counts)}")

    num_codes = property(lambda self: self.manifest.num_codes)
    num_codebooks = property(lambda self: self.manifest.num_codebooks)
    grid = property(lambda self: self.manifest.grid)
    label_counts = property(lambda self: self.manifest.label_counts)
    stage1_hash = property(lambda self: self.manifest.stage1_hash)

    def _split(self, name: str) -> CodeSplit:
        return self._parts[name]


def _batches(split: Split, start: int, stop: int, batch_size: int, seed: int) -> Iterator[Batch]:
    """Items [start, stop) of the views of a split, laid one after the other; view 0 is not augmented (epoch -1)."""
    for items in torch.arange(start, stop).split(batch_size):
        yield split.batch(items % len(split), seed, epoch=items // len(split) - 1)


def _encode_shard(batches: Iterator[Batch], encode: Callable, manifest: Manifest) -> dict[str, np.ndarray]:
    """The arrays of one shard, in the types in which they are stored."""
    parts = []
    for batch in batches:
        with torch.inference_mode():
            encoded = {name: tensor.cpu() for name, tensor in encode(batch).items()}
        codes = encoded["codes"]
        assert codes.shape == (len(batch.x), *manifest.item_shape), (codes.shape, manifest.item_shape)
        assert codes.min() >= 0 and codes.max() < manifest.num_codes, (codes.min(), codes.max(), manifest.num_codes)
        encoded["codes"] = codes.to(torch.uint8 if manifest.dtype == np.uint8 else torch.uint16)
        parts.append(encoded | {"labels": batch.labels.cpu()})
    return {name: np.ascontiguousarray(torch.cat([part[name] for part in parts]).numpy()) for name in parts[0]}


def _label_counts(data: Data, views: int) -> tuple[tuple[int, ...], ...]:
    """For each label, how many training items of each class there are."""
    labels = data.split("train").labels
    return tuple(tuple((torch.bincount(labels[:, column], minlength=count) * views).tolist())
                 for column, count in enumerate(data.num_classes))


def _check_same_extraction(folder: Path, manifest: Manifest) -> None:
    """Raises InputError if any file of a code data set in the folder is of another extraction, or is damaged."""
    found = {}
    if (folder / MANIFEST).exists():
        found[MANIFEST] = read_manifest(folder).extraction
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "np") as shard:
                found[path.name] = (shard.metadata() or {}).get("extraction")
        except SafetensorError as error:
            raise InputError(f"{path}: expected a whole shard, found a damaged one ({error}); "
                             "overwrite=true extracts all codes anew") from error
    for name, extraction in found.items():
        if extraction != manifest.extraction:
            raise InputError(f"{folder / name}: expected codes of this stage 1 ({manifest.stage1_hash[:12]}) with these "
                             "settings, found another extraction's; overwrite=true removes them")


def _remove(folder: Path) -> None:
    """Removes a code data set, manifest first: what is left of it if interrupted is no data set."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in folder.iterdir():
        if SHARD_NAME.fullmatch(path.name):
            path.unlink()


def _check_sizes(folder: Path, manifest: Manifest) -> None:
    """Each shard is there, as large as the manifest says and large enough for its items; memory can hold them all."""
    path, total = folder / MANIFEST, 0
    for name, shards in manifest.splits.items():
        for shard in shards:
            file = folder / shard.file
            if not file.is_file() or file.resolve().parent != folder.resolve():
                raise InputError(f"{path}: splits.{name}: expected the shard {shard.file} in the folder, found none")
            size, least = file.stat().st_size, shard.count * math.prod(manifest.item_shape) * manifest.dtype.itemsize
            if size != shard.bytes:
                raise InputError(f"{file}: expected {shard.bytes} bytes, found {size}")
            if size < least:
                raise InputError(f"{path}: splits.{name}: expected {shard.file} to hold {shard.count} items "
                                 f"({least} bytes of codes), found {size} bytes")
            total += size
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if total > memory:
        raise InputError(f"{path}: expected codes that fit in memory ({memory} bytes), found {total} bytes")


def _read_split(folder: Path, name: str, manifest: Manifest) -> CodeSplit:
    """All shards of a split, joined."""
    parts = [_read_shard(folder / shard.file, shard, manifest) for shard in manifest.splits[name]]
    for shard, part in zip(manifest.splits[name], parts, strict=True):
        _expect(folder / shard.file, "tensors", sorted(part), part.keys() == parts[0].keys(),
                f"{sorted(parts[0])} as in the first shard")
    joined = {field: torch.from_numpy(np.concatenate([part.pop(field) for part in parts])) for field in sorted(parts[0])}
    codes, labels, lengths = joined.pop("codes"), joined.pop("labels"), joined.pop("lengths", None)
    local = torch.cat([field.float() for field in joined.values()], dim=1) if joined else None
    return CodeSplit(codes, labels, local=local, lengths=lengths)


def _read_shard(path: Path, shard: Shard, manifest: Manifest) -> dict[str, np.ndarray]:
    """The arrays of a shard, checked: codes as uint8 or int16, labels and lengths as int64, local fields as stored."""
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != shard.sha256:
        raise InputError(f"{path}: expected the checksum {shard.sha256[:12]}..., found {found[:12]}...: damaged; "
                         "extract the codes again with overwrite=true")
    try:
        arrays = load(content)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: expected a safetensors file of codes, found none that can be read ({error})") from error
    for name, dtype, shape in (
        ("codes", manifest.dtype, (shard.count, *manifest.item_shape)),
        ("labels", np.dtype(np.int64), (shard.count, len(manifest.classes))),
        *([("lengths", np.dtype(np.int64), (shard.count,))] if "lengths" in arrays else []),
    ):
        array = arrays.get(name)
        described = "nothing" if array is None else f"{array.dtype} {array.shape}"
        if array is None or array.dtype != dtype or array.shape != shape:
            raise InputError(f"{path}: {name}: expected {dtype} {shape}, found {described}")
    _check_range(path, "codes", arrays["codes"], 0, manifest.num_codes - 1)
    for column, names in enumerate(manifest.classes):
        _check_range(path, f"labels[:, {column}]", arrays["labels"][:, column], 0, len(names) - 1)
    if "lengths" in arrays:
        _check_range(path, "lengths", arrays["lengths"], 1, manifest.grid[0])
    for name in arrays.keys() - {"codes", "labels", "lengths"}:
        array = arrays[name]
        _expect(path, name, array.shape, array.ndim >= 2 and (len(array), *array.shape[2:]) == (shard.count, *manifest.grid),
                f"a local field ({shard.count}, c, {', '.join(map(str, manifest.grid))})")
    if arrays["codes"].dtype == np.uint16:
        arrays["codes"] = arrays["codes"].view(np.int16)
    return arrays


def _check_range(path: Path, name: str, array: np.ndarray, lowest: int, highest: int) -> None:
    found = (int(array.min()), int(array.max()))
    _expect(path, name, found, lowest <= found[0] and found[1] <= highest, f"values from {lowest} to {highest}")


def _checked_manifest(path: Path, content: dict[str, Any]) -> Manifest:
    """A manifest from JSON with every value of its type, lists turned into tuples."""

    def integer(value: Any, lowest: int, highest: int = 2**62) -> bool:
        return type(value) is int and lowest <= value <= highest

    def list_of(value: Any, accept: Callable[[Any], bool], least: int = 0) -> bool:
        return isinstance(value, list) and len(value) >= least and all(accept(item) for item in value)

    def names(value: Any, least: int = 0) -> bool:
        return list_of(value, lambda name: isinstance(name, str), least) and len(set(value)) == len(value)

    def hashed(value: Any) -> bool:
        return isinstance(value, str) and HASH.fullmatch(value) is not None

    def check(key: str, accepted: bool, expected: str) -> None:
        _expect(path, key, content[key], accepted, expected)

    check("num_codes", integer(content["num_codes"], 2, 2**16), "an integer from 2 to 65536")
    check("num_codebooks", integer(content["num_codebooks"], 1), "a positive integer")
    check("grid", list_of(content["grid"], lambda size: integer(size, 1), 1), "a list of positive integers")
    data = content["data"]
    check("data", isinstance(data, dict) and set(data) == {"name", "kind", "shape"} and isinstance(data["name"], str)
          and isinstance(data["kind"], str) and list_of(data["shape"], lambda size: integer(size, 1), 1),
          "name, kind and shape of a data set")
    check("label_names", names(content["label_names"]), "a list of names")
    labels = len(content["label_names"])
    check("classes", list_of(content["classes"], lambda value: names(value, 1) and value == sorted(value))
          and len(content["classes"]) == labels, f"a list of sorted class names for each of {labels} labels")
    sizes = [len(value) for value in content["classes"]]
    check("label_counts", list_of(content["label_counts"], lambda value: list_of(value, lambda count: integer(count, 0)))
          and [len(value) for value in content["label_counts"]] == sizes, f"lists of {sizes} counts")
    check("views", integer(content["views"], 1), "a positive integer")
    check("stage1_hash", hashed(content["stage1_hash"]), "64 hexadecimal digits")
    check("parent_hash", content["parent_hash"] is None or hashed(content["parent_hash"]), "null or 64 hexadecimal digits")
    check("extraction", hashed(content["extraction"]), "64 hexadecimal digits")
    splits = content["splits"]
    check("splits", isinstance(splits, dict) and "train" in splits, "an object with the split 'train'")
    for name, shards in splits.items():
        _expect(path, f"splits.{name}", shards, isinstance(shards, list) and len(shards) > 0, "a list of shards")
        for number, shard in enumerate(shards):
            key = f"splits.{name}[{number}]"
            _expect(path, key, shard, isinstance(shard, dict) and shard.keys() == {field.name for field in fields(Shard)},
                    "file, count, bytes and sha256")
            file = f"{name}-{number:05d}.safetensors"
            _expect(path, f"{key}.file", shard["file"], shard["file"] == file and SHARD_NAME.fullmatch(file), file)
            for field, lowest in (("count", 1), ("bytes", 0)):
                _expect(path, f"{key}.{field}", shard[field], integer(shard[field], lowest), f"an integer from {lowest}")
            _expect(path, f"{key}.sha256", shard["sha256"], hashed(shard["sha256"]), "64 hexadecimal digits")
    return Manifest(**content | {
        "grid": tuple(content["grid"]),
        "data": data | {"shape": tuple(data["shape"])},
        "label_names": tuple(content["label_names"]),
        "classes": tuple(map(tuple, content["classes"])),
        "label_counts": tuple(map(tuple, content["label_counts"])),
        "splits": {name: tuple(Shard(**shard) for shard in shards) for name, shards in splits.items()},
    })


def _expect(path: Path, key: str, found: Any, accepted: Any, expected: str) -> None:
    if not accepted:
        raise InputError(f"{path}: {key}: expected {expected}, found {_brief(found)}")


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
