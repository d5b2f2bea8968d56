"""Nearest items of a set: by Hamming distance over codes, and by Euclidean distance of features, fast or exact.

Axes: n queries, m items, t codes of an item in raster order (codebooks included), d features.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

BLOCK = 2**18  # distances that are summed at once: they stay in a core's cache
MOST = 2**24  # distances that are in memory at once


def code_rows(codes: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Codes (n, *grid[, g]) -> (n, t), in the smallest type that holds them and -1, which padding becomes.

    lengths (n,): how much of the first grid axis is real; None: all."""
    if lengths is not None:
        real = torch.arange(codes.shape[1], device=codes.device) < lengths[:, None]
        codes = torch.where(real.view(*real.shape, *[1] * (codes.ndim - 2)), codes, -1)
    low, high = (int(value) for value in codes.aminmax()) if codes.numel() else (0, 0)
    for dtype in (torch.uint8, torch.int16, torch.int32):
        if torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max:
            return codes.flatten(1).to(dtype)
    raise ValueError(f"codes: expected values below 2^31, found {high}")


def code_distances(queries: Tensor, items: Tensor) -> Iterator[Tensor]:
    """Rows of codes (n, t) and (m, t) of `code_rows` -> blocks of queries in order, float32 (b, m): the share of codes
    that differ, among the positions that are real in either.

    Takes n m t comparisons, and memory for MOST distances whatever n is."""
    dtype = torch.promote_types(queries.dtype, items.dtype)
    columns, sizes = items.to(dtype).T.contiguous(), _sizes(items)
    for part in queries.split(max(1, min(64, MOST // max(len(items), 1)))):
        found = torch.empty(len(part), len(items), dtype=torch.int32, device=items.device)
        width = max(1, BLOCK // len(part))
        for start in range(0, len(items), width):
            found[:, start : start + width] = _differing(part.to(dtype), columns[:, start : start + width])
        yield found / torch.maximum(_sizes(part)[:, None], sizes)


def nearest_items(queries: Tensor, parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of codes (n, t), and those of all items, some (m, t) at a time -> for each query the number of the nearest
    item, the first of equally near ones, int64 (n,), and the share of codes that differ, float32 (n,)."""
    nearest = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    least, first = torch.full((len(queries),), torch.inf, device=queries.device), 0
    for items in parts:
        blocks = [block.min(1) for block in code_distances(queries, items)]
        shares, places = (torch.cat(own) for own in zip(*((block.values, block.indices) for block in blocks)))
        closer = shares < least
        nearest, least = torch.where(closer, places + first, nearest), torch.where(closer, shares, least)
        first += len(items)
    return nearest, least


def _sizes(rows: Tensor) -> Tensor:
    """How many codes of each row (n, t) are real: (n,)."""
    return (rows != -1).sum(1) if rows.dtype.is_signed else torch.full((len(rows),), rows.shape[1], device=rows.device)


def _differing(queries: Tensor, columns: Tensor) -> Tensor:
    """Codes (b, t) and (t, w), both of one type -> int32 (b, w), how many differ: summed in bytes, 255 at a time."""
    total = torch.zeros(len(queries), columns.shape[1], dtype=torch.int32, device=columns.device)
    bytes_ = torch.zeros_like(total, dtype=torch.uint8)
    differs = torch.empty_like(total, dtype=torch.bool)
    for place in range(len(columns)):
        torch.ne(queries[:, place, None], columns[place, None, :], out=differs)
        bytes_ += differs.view(torch.uint8)
        if place % 255 == 254:
            total += bytes_
            bytes_.zero_()
    return total + bytes_


def feature_distances(queries: Tensor, items: Tensor) -> Tensor:
    """float32 (n, d), (m, d) -> (n, m) float32: the root of the mean squared difference.

    By |a|^2 - 2 a b + |b|^2: distances below about 1e-3 of the features' size are rounding."""
    squares = queries.square().sum(1)[:, None] - 2 * queries @ items.T + items.square().sum(1)
    return (squares.clamp(min=0) / queries.shape[1]).sqrt()


def exact_distances(queries: Tensor, items: Tensor) -> Iterator[Tensor]:
    """Features (n, d), (m, d) -> blocks of queries in order, float64 (b, m): Euclidean distances, 0 for equal items.

    Differences are squared and summed one pair after the other: neither blocks nor threads change a bit."""
    items = items.double()
    for part in queries.double().split(max(1, MOST // max(len(items), 1))):
        yield torch.cdist(part, items, compute_mode="donot_use_mm_for_euclid_dist")


def radii(items: Tensor, k: int) -> Tensor:
    """Features (n, d) -> float64 (n,): the distance of each item to its k-th nearest neighbour among the others. Raises
    ValueError for k items or fewer."""
    if not 1 <= k < len(items):
        raise ValueError(f"k: expected 1 to {len(items) - 1} of {len(items)} items, found {k}")
    return torch.cat([block.kthvalue(k + 1, 1).values for block in exact_distances(items, items)])  # itself is at 0
