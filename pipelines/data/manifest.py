"""manifest.json of a code data set: its content, and a reader that does not trust it."""

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.files.checks import (
    SIZES,
    expect,
    expect_classes,
    expect_counts,
    expect_keys,
    is_hash,
    is_integer,
    is_sizes,
)
from pipelines.files.errors import InputError
from pipelines.files.formats import CODES, FORMAT, migrated
from pipelines.files.reading import read_json

MANIFEST = "manifest.json"
MOST_CODES = 2**24  # counts of every code's uses take 128 MB, and a prior's logits of one position 64 MB
SPLIT_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Shard:
    """One file of a code data set."""

    file: str
    count: int  # items
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a code data set is. Stage 2 takes its sizes from here, never from a configuration."""

    num_codes: int
    num_codebooks: int
    grid: tuple[int, ...]
    data: dict[str, Any]  # name, kind and shape of the data set that was encoded
    label_names: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]  # sorted names of each label's classes
    label_counts: tuple[tuple[int, ...], ...]  # items of the training split in each class
    views: int  # passes over the training split: one without augmentation, the others with it
    stage1_hash: str
    parent_hash: str | None  # where the encoded data are codes themselves: the hash of the stage 1 that made them
    extraction: str  # hash of everything that the shards depend on, so that an extraction can be resumed
    splits: dict[str, tuple[Shard, ...]]

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of one item's codes: (*grid) or, with g > 1 codebooks, (*grid, g)."""
        return self.grid if self.num_codebooks == 1 else (*self.grid, self.num_codebooks)

    @property
    def dtype(self) -> np.dtype:
        """The type in which codes are stored."""
        return code_type(self.num_codes)

    def to_json(self) -> bytes:
        return (json.dumps({"version": FORMAT} | asdict(self), indent=1) + "\n").encode()


def code_type(num_codes: int) -> np.dtype:
    """The smallest type that stores codes of a codebook with so many."""
    return np.dtype(np.uint8 if num_codes <= 256 else np.uint16 if num_codes <= 2**16 else np.int32)


def read_manifest(folder: Path | str) -> Manifest:
    """The manifest of a finished code data set, every value checked. Raises InputError that names file and key."""
    path = Path(folder) / MANIFEST
    if not path.exists():
        raise InputError(f"{path}: expected the manifest of a finished code data set, found none; extract the codes: "
                         "make extract-codes")
    content = read_json(path, "the manifest of a finished code data set")
    content = migrated(content, path, CODES)
    expect_keys(path, "keys", content, {field.name for field in fields(Manifest)})
    _check_model(path, content)
    expect_classes(path, "", content["label_names"], content["classes"])
    expect_counts(path, "", content["classes"], content["label_counts"])
    _check_splits(path, content["splits"])
    return Manifest(**content | {
        "grid": tuple(content["grid"]),
        "data": content["data"] | {"shape": tuple(content["data"]["shape"])},
        "label_names": tuple(content["label_names"]),
        "classes": tuple(map(tuple, content["classes"])),
        "label_counts": tuple(map(tuple, content["label_counts"])),
        "splits": {name: tuple(Shard(**shard) for shard in shards) for name, shards in content["splits"].items()},
    })


def _check_model(path: Path, content: dict[str, Any]) -> None:
    for key, lowest, highest in (("num_codes", 2, MOST_CODES), ("num_codebooks", 1, 2**16), ("views", 1, 2**31)):
        found = content[key]
        expect(path, key, found, is_integer(found, lowest, highest), f"an integer from {lowest} to {highest}")
    expect(path, "grid", content["grid"], is_sizes(content["grid"]), SIZES)
    data = content["data"]
    expect(path, "data", data, isinstance(data, dict) and data.keys() == {"name", "kind", "shape"},
           "an object with name, kind and shape")
    for key in ("name", "kind"):
        expect(path, f"data.{key}", data[key], isinstance(data[key], str), "a name")
    expect(path, "data.shape", data["shape"], is_sizes(data["shape"]), SIZES)
    for key in ("stage1_hash", "parent_hash", "extraction"):
        found = content[key]
        expect(path, key, found, is_hash(found) or (key == "parent_hash" and found is None), "64 hexadecimal digits")


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
            expect(path, f"{key}.count", shard["count"], is_integer(shard["count"], 1), "a positive integer")
            expect(path, f"{key}.bytes", shard["bytes"], is_integer(shard["bytes"]), "an integer >= 0")
            expect(path, f"{key}.sha256", shard["sha256"], is_hash(shard["sha256"]), "64 hexadecimal digits")
