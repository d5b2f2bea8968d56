"""Items that stay in files and are read when they are asked for: a data set larger than memory.

Files are read, not memory-mapped: what a process has mapped counts as its own where memory is limited by address space
(`ulimit -v`), and a batch of random items is read as fast from the page cache. No file stays open.

Axes: n items, b items that are asked for; *item is the shape of one.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipelines.files.errors import InputError

Key = int | slice | Tensor


class Piece(NamedTuple):
    """Consecutive items in one file."""

    path: Path
    offset: int  # of the first item's first byte
    items: int


class Rows(ABC):
    """An array (n, *item), read when it is indexed, along its first axis and as a tensor on the CPU is.

    What NumPy knows as uint16 is int16 in a tensor, bit for bit: torch cannot index uint16."""

    device = torch.device("cpu")

    def __init__(self, items: int, stored: np.dtype, item: tuple[int, ...]):
        self.items, self.stored, self.item = items, stored, item
        self.item_bytes = math.prod(item) * stored.itemsize

    def __len__(self) -> int:
        return self.items

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self), *self.item

    @property
    def dtype(self) -> torch.dtype:
        return _tensor(np.empty(0, self.stored)).dtype

    def element_size(self) -> int:
        return self.stored.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all items as they are read."""
        return len(self) * self.item_bytes

    def __getitem__(self, key: Key) -> Tensor:
        """The items at an index, a slice or indices (b,) int64 >= 0, in this order."""
        found = _tensor(self.array(_numbers(key, len(self))))
        return found[0] if isinstance(key, int) else found

    def array(self, numbers: np.ndarray) -> np.ndarray:
        """The items at `numbers` (b,) int64, as they are stored: (b, *item).

        Raises IndexError for a number that is none, and InputError where a file has changed."""
        wanted, place = np.unique(numbers, return_inverse=True)
        if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < len(self):
            raise IndexError(f"items {wanted[0]} to {wanted[-1]} of {len(self)}")
        found = np.empty((len(wanted), self.item_bytes), np.uint8)
        if not found.size:
            return np.empty((len(numbers), *self.item), self.stored)
        self._fill(wanted, found)
        if not np.array_equal(place, np.arange(len(place))):
            found = found[place]
        return found.view(self.stored).reshape(len(numbers), *self.item)

    @abstractmethod
    def _fill(self, wanted: np.ndarray, found: np.ndarray) -> None:
        """Writes the bytes of the items at `wanted` (m,), ascending and different, to `found` (m, item_bytes)."""


class FileRows(Rows):
    """Items that lie in pieces of files."""

    def __init__(self, pieces: Sequence[Piece], stored: np.dtype, item: tuple[int, ...]):
        self.pieces, self.starts = pieces, np.cumsum([0, *(piece.items for piece in pieces)])
        super().__init__(int(self.starts[-1]), stored, item)

    def _fill(self, wanted: np.ndarray, found: np.ndarray) -> None:
        owners = np.searchsorted(self.starts, wanted, side="right") - 1
        for owner in np.unique(owners).tolist():
            first, end = np.searchsorted(owners, [owner, owner + 1])
            self._read(self.pieces[owner], wanted[first:end] - self.starts[owner], found[first:end])

    def _read(self, piece: Piece, rows: np.ndarray, found: np.ndarray) -> None:
        """Fills `found` (m, item_bytes) with ascending rows of a piece; neighbours are read at once."""
        breaks = [0, *(np.flatnonzero(np.diff(rows) > 1) + 1).tolist(), len(rows)]
        with open(piece.path, "rb", buffering=0) as file:
            for first, end in zip(breaks, breaks[1:]):
                file.seek(piece.offset + int(rows[first]) * self.item_bytes)
                left = found[first:end].data.cast("B")
                while left:
                    if not (got := file.readinto(left)):
                        raise InputError(f"{piece.path}: expected {self.item_bytes} bytes for item {rows[end - 1]}, "
                                         "found the end of the file: it has changed since it was opened")
                    left = left[got:]


class Channels:
    """Several arrays (n, c, *grid) side by side along the second axis, as float32; each size of a grid is 1 where
    nothing changes along that axis, and is repeated as far as another array needs it."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, parts: Sequence[Rows]):
        self.parts, self.sizes = parts, np.broadcast_shapes(*(part.item[1:] for part in parts))

    def __len__(self) -> int:
        return len(self.parts[0])

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self), sum(part.item[0] for part in self.parts), *self.sizes

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * 4

    def __getitem__(self, key: Key) -> Tensor:
        """As of `Rows`."""
        numbers = torch.from_numpy(_numbers(key, len(self)))
        parts = [part[numbers].float().expand(-1, -1, *self.sizes) for part in self.parts]
        found = torch.cat(parts, dim=1)
        return found[0] if isinstance(key, int) else found


Stored = Tensor | Rows | Channels


def held(rows: Rows | Channels, most: int) -> Stored:
    """In memory if all items take at most so many bytes, where a random item is had sooner; else as they are."""
    return rows[:] if rows.nbytes <= most else rows


def _numbers(key: Key, count: int) -> np.ndarray:
    if isinstance(key, int):
        return np.array([range(count)[key]])
    if isinstance(key, slice):
        return np.arange(count)[key]
    return key.cpu().numpy()


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.view(np.int16) if array.dtype == np.uint16 else array)
