"""nanoGPT's .bin: a stream of uint16, or uint32, without a header, cut into items of a given length.

Labels are in a file beside it, NAME.labels.csv. Codes that are left over at the end are no item.
"""

from pathlib import Path

import numpy as np

from pipelines.files.atomic import write_atomically
from pipelines.files.errors import InputError
from pipelines.tokens.base import ArraySource, Format, Options, Tokens, write_beside

TYPES = {"uint16": "<u2", "uint32": "<u4"}


class NanoGPT(Format):
    name = "bin"
    suffix = ".bin"
    lines = 'import numpy as np\ncodes = np.memmap("train.bin", "uint16", "r")  # item after item, one stream'
    others = "files beside it, `NAME.labels.csv` (a row per item), `NAME.local_FIELD.npy`"

    def open(self, path: Path, options: Options) -> ArraySource:
        if options.item_length is None:
            raise InputError(f"{path}: expected --item-length N, the codes of an item, since the file is one stream, "
                             "found none")
        dtype = np.dtype(TYPES.get(options.dtype or "uint16", options.dtype))
        if not path.is_file():
            raise InputError(f"{path}: expected a stream of codes, found {'a folder' if path.exists() else 'nothing'}")
        size = path.stat().st_size
        if dtype.kind not in "iu" or size % dtype.itemsize:
            raise InputError(f"{path}: expected whole {dtype} numbers (--dtype names another type), found {size} bytes")
        count, rest = divmod(size // dtype.itemsize, options.item_length)
        if not count:
            raise InputError(f"{path}: expected at least --item-length {options.item_length} codes, found {rest}")
        stream = np.memmap(path, dtype, "r", shape=(count, options.item_length))
        return ArraySource(path, stream, left_out=[f"{rest} codes at the end"] if rest else [])

    def write(self, folder: Path, stem: str, tokens: Tokens) -> Path:
        if tokens.lengths is not None:
            raise InputError("format: expected one that keeps items apart, since these have lengths, found bin")
        path = folder / f"{stem}{self.suffix}"
        items = tokens.items
        if items.dtype.str not in TYPES.values():  # they did not come in as such a file
            items = items.astype(TYPES["uint16"] if int(items.max(initial=0)) < 2**16 else TYPES["uint32"])
        write_atomically(path, np.ascontiguousarray(items).tobytes())
        write_beside(path, tokens, lengths=False)
        return path
