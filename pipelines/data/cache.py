"""Files that a data set makes once from its source, such as decoded images: complete or absent, also after a crash.

A file's name contains a key of all that its content depends on, so that another source or setting makes another file.
"""

import hashlib
import json
import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.files.atomic import sync_folder
from pipelines.files.errors import InputError, naming
from pipelines.files.locks import locked as locked

if TYPE_CHECKING:
    from torch import Tensor

LEFTOVER = re.compile(r".+-[0-9a-f]{16}\.tmp")  # of a file whose name ends in a key


def cache_key(settings: object, digits: int = 16) -> str:
    """A hash of what JSON can hold, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:digits]


@contextmanager
def made_whole(target: Path) -> Iterator[Path]:
    """Yields a path to write to; at the end, that file becomes `target`. After an error it is removed.

    Call it under the folder's lock: files of this kind that are there belong to killed processes, and are removed.
    """
    for leftover in target.parent.glob("*.tmp"):
        if LEFTOVER.fullmatch(leftover.name):
            leftover.unlink()
    temporary = target.with_suffix(".tmp")
    try:
        with naming(target):
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)


def map_values(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> "Tensor":
    """A file of raw values, memory-mapped. Raises InputError for a file of another size, or none."""
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if (size := path.stat().st_size if path.exists() else 0) != expected:
        raise InputError(f"{path}: expected {expected} bytes, found {size}; remove it and {path.stem}.json, "
                         "they will be created again")
    return read_only(np.memmap(path, dtype, "r", shape=shape))


def read_only(mapped: np.ndarray) -> "Tensor":
    """A memory-mapped array as a tensor, which nothing may write to."""
    import torch  # here: the process that speaks forks, and needs all but this function

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(mapped)
