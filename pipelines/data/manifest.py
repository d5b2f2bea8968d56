"""manifest.json of a code data set: what it says, and how it is read without trusting it."""

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.files.errors import InputError

VERSION = 1
MANIFEST = "manifest.json"
LARGEST = 64 * 2**20  # bytes of a manifest: some 400,000 shards
SPLIT_NAME = re.compile(r"[a-z][a-z0-9_]*")
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
    """What a code data set is. Stage 2 and sampling take their sizes from here."""

    num_codes: int
    num_codebooks: int
    grid: tuple[int, ...]
    data: dict[str, Any]  # name, kind and shape of the data set that was encoded
    label_names: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]  # sorted names of each label's classes
    label_counts: tuple[tuple[int, ...], ...]  # items of the training split in each class
    views: int  # passes over the training split: one plain, the others augmented
    stage1_hash: str
    parent_hash: str | None  # where the data were codes themselves: the hash of the stage 1 that made those
    extraction: str  # hash of all that the shards depend on: the same for an extraction that is resumed
    splits: dict[str, tuple[Shard, ...]]

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Of the codes of one item: (*grid) or, with g > 1 codebooks, (*grid, g)."""
        return self.grid if self.num_codebooks == 1 else (*self.grid, self.num_codebooks)

    @property
    def dtype(self) -> np.dtype:
        """In which codes are stored."""
        return np.dtype(np.uint8 if self.num_codes <= 256 else np.uint16)

    def to_json(self) -> bytes:
        return (json.dumps({"version": VERSION} | asdict(self), indent=1) + "\n").encode()


def read_manifest(folder: Path | str) -> Manifest:
    """The manifest of a finished code data set, every value checked. Raises InputError that names file and key."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise InputError(f"{path}: expected the manifest of a finished code data set, found none; extract the codes: "
                         "make extract-codes")
    if path.stat().st_size > LARGEST:
        raise InputError(f"{path}: expected at most {LARGEST} bytes, found {path.stat().st_size}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON, found {error}") from error
    expect(path, "manifest", content, isinstance(content, dict), "an object")
    expect(path, "version", content.get("version"), content.get("version") == VERSION, str(VERSION))
    names = {"version"} | {field.name for field in fields(Manifest)}
    expect(path, "keys", sorted(content), content.keys() == names, f"exactly {', '.join(sorted(names))}")
    del content["version"]
    _check_model(path, content)
    _check_labels(path, content)
    _check_splits(path, content["splits"])
    return Manifest(**content | {
        "grid": tuple(content["grid"]),
        "data": content["data"] | {"shape": tuple(content["data"]["shape"])},
        "label_names": tuple(content["label_names"]),
        "classes": tuple(map(tuple, content["classes"])),
        "label_counts": tuple(map(tuple, content["label_counts"])),
        "splits": {name: tuple(Shard(**shard) for shard in shards) for name, shards in content["splits"].items()},
    })


def expect(path: Path, key: str, found: Any, accepted: Any, expected: str) -> None:
    """Raises InputError that names file and key, unless `accepted`; what was found is cut where it is long."""
    if not accepted:
        raise InputError(f"{path}: {key}: expected {expected}, found {brief(found)}")


def brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _check_model(path: Path, content: dict[str, Any]) -> None:
    for key, lowest, highest in (("num_codes", 2, 2**16), ("num_codebooks", 1, 2**16), ("views", 1, 2**31)):
        found = content[key]
        expect(path, key, found, _integer(found, lowest, highest), f"an integer from {lowest} to {highest}")
    expect(path, "grid", content["grid"], _sizes(content["grid"]), "a list of positive integers")
    data = content["data"]
    expect(path, "data", data, isinstance(data, dict) and data.keys() == {"name", "kind", "shape"},
           "an object with name, kind and shape")
    for key in ("name", "kind"):
        expect(path, f"data.{key}", data[key], isinstance(data[key], str), "a name")
    expect(path, "data.shape", data["shape"], _sizes(data["shape"]), "a list of positive integers")
    for key in ("stage1_hash", "parent_hash", "extraction"):
        found = content[key]
        expect(path, key, found, _hash(found) or (key == "parent_hash" and found is None), "64 hexadecimal digits")


def _check_labels(path: Path, content: dict[str, Any]) -> None:
    names, classes, counts = (content[key] for key in ("label_names", "classes", "label_counts"))
    expect(path, "label_names", names, _names(names), "a list of different names")
    for key, value in (("classes", classes), ("label_counts", counts)):
        expect(path, key, value, isinstance(value, list) and len(value) == len(names), f"a list for each of {names}")
    for number, (own, own_counts) in enumerate(zip(classes, counts, strict=True)):
        expect(path, f"classes[{number}]", own, _names(own) and own and own == sorted(own), "a sorted list of names")
        accepted = isinstance(own_counts, list) and len(own_counts) == len(own) and all(map(_integer, own_counts))
        expect(path, f"label_counts[{number}]", own_counts, accepted, f"{len(own)} counts")


def _check_splits(path: Path, splits: Any) -> None:
    expect(path, "splits", splits, isinstance(splits, dict) and "train" in splits, "an object with the split 'train'")
    for name, shards in splits.items():
        expect(path, "splits", name, SPLIT_NAME.fullmatch(name), "names of lower-case letters")
        expect(path, f"splits.{name}", shards, isinstance(shards, list) and shards, "a list of shards")
        for number, shard in enumerate(shards):
            key = f"splits.{name}[{number}]"
            keys = {field.name for field in fields(Shard)}
            expect(path, key, shard, isinstance(shard, dict) and shard.keys() == keys, f"exactly {sorted(keys)}")
            file = f"{name}-{number:05d}.safetensors"
            expect(path, f"{key}.file", shard["file"], shard["file"] == file, file)
            expect(path, f"{key}.count", shard["count"], _integer(shard["count"], 1), "a positive integer")
            expect(path, f"{key}.bytes", shard["bytes"], _integer(shard["bytes"]), "an integer from 0")
            expect(path, f"{key}.sha256", shard["sha256"], _hash(shard["sha256"]), "64 hexadecimal digits")


def _integer(value: Any, lowest: int = 0, highest: int = 2**62) -> bool:
    return type(value) is int and lowest <= value <= highest  # a bool is no integer here


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_integer(size, 1) for size in value)


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value) and len(set(value)) == len(value)


def _hash(value: Any) -> bool:
    return isinstance(value, str) and HASH.fullmatch(value) is not None
