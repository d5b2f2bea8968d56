"""NumPy's .npz: arrays by name, `codes`, `lengths`, `label_NAME` and `local_NAME`.

What `np.savez` writes is not compressed, so its arrays are memory-mapped; those of `np.savez_compressed` are unpacked.
"""

import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from pipelines.files.atomic import file_made_whole
from pipelines.files.errors import InputError
from pipelines.tokens.base import ArraySource, Format, Options, Tokens, array_source, check_room

LOCAL_HEADER = 30  # bytes of a member's header before its name, which states how long name and extra field are
MOST_MEMBERS = 10_000


class Npz(Format):
    name = "npz"
    suffix = ".npz"
    lines = 'import numpy as np\nfile = np.load("train.npz")\ncodes = file["codes"]'
    others = "arrays of the same file, `label_NAME` (names of classes), `lengths`, `local_NAME`"

    def open(self, path: Path, options: Options) -> ArraySource:
        try:
            with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
                members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
                if len(members) > MOST_MEMBERS:
                    raise ValueError(f"{len(members)} arrays")
                arrays = {member.filename.removesuffix(".npy"): _array(path, file, archive, member)
                          for member in members}
        except (InputError, OSError):
            raise
        except Exception as error:  # NumPy parses a header as Python, zipfile whatever is there
            raise InputError(f"{path}: expected a whole archive of NumPy arrays without pickled objects, found "
                             f"{' '.join(str(error).split())[:100] or type(error).__name__}") from None
        return array_source(path, arrays, options, {})

    def write(self, folder: Path, stem: str, tokens: Tokens) -> Path:
        path = folder / f"{stem}{self.suffix}"
        with file_made_whole(path) as file:
            np.savez(file, allow_pickle=False, **tokens.arrays(lambda label: label.values))
        return path


def _array(path: Path, file: IO[bytes], archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One array of the archive; its size is that which its header states, before memory is taken."""
    with archive.open(member) as content:
        version = np.lib.format.read_magic(content)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(content)
        start = content.tell()
    size = dtype.itemsize
    for axis in shape:
        size *= axis
    if dtype.hasobject:
        raise ValueError(f"{member.filename} with pickled objects")
    if min(shape, default=0) < 0 or start + size != member.file_size:
        raise ValueError(f"{member.filename} of {member.file_size} bytes for {dtype} {shape}")
    order = "F" if fortran else "C"
    if not size:
        return np.empty(shape, dtype)
    if member.compress_type == zipfile.ZIP_STORED:
        file.seek(member.header_offset)
        header = file.read(LOCAL_HEADER)
        begin = member.header_offset + LOCAL_HEADER + int.from_bytes(header[26:28], "little") + int.from_bytes(
            header[28:30], "little") + start
        return np.memmap(path, dtype, "r", begin, shape, order)
    check_room(path, size)
    try:
        with archive.open(member) as content:
            content.read(start)
            return np.frombuffer(content.read(size), dtype).reshape(shape, order=order)
    except zlib.error as error:
        raise ValueError(f"{member.filename}: {error}") from None
