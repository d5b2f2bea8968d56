"""What every format of token files reads and writes: arrays of integers, one item after the other.

Axes: n items, m items that are asked for, g codebooks; *grid the positions of an item; *shape an item as it is stored.
"""

import csv
import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from pipelines.files.arrays import read_array
from pipelines.files.atomic import file_made_whole, write_atomically
from pipelines.files.errors import InputError
from pipelines.files.platforms import memory_bytes

CODES, LENGTHS, LABEL, LOCAL = "codes", "lengths", "label_", "local_"  # names in files that hold several arrays
AXES = (None, "first", "last")
MOST_CLASSES = 2**16
MOST_TEXT = 2**28  # bytes of a file of labels


@dataclass(frozen=True)
class Options:
    """How a file is to be read, where it does not say so itself; None: not given."""

    key: str | None = None  # the array, or column, that holds the codes
    item_length: int | None = None  # of a stream that is cut into items
    dtype: str | None = None  # of a file that does not state one


@dataclass(frozen=True)
class Label:
    """One label of n items."""

    numbers: np.ndarray  # (n,) int64 into `classes`
    classes: tuple[str, ...]  # sorted

    @classmethod
    def of(cls, values: np.ndarray, what: str) -> Self:
        """Numbers or names (n,) -> the label whose classes are those that occur. Raises InputError that names `what`
        for other types."""
        if values.ndim != 1 or values.dtype.kind not in "iuUb":
            raise InputError(f"{what}: expected one whole number or name per item, found {values.dtype} {values.shape}")
        found, places = np.unique(values, return_inverse=True)
        if len(found) > MOST_CLASSES:
            raise InputError(f"{what}: expected at most {MOST_CLASSES} classes, found {len(found)}")
        names = [str(value) for value in found.tolist()]
        classes = tuple(sorted(names))
        order = np.array([classes.index(name) for name in names], np.int64)
        return cls(order[places], classes)

    @property
    def names(self) -> list[str]:
        """The class of each item."""
        return [self.classes[number] for number in self.numbers.tolist()]

    @property
    def values(self) -> np.ndarray:
        """The class of each item, as numbers where all classes are called by one."""
        names = np.array(self.classes)
        plain = all(name.isdecimal() and str(int(name)) == name and len(name) < 19 for name in self.classes)
        return (names.astype(np.int64) if plain else names)[self.numbers]

    def joined(self, classes: tuple[str, ...]) -> "Label":
        """The same with more classes."""
        places = np.array([classes.index(name) for name in self.classes], np.int64)
        return Label(places[self.numbers], classes)


