"""Files that a data set makes once from its source, such as decoded images: complete or absent, also after a crash.

A file's name contains a key of all that its content depends on, so that another source or setting makes another file.
Beside it lies NAME.json with its checksum and what is known of it; a damaged file is made anew.
"""

import hashlib
import json
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.files.atomic import sync_folder, write_atomically
from pipelines.files.checks import expect, expect_keys
from pipelines.files.errors import InputError, naming
from pipelines.files.locks import locked as locked
from pipelines.files.reading import read_json

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


def cached(target: Path, make: Callable[[], Any]) -> Any:
    """What `make` returned, as JSON holds it, when it wrote the file `target`.

    It is called where the file is missing, and once more, with a line on stderr, where file or notes are not as they
    were written. Of several processes one makes it, and the others wait."""
    notes = target.with_suffix(".json")
    with locked(target.parent):
        if notes.exists() or notes.is_symlink():
            try:
                return _read_notes(target, notes)
            except InputError as error:
                print(f"note: {error}: it is made anew", file=sys.stderr)
                notes.unlink()
        found = json.loads(json.dumps(make()))
        content = {"sha256": _checksum(target, found), "notes": found}
        write_atomically(notes, (json.dumps(content, indent=1) + "\n").encode())
        return found


def _read_notes(target: Path, notes: Path) -> Any:
    """The notes of a file. Raises InputError where either is another than was written."""
    content = read_json(notes, "the notes of a cached file")
    expect_keys(notes, "keys", content, {"sha256", "notes"})
    if not target.is_file():
        raise InputError(f"{target}: expected the cached file of {notes.name}, found none")
    found, expected = _checksum(target, content["notes"]), content["sha256"]
    expect(target, "checksum", found, found == expected, f"{str(expected)[:12]}... as in {notes.name}")
    return content["notes"]


def _checksum(target: Path, notes: Any) -> str:
    """SHA-256 of a file and its notes."""
    digest = hashlib.sha256(json.dumps(notes, sort_keys=True).encode())
    with open(target, "rb") as file:
        return hashlib.file_digest(file, lambda: digest).hexdigest()


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
