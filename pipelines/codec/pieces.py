"""Items of any size in a file: their codes in pieces, none larger than the grid of codes that the prior was trained on.

Each piece is coded as an item is: a prior never sees more than it did in training, records hold about a kilobyte as
ever, and many pieces are decoded side by side. The codes themselves are those of the whole item.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.codec.container import MOST_ITEMS, read_varints, varint

LARGEST = 2**26  # codes of an item that are taken from a file: half a GB
USUAL = varint(0)  # in front of the payload of a record of items of the run's own size

Cell = tuple[slice, ...]


@dataclass(frozen=True)
class Place:
    """The place of a record's pieces in their item."""

    size: tuple[int, ...]  # of the item's data, along each axis
    first: int  # number of the first piece
    count: int

    def to_bytes(self) -> bytes:
        """As it stands in front of a record's payload."""
        return b"".join(map(varint, (self.count, self.first, *self.size)))

    @classmethod
    def from_bytes(cls, data: bytes, axes: int) -> "tuple[Place | None, int]":
        """What stands in front of a payload, None for items of the run's own size; and how many bytes it takes.

        Raises ValueError for what `to_bytes` does not write."""
        (count,), used = read_varints(data, 1)
        if not count:
            return None, used
        (_, first, *size), used = read_varints(data, 2 + axes)
        if count > MOST_ITEMS or not all(size):
            raise ValueError(f"expected the place of some pieces, found {count} of {size}")
        return cls(tuple(size), first, count), used


def pieces(grid: Sequence[int], usual: Sequence[int]) -> list[Cell]:
    """The pieces of a grid of codes, none larger than `usual`: those of one shape one after another, in raster order.

    Along each axis they are as equal as can be. Raises ValueError for a grid that is too large to be one."""
    if math.prod(grid) > LARGEST:
        raise ValueError(f"expected at most {LARGEST} codes, found a grid of {tuple(grid)}")
    axes = []
    for count, most in zip(grid, usual, strict=True):
        parts = -(-count // most)
        edges = [place * count // parts for place in range(parts + 1)]
        axes.append([slice(start, stop) for start, stop in itertools.pairwise(edges)])
    return sorted(itertools.product(*axes), key=shape_of)


def shape_of(cell: Cell) -> tuple[int, ...]:
    """The grid of a piece."""
    return tuple(own.stop - own.start for own in cell)
