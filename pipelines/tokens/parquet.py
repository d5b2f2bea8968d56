"""Parquet: a row per item, the codes in a column of lists, flat or nested as the grid; needs the extra `parquet`.

Lists of different lengths are items with lengths. Labels are the columns `label_NAME`. One row group is in memory at a
time.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.files.atomic import file_made_whole
from pipelines.files.errors import InputError
from pipelines.tokens.base import CODES, LABEL, LOCAL, Format, Label, Options, Source, Tokens, check_room

if TYPE_CHECKING:
    import pyarrow

MISSING = "it requires pyarrow: pip install 'neural-discrete-representations[parquet]'"
GROUP = 8192  # rows of a group that is written


class Parquet(Format):
    name = "parquet"
    suffix = ".parquet"
    lines = ('import numpy as np\nimport pyarrow.parquet as pq\n'
             'codes = np.array(pq.read_table("train.parquet")["codes"].to_pylist())')
    others = "columns of the same file, `label_NAME`, `local_NAME`; lists are as long as the items"

    def open(self, path: Path, options: Options) -> "ParquetSource":
        return ParquetSource(path, options)

    def write(self, folder: Path, stem: str, tokens: Tokens) -> Path:
        pa, pq = pyarrow_for(folder / stem)
        path = folder / f"{stem}{self.suffix}"
        key, axis = tokens.layout.key or CODES, tokens.layout.length_axis
        if tokens.lengths is not None and axis:
            raise InputError("format: expected one that pads the last axis, or --codebook-axis last, found parquet")
        with file_made_whole(path) as file:
            writer = None
            for start in range(0, len(tokens.items), GROUP):
                rows = slice(start, start + GROUP)
                lengths = None if tokens.lengths is None else tokens.lengths[rows]
                columns = {key: _lists(pa, tokens.items[rows], lengths)}
                columns |= {f"{LABEL}{name}": pa.array(label.values[rows]) for name, label in tokens.labels.items()}
                columns |= {f"{LOCAL}{name}": _lists(pa, np.ascontiguousarray(array[rows]), None)
                            for name, array in tokens.local.items()}
                table = pa.table(columns)
                writer = writer or pq.ParquetWriter(file, table.schema)
                writer.write_table(table)
            writer.close()
        return path


class ParquetSource(Source):
    """The lists' lengths and the labels are read; of the codes a row group when it is asked for."""

    def __init__(self, path: Path, options: Options):
        _, pq = pyarrow_for(path)
        self.path, self.file = path, read_arrow(path, lambda: pq.ParquetFile(path))
        fields = {field.name: field for field in self.file.schema_arrow}
        lists = [name for name, field in fields.items() if _is_list(field.type) and not name.startswith(LOCAL)]
        key = options.key or (CODES if CODES in fields else lists[0] if len(lists) == 1 else CODES)
        if key not in fields or not _is_list(fields[key].type):
            raise InputError(f"{path}: expected a column of lists named {key} (--key names another), found "
                             f"{', '.join(f'{name}: {field.type}' for name, field in fields.items())[:200]}")
        self.key, depth, kind = key, 0, fields[key].type
        while _is_list(kind):
            depth, kind = depth + 1, kind.value_type
        try:
            self.dtype = np.dtype(kind.to_pandas_dtype())
        except (NotImplementedError, TypeError):
            self.dtype = np.dtype(object)
        if self.dtype.kind not in "iu":
            raise InputError(f"{path}: {key}: expected lists of integers, found {fields[key].type}")
        metadata = self.file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self.starts = np.cumsum([0, *sizes])
        for group in range(metadata.num_row_groups):
            check_room(path, metadata.row_group(group).total_byte_size)
        if not self.starts[-1]:
            raise InputError(f"{path}: expected at least one row, found none")
        self.group, self.arrays = -1, np.empty(0)
        shapes: list[np.ndarray] = []
        for group in range(len(sizes)):
            shapes.append(self._shapes(group, depth)[0])
        found = np.concatenate(shapes)  # (n, depth)
        differ = np.flatnonzero((found != found[0]).any(0))
        if len(differ) > 1 or (len(differ) and differ[0] != 0):
            raise InputError(f"{path}: {key}: expected nested lists of the same lengths, found different ones within "
                             "items")
        self.shape = tuple(found.max(0).tolist())
        if found.min() < 1:
            raise InputError(f"{path}: {key}: expected lists of at least one code, found an empty one in row "
                             f"{int(np.flatnonzero((found < 1).any(1))[0])}")
        self.lengths, self.length_axis = (found[:, 0], 0) if len(differ) else (None, None)
        self.labels = {}
        for name in fields:
            if name.startswith(LABEL):
                column = read_arrow(path, lambda name=name: self.file.read([name])[name])
                if column.null_count:
                    raise InputError(f"{path}: {name}: expected a value in each row, found {column.null_count} nulls")
                values = np.array(column.to_pylist())
                self.labels[name.removeprefix(LABEL)] = Label.of(values, f"{path}: {name}")
        self.left_out = [name for name in fields if name != key and not name.startswith(LABEL)]

    @property
    def count(self) -> int:
        return int(self.starts[-1])

    def column(self, name: str) -> np.ndarray:
        """Another column, (n,)."""
        return np.array(read_arrow(self.path, lambda: self.file.read([name])[name]).to_pylist())

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        items = np.zeros((len(numbers), *self.shape), self.dtype)
        groups = np.searchsorted(self.starts, numbers, side="right") - 1
        for group in np.unique(groups).tolist():
            if group != self.group:
                self.arrays, self.group = self._padded(group), group
            here = groups == group
            items[here] = self.arrays[numbers[here] - self.starts[group]]
        return items

    def _shapes(self, group: int, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Lengths (m, depth) of the lists of each item of a row group, and all its codes, flat."""
        table = read_arrow(self.path, lambda: self.file.read_row_group(group, [self.key]))
        column = table.column(self.key).combine_chunks()
        shapes = []
        inner, owner = column, np.arange(len(column))
        for _ in range(depth):
            if inner.null_count:
                raise InputError(f"{self.path}: {self.key}: expected a list in each row, found nulls")
            own = np.asarray(inner.value_lengths(), np.int64)
            largest, least = np.zeros(len(column), np.int64), np.full(len(column), 2**62)
            np.maximum.at(largest, owner, own)
            np.minimum.at(least, owner, own)
            if (largest != least).any() and len(own):
                raise InputError(f"{self.path}: {self.key}: expected nested lists of the same lengths, found different "
                                 "ones within an item")
            shapes.append(largest)
            owner = np.repeat(owner, own)
            inner = inner.flatten()
        if inner.null_count:
            raise InputError(f"{self.path}: {self.key}: expected a code in each place, found nulls")
        return np.stack(shapes, 1), inner.to_numpy(zero_copy_only=False)

    def _padded(self, group: int) -> np.ndarray:
        """The items (m, *shape) of a row group, zeros beyond their lengths."""
        shapes, flat = self._shapes(group, len(self.shape))
        items = np.zeros((len(shapes), *self.shape), self.dtype)
        if self.lengths is None:
            return flat.reshape(items.shape)
        real = np.arange(self.shape[0]) < shapes[:, :1]
        items[real] = flat.reshape(-1, *self.shape[1:])
        return items


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _lists(pa: Any, items: np.ndarray, lengths: np.ndarray | None) -> "pyarrow.Array":
    """Items (m, *shape) as nested lists."""
    if lengths is not None:
        inner = items[np.arange(items.shape[1]) < lengths[:, None]]  # (codes of all items, ...)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), _nested(pa, inner))
    return _nested(pa, items)


def _nested(pa: Any, items: np.ndarray) -> "pyarrow.Array":
    made = pa.array(items.reshape(-1))
    for size in reversed(items.shape[1:]):
        made = pa.ListArray.from_arrays(pa.array(np.arange(0, len(made) + 1, size, dtype=np.int32)), made)
    return made


def read_arrow(path: Path, reading: Any) -> Any:
    """What `reading()` gives. Raises InputError for a file that pyarrow cannot read."""
    import pyarrow as pa

    try:
        return reading()
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise InputError(f"{path}: expected a whole Parquet file, found one that cannot be read "
                         f"({' '.join(str(error).split())[:100]})") from None


def pyarrow_for(path: Path) -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet. Raises InputError where they are not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise InputError(f"{path}: {MISSING}") from None
    return pyarrow, pyarrow.parquet
