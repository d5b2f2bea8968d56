"""Parquet files in the layout of Hugging Face's datasets: a column of images or audio, each {bytes, path}, and labels.

    root/*.parquet                            all belong to training; validation is held out
    root/{train,validation,test}/*.parquet    splits by folder
    root/data/train-00000-of-00002.parquet    splits by the beginning of the names, as the hub keeps them

Cells are read in place, a row group at a time. Needs the extra `parquet`.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipelines.data.audio_files import SUFFIXES
from pipelines.data.folders import FOLDERS, FoundFile, Part
from pipelines.data.image_files import image_formats
from pipelines.data.members import Member
from pipelines.data.packed import MEDIA, Found, Packed, PackedData, containers_of
from pipelines.files.errors import InputError
from pipelines.tokens.parquet import pyarrow_for, read_arrow

SPLIT = re.compile(r"(train|validation|valid|val|test)[-.]")
GROUPS = 2  # row groups of a column that are in memory at once, in each process


@dataclass(frozen=True)
class Cell(Member):
    """The `bytes` of a cell of a column {bytes, path}."""

    container: str
    name: str
    column: str
    group: int
    row: int  # in its group

    def read(self) -> bytes:
        found = _cells(self.container, self.column, self.group)[self.row].as_py()
        if not isinstance(found, bytes) or not found:
            raise ValueError("it has no bytes, but names another file")
        return found


@lru_cache(GROUPS)
def _cells(container: str, column: str, group: int) -> Any:
    path = Path(container)
    _, pq = pyarrow_for(path)
    table = read_arrow(path, lambda: pq.ParquetFile(path).read_row_group(group, [f"{column}.bytes"], use_threads=False))
    return table[column].combine_chunks().field("bytes")


class HfParquet(PackedData):
    """Items are sorted by the path of their file, and lie in the order of its rows.

    column: of the images or recordings; None: the only one of {bytes, path}. media: "image" or "audio"; None: as the
    features in the files' metadata say, or the suffix of the first path. labels: the column of the class; None: the
    only ClassLabel of the features, if there is one; False: none. The names of a ClassLabel are the classes.

    Raises InputError for a folder without Parquet files, for a damaged one, for columns that are not there, and for a
    row without a label.
    """

    def __init__(self, root: str, cache: str, name: str = "", column: str | None = None, media: str | None = None,
                 labels: str | bool | None = None, size: int | list[int] = 64, store_size: int | list[int] = 0,
                 channels: int = 3, range: str | list[float] | None = None, pad: int = 0, flip: bool = False,
                 sample_rate_hz: int = 16_000, crop: int = 7680, length: int = 65_536, peak: float = 0.0,
                 validation_fraction: float = 0.1, workers: int = 0, seed: int = 0, cache_bytes: int = 0):
        if labels is True or not isinstance(labels, str | bool | None):
            raise InputError(f"data.labels: expected a column, false or null, found {labels!r}")
        self._column, self._labels = column, labels
        images = {"size": size, "store_size": store_size, "channels": channels, "range": range, "pad": pad,
                  "flip": flip}
        audio = {"sample_rate_hz": sample_rate_hz, "crop": crop, "length": length, "peak": peak}
        super().__init__(root, cache, name, media, images, audio, validation_fraction=validation_fraction,
                         workers=workers, seed=seed, cache_bytes=cache_bytes)

    def _find(self, root: Path, cache: Path, media: str | None) -> Found:
        parts = _by_name(containers_of(root, ".parquet", "Parquet files"))
        first = parts["train"].folder / parts["train"].files[0].path
        features = _features(first)
        column, labels = self._chosen(first, features)
        packed = {split: self._packed(part, column, labels, features) for split, part in parts.items()}
        if media is None:
            kind = str(features.get(column, {}).get("_type", "")).lower()
            suffix = Path(packed["train"].names[0]).suffix.lower() if packed["train"].names else ""
            media = kind if kind in MEDIA else "image" if suffix in image_formats() else (
                "audio" if suffix in SUFFIXES else None)
        if media is None:
            raise InputError(f"{first}: {column}: expected the feature Image or Audio, or paths with a suffix, found "
                             "neither; data.media=image or data.media=audio says which it is")
        for split, part in packed.items():
            if not part.members:
                raise InputError(f"{parts[split].folder}: expected at least one row for {split}, found none")
        return Found(media, packed, labels or "class")

    def _chosen(self, path: Path, features: dict[str, Any]) -> tuple[str, str | None]:
        """The column of the media, and that of the labels."""
        fields = _schema(path)
        media = [name for name, kind in fields.items() if _is_media(kind)]
        column = self._column or (media[0] if len(media) == 1 else None)
        if column not in media:
            one = "one column" if column is None else f"the column {column}"
            raise InputError(f"{path}: expected {one} of {{bytes, path}}; data.column names it; found "
                             f"{', '.join(f'{name}: {kind}' for name, kind in fields.items())[:200]}")
        if self._labels is False:
            return column, None
        known = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
        if self._labels is None and len(known) > 1:
            raise InputError(f"{path}: expected one ClassLabel, found {', '.join(known)}; data.labels names one, or "
                             "is false")
        labels = self._labels or (known[0] if known else None)
        if labels is not None and labels not in fields:
            raise InputError(f"{path}: data.labels: expected a column among {', '.join(fields)}, found {labels!r}")
        return column, labels if labels is None else str(labels)

    def _packed(self, part: Part, column: str, labels: str | None, features: dict[str, Any]) -> Packed:
        members: list[Member] = []
        names: list[str] = []
        texts: list[str] = []
        for file in part.files:
            path = part.folder / file.path
            _, pq = pyarrow_for(path)
            opened = read_arrow(path, lambda path=path: pq.ParquetFile(path))
            wanted = [column, *([] if labels is None else [labels])]
            for name in wanted:
                if name not in opened.schema_arrow.names or (name == column and not _is_media(
                        opened.schema_arrow.field(name).type)):
                    raise InputError(f"{path}: expected the column {name} as in other files, found "
                                     f"{', '.join(opened.schema_arrow.names)}")
            for group in range(opened.num_row_groups):
                table = read_arrow(path, lambda: opened.read_row_group(
                    group, [f"{column}.path", *([] if labels is None else [labels])], use_threads=False))
                paths = table[column].combine_chunks().field("path").to_pylist()
                for row, own in enumerate(paths):
                    name = f"row {len(names)}" if not own else f"row {len(names)}: {Path(own).name}"
                    members.append(Cell(str(path), name, column, group, row))
                    names.append(f"{file.path}/{name}")
                if labels is not None:
                    texts += _texts(path, labels, table[labels].to_pylist(), features.get(labels, {}))
        return Packed(members, names, None if labels is None else texts, [part.folder.name, part.files, column],
                      part.left_out)


def _by_name(parts: dict[str, Part]) -> dict[str, Part]:
    """The only part, of a folder without those of splits, by the beginnings of file names where these are splits."""
    if len(parts) > 1 or not any(SPLIT.match(Path(file.path).name) for file in parts["train"].files):
        return parts
    part = parts["train"]
    found: dict[str, list[FoundFile]] = {split: [] for split in FOLDERS}
    for file in part.files:
        match = SPLIT.match(Path(file.path).name)
        if match is None:
            raise InputError(f"{part.folder / file.path}: expected a name that begins with train-, validation- or "
                             "test- as others do, found another")
        found[next(split for split, names in FOLDERS.items() if match[1] in names)].append(file)
    if not found["train"]:
        raise InputError(f"{part.folder}: expected files train-*.parquet, found none")
    return {split: part._replace(files=files, left_out=part.left_out if split == "train" else {})
            for split, files in found.items() if files}


def _schema(path: Path) -> dict[str, Any]:
    _, pq = pyarrow_for(path)
    return {field.name: field.type for field in read_arrow(path, lambda: pq.read_schema(path))}


def _is_media(kind: Any) -> bool:
    import pyarrow as pa

    if not pa.types.is_struct(kind):
        return False
    names = {kind.field(place).name: kind.field(place).type for place in range(kind.num_fields)}
    return names.keys() == {"bytes", "path"} and (pa.types.is_binary(names["bytes"]) or
                                                  pa.types.is_large_binary(names["bytes"]))


def _features(path: Path) -> dict[str, Any]:
    """Column -> feature, {"_type": "ClassLabel", "names": [...]}, as the metadata have it; none where they do not."""
    _, pq = pyarrow_for(path)
    metadata = read_arrow(path, lambda: pq.read_schema(path)).metadata or {}
    try:
        found = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    return {name: feature for name, feature in found.items() if isinstance(feature, dict)}


def _texts(path: Path, column: str, values: Sequence[Any], feature: dict[str, Any]) -> list[str]:
    """The class of each row. Raises InputError for a row without one."""
    names, found = feature.get("names") if feature.get("_type") == "ClassLabel" else None, []
    for row, value in enumerate(values):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if isinstance(names, list) and whole and 0 <= value < len(names):
            found.append(str(names[value]))
        elif not isinstance(names, list) and (whole or (isinstance(value, str) and value)):
            found.append(str(value))
        else:
            expected = f"a class from 0 to {len(names) - 1}" if isinstance(names, list) else "a name or a number"
            raise InputError(f"{path}: {column}: expected {expected} in each row, found {value!r} in a row {row} of a "
                             "row group; data.labels=false: all items, without labels")
    return found
