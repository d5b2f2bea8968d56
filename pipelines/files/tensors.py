"""Where the arrays of a safetensors file lie in it, so that a part of one can be read without the rest."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from pipelines.files.errors import InputError
from pipelines.files.reading import parse_json

TYPES = {"U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8",
         "F16": "<f2", "F32": "<f4", "F64": "<f8", "BOOL": "?"}


class Place(NamedTuple):
    """An array in a file."""

    dtype: np.dtype | None  # None: a type that NumPy lacks
    shape: tuple[int, ...]
    offset: int  # of its first byte in the file
    bytes: int


def tensor_places(path: Path, what: str = "a whole safetensors file") -> tuple[dict[str, Place], dict[str, str]]:
    """The arrays of a file by name, and its metadata; none of the arrays is read.

    Raises InputError for a file whose header and size do not agree; `what` says what was expected."""
    try:
        with safe_open(path, "np") as opened:  # checks that header and size agree
            metadata = opened.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"{path}: expected {what}, found one that cannot be read "
                         f"({' '.join(str(error).split())})") from None
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = parse_json(file.read(size).decode(), str(path), "a header")
    places = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            dtype = np.dtype(TYPES[entry["dtype"]]) if entry["dtype"] in TYPES else None
            places[name] = Place(dtype, tuple(entry["shape"]), 8 + size + start, end - start)
    return places, metadata
