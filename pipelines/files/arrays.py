"""NumPy's .npy files, whatever is in a file of that name."""

import warnings
from pathlib import Path

import numpy as np

from pipelines.files.errors import InputError


def read_array(path: Path | str, mapped: bool = False) -> np.ndarray:
    """A .npy file of numbers or booleans; `mapped`: memory-mapped, read-only.

    Raises InputError for no file, an archive (.npz), pickled objects, a malformed header, a shape that is none, and a
    file that is not as long as its header says. Nothing is unpickled."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a NumPy array, found {'no regular file' if path.exists() else 'nothing'}")
    with open(path, "rb") as file:
        magic = file.read(len(np.lib.format.MAGIC_PREFIX))
    if magic != np.lib.format.MAGIC_PREFIX:
        found = "an archive, .npz" if magic.startswith(b"PK") else "other content" if magic else "it is empty"
        raise InputError(f"{path}: expected a NumPy array, found a file that cannot be read ({found})")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of a header that Python 2 wrote, or nobody
            array = np.lib.format.open_memmap(path, mode="r")  # no memory is taken on a header's word
    except OSError:
        raise
    except Exception as error:  # NumPy parses the header as Python: whatever is raised means that it is malformed
        raise InputError(f"{path}: expected a NumPy array, found a file that cannot be read "
                         f"({' '.join(str(error).split()) or type(error).__name__})") from None
    if any(type(size) is not int or size < 0 for size in array.shape):
        raise InputError(f"{path}: expected a NumPy array, found a shape {array.shape}")
    return array if mapped else np.array(array)