@dataclass(frozen=True)
class Layout:
    """How codes lie in files: all that is needed to write more of them as they came in."""

    format: str
    dtype: str  # as NumPy writes it: "<u2"
    shape: tuple[int, ...]  # of one item; the longest, where items have lengths
    grid: tuple[int, ...]
    num_codebooks: int = 1
    codebook_axis: str | None = None  # "first": (g, *grid), "last": (*grid, g); None: one codebook, no axis
    key: str | None = None  # the array, or column, of the codes
    padded: bool = False  # items have lengths
    padding: int | None = None  # what stands beyond an item's length, and so says how long it is; None: lengths say so

    @classmethod
    def found(cls, name: str, dtype: np.dtype, shape: tuple[int, ...], grid: Sequence[int] | None,
              codebook_axis: str | None, key: str | None, path: Path) -> Self:
        """Of items (*shape) in `path`, cut into `grid` where one is given. Raises InputError where they do not fit."""
        axis = codebook_axis
        if grid is None and axis is not None and len(shape) < 2:
            raise InputError(f"{path}: expected items with an axis of codebooks, found shape {shape}; --grid cuts them")
        own = tuple(grid) if grid is not None else shape[1:] if axis == "first" else shape[:-1] if axis else shape
        size, books = math.prod(own), math.prod(shape) // math.prod(own)
        if size * books != math.prod(shape) or (axis is None and books != 1) or not books:
            times = "" if axis is None else " times a number of codebooks"
            raise InputError(f"{path}: expected items of {' x '.join(map(str, own))} = {size} codes{times}, found "
                             f"shape {shape}, {math.prod(shape)} codes")
        if not 1 <= len(own) <= 3:
            raise InputError(f"{path}: expected items with 1 to 3 axes, found shape {shape}; --grid gives the axes, "
                             "--codebook-axis says that one is of codebooks")
        return cls(name, dtype.str, shape, own, books, axis, key)

    @classmethod
    def from_facts(cls, facts: Any) -> Self:
        """What `to_facts` made, read from a run's configuration, which is not trusted. Raises ValueError."""
        if not isinstance(facts, dict) or facts.keys() != cls.__dataclass_fields__.keys():
            raise ValueError(f"expected exactly {', '.join(cls.__dataclass_fields__)}")
        made = cls(**facts | {"shape": tuple(facts["shape"]), "grid": tuple(facts["grid"])})
        sizes = [*made.shape, *made.grid, made.num_codebooks]
        if any(type(size) is not int or not 1 <= size < 2**31 for size in sizes) or type(made.padding) not in (
                int, type(None)) or type(made.padded) is not bool:
            raise ValueError("expected sizes that are positive integers")
        if math.prod(made.shape) != math.prod(made.grid) * made.num_codebooks or made.codebook_axis not in AXES:
            raise ValueError("expected a shape of as many codes as the grid has")
        if np.dtype(made.dtype).kind not in "iu" or not isinstance(made.key, str | None):
            raise ValueError(f"expected a type of integers, found {made.dtype}")
        return made

    def to_facts(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"shape": list(self.shape), "grid": list(self.grid)}

    @property
    def length_axis(self) -> int:
        """The axis of a stored item along which items with lengths are padded."""
        return len(self.shape) - 1 if self.codebook_axis == "first" else 0

    @property
    def size(self) -> int:
        """Codes of an item."""
        return math.prod(self.shape)

    def to_codes(self, items: np.ndarray) -> np.ndarray:
        """Stored items (m, *shape) -> codes (m, *grid[, g]) of the same type. Items with one axis may be shorter."""
        grid = (-1,) if len(self.grid) == 1 else self.grid
        if self.codebook_axis == "first":
            items = np.moveaxis(items.reshape(len(items), self.num_codebooks, *grid), 1, -1)
        return items.reshape(len(items), *items.shape[1:-1] if self.codebook_axis == "first" else grid,
                             *([self.num_codebooks] if self.num_codebooks > 1 else []))

    def to_items(self, codes: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
        """The inverse of `to_codes`, in the type of the file, with `padding` beyond the lengths."""
        items = codes.reshape(len(codes), *self.grid, self.num_codebooks).astype(self.dtype)
        if lengths is not None:
            items[np.arange(self.grid[0]) >= lengths[:, None]] = self.padding or 0
        items = np.moveaxis(items, -1, 1) if self.codebook_axis == "first" else items
        return np.ascontiguousarray(items).reshape(len(codes), *self.shape)


class Source(ABC):
    """An opened file, or folder, of tokens: its header is read and checked, its items are not."""

    path: Path
    dtype: np.dtype  # integers
    shape: tuple[int, ...]  # of one item; of items with lengths the longest
    key: str | None = None  # the array, or column, of the codes
    lengths: np.ndarray | None = None  # (n,) int64, where items have them
    length_axis: int | None = None  # of an item, along which they differ; None: not known
    labels: Mapping[str, Label] = {}
    left_out: Sequence[str] = ()  # what else is there, in words

    @property
    @abstractmethod
    def count(self) -> int:
        """The number of items."""

    @abstractmethod
    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Items (m, *shape) with these numbers, int64 (m,) ascending."""


@dataclass(frozen=True)
class Tokens:
    """Items to be written."""

    items: np.ndarray  # (n, *shape) as `Layout.to_items` makes them
    layout: Layout
    lengths: np.ndarray | None = None  # (n,) int64
    labels: Mapping[str, Label] = field(default_factory=dict)
    local: Mapping[str, np.ndarray] = field(default_factory=dict)  # (n, c, *grid or 1s)
    names: Sequence[str] | None = None  # of the items, for formats of one file each; None: their numbers

    def item(self, number: int) -> np.ndarray:
        """One item without padding."""
        if self.lengths is None:
            return self.items[number]
        return self.items[number].take(range(int(self.lengths[number])), axis=self.layout.length_axis)

    def arrays(self, of_label: Callable[[Label], np.ndarray]) -> dict[str, np.ndarray]:
        """All of them by name, for formats of several arrays per file; `of_label`: how a label is stored."""
        lengths = {} if self.lengths is None else {LENGTHS: self.lengths}
        labels = {f"{LABEL}{name}": of_label(label) for name, label in self.labels.items()}
        local = {f"{LOCAL}{name}": np.ascontiguousarray(array) for name, array in self.local.items()}
        return {self.layout.key or CODES: self.items, **lengths, **labels, **local}


class Format(ABC):
    """A format of token files."""

    name: str
    suffix: str  # of its files; "" for folders
    lines: str  # Python that reads the codes of `train`, for the card of an export
    others: str  # where labels, lengths and local fields are, in words

    @abstractmethod
    def open(self, path: Path, options: Options) -> Source:
        """Raises InputError for what is no whole file of this format. No memory is taken on a header's word."""

    @abstractmethod
    def write(self, folder: Path, stem: str, tokens: Tokens) -> Path:
        """Writes `stem` with the suffix, and files beside it for what the format has no room for. Returns its path."""


class ArraySource(Source):
    """An array in memory, or memory-mapped."""

    def __init__(self, path: Path, array: np.ndarray, key: str | None = None, lengths: np.ndarray | None = None,
                 labels: Mapping[str, Label] | None = None, left_out: Sequence[str] = ()):
        if array.dtype.kind not in "iu":
            raise InputError(f"{path}: expected integers, found {array.dtype}")
        if array.ndim < 2 or not array.size:
            raise InputError(f"{path}: expected an array of items, (n, ...), with at least one code, found shape "
                             f"{array.shape}")
        self.path, self.array, self.dtype, self.shape = path, array, array.dtype, array.shape[1:]
        self.key, self.lengths, self.labels, self.left_out = key, lengths, labels or {}, left_out

    @property
    def count(self) -> int:
        return len(self.array)

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        whole = len(numbers) and numbers[-1] - numbers[0] == len(numbers) - 1
        return np.asarray(self.array[numbers[0] : numbers[-1] + 1] if whole else self.array[numbers])


def array_source(path: Path, arrays: Mapping[str, np.ndarray], options: Options, classes: Mapping[str, Sequence[str]]
                 ) -> ArraySource:
    """The source of a file that holds several arrays by name: `codes` or the one that `options` names, `lengths`,
    `label_NAME`. classes: the names of the classes of labels that are numbers."""
    wanted = options.key or CODES
    if wanted not in arrays and options.key is None:
        others = [name for name in arrays if name != LENGTHS and not name.startswith((LABEL, LOCAL))]
        wanted = others[0] if len(others) == 1 else wanted
    if wanted not in arrays:
        shown = ", ".join(list(arrays)[:12]) or "none"
        raise InputError(f"{path}: expected an array named {wanted} (--key names another), found {shown}")
    labels = {}
    for name in [name for name in arrays if name.startswith(LABEL)]:
        own = name.removeprefix(LABEL)
        labels[own] = label_of(arrays[name], classes.get(own), f"{path}: {name}")
    lengths = np.array(arrays[LENGTHS]) if LENGTHS in arrays and wanted != LENGTHS else None
    rest = [name for name in arrays if name not in (wanted, LENGTHS) and not name.startswith(LABEL)]
    return ArraySource(path, arrays[wanted], wanted, lengths, labels, rest)


def label_of(values: np.ndarray, classes: Sequence[str] | None, what: str) -> Label:
    """A label whose classes may have names of their own."""
    if classes is None:
        return Label.of(np.asarray(values), what)
    if values.ndim != 1 or values.dtype.kind not in "iu" or list(classes) != sorted(set(classes)) or (
            len(values) and not 0 <= values.min() <= values.max() < len(classes)):
        raise InputError(f"{what}: expected numbers of {len(classes)} classes in sorted order, found others")
    return Label(np.array(values, np.int64), tuple(classes))


def unpadded(codes: np.ndarray, padding: int, path: Path, start: int = 0) -> np.ndarray:
    """Lengths (m,) int64 of codes (m, t[, g]) without what equals `padding` at their ends. Raises InputError for an
    item of padding alone; `start`: the number of the first."""
    kept = (codes != padding).reshape(len(codes), codes.shape[1], -1).any(2)
    if not kept.any(1).all():
        raise InputError(f"{path}: padding: expected a code in each item, found none in item "
                         f"{start + int(np.flatnonzero(~kept.any(1))[0])}")
    return codes.shape[1] - kept[:, ::-1].argmax(1).astype(np.int64)


def check_room(path: Path, size: int) -> None:
    """Raises InputError for more bytes than there is memory."""
    memory = memory_bytes()
    if memory is not None and size > memory:
        raise InputError(f"{path}: expected an array that fits into memory, {memory} bytes, found {size} bytes")


# --- files beside one that has no room for them ---------------------------------------------------------------


def beside(path: Path, ending: str) -> Path:
    """train.npy, "lengths.npy" -> train.lengths.npy; of a folder the file in it."""
    return path / ending if path.is_dir() else path.with_name(f"{path.stem}.{ending}")


def write_beside(path: Path, tokens: Tokens, lengths: bool) -> None:
    """Labels, local fields and, with `lengths`, lengths of the items in `path`."""
    if tokens.labels:
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(tokens.labels)
        rows.writerows(zip(*(label.names for label in tokens.labels.values()), strict=True))
        write_atomically(beside(path, "labels.csv"), text.getvalue().encode())
    if lengths and tokens.lengths is not None:
        write_npy(beside(path, "lengths.npy"), tokens.lengths)
    for name, array in tokens.local.items():
        write_npy(beside(path, f"{LOCAL}{name}.npy"), array)


def write_npy(path: Path, array: np.ndarray) -> None:
    """The bytes that `np.save` writes."""
    with file_made_whole(path) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def read_lengths(path: Path) -> np.ndarray:
    """(n,) int64 of a .npy file."""
    found = read_array(path)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise InputError(f"{path}: expected one whole number per item, found {found.dtype} {found.shape}")
    return found.astype(np.int64)


def read_labels(path: Path) -> dict[str, Label]:
    """Of a .csv file with the labels' names in its first line and a row per item, or of a .npy file with a number or
    a name per item, whose label is called as the file."""
    if path.suffix != ".csv":
        return {path.stem: Label.of(read_array(path), f"{path}")}
    if path.stat().st_size > MOST_TEXT:
        raise InputError(f"{path}: expected a file of at most {MOST_TEXT} bytes, found {path.stat().st_size}")
    try:
        rows = [row for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: expected labels as comma-separated values, found {error}") from None
    if not rows or len(set(rows[0])) != len(rows[0]) or not all(rows[0]):
        raise InputError(f"{path}: expected different names of labels in the first line, found "
                         f"{rows[0] if rows else 'an empty file'}")
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise InputError(f"{path}: line {number + 1}: expected {len(rows[0])} values, found {len(row)}")
    return {name: Label.of(np.array([row[column] for row in rows[1:]], dtype=str), f"{path}: {name}")
            for column, name in enumerate(rows[0])}


def header_json(content: bytes, path: Path) -> dict[str, Any]:
    """A header that is a JSON object. Raises InputError for any other."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected a header in JSON, found other content")
    return found
