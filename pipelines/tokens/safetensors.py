"""Safetensors: arrays by name, `codes`, `lengths`, `label_NAME` and `local_NAME`, memory-mapped.

The format has no text: labels are numbers, and the metadata `classes_NAME` hold the names of their classes as JSON.
"""

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pipelines.files.atomic import write_atomically
from pipelines.files.errors import InputError
from pipelines.tokens.base import ArraySource, Format, Options, Tokens, array_source, header_json

CLASSES = "classes_"
TYPES = {"U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8",
         "F16": "<f2", "F32": "<f4", "F64": "<f8", "BOOL": "?"}


class Safetensors(Format):
    name = "safetensors"
    suffix = ".safetensors"
    lines = 'from safetensors.numpy import load_file\ncodes = load_file("train.safetensors")["codes"]'
    others = ("arrays of the same file, `label_NAME` (numbers of classes, whose names are in the metadata "
              "`classes_NAME`), `lengths`, `local_NAME`")

    def open(self, path: Path, options: Options) -> ArraySource:
        try:
            with safe_open(path, "np") as opened:  # checks that header and size agree
                metadata = opened.metadata() or {}
        except SafetensorError as error:
            raise InputError(f"{path}: expected a whole safetensors file, found one that cannot be read "
                             f"({' '.join(str(error).split())})") from None
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = header_json(file.read(size), path)
        arrays, others = {}, []
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            dtype, shape, (start, end) = TYPES.get(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
            if dtype is None:
                others.append(name)
            elif start == end:
                arrays[name] = np.empty(shape, dtype)
            else:
                arrays[name] = np.memmap(path, dtype, "r", 8 + size + start, shape)
        classes = {}
        for name, text in metadata.items():
            if name.startswith(CLASSES):
                try:
                    classes[name.removeprefix(CLASSES)] = [str(own) for own in json.loads(text)]
                except (ValueError, TypeError, RecursionError):
                    raise InputError(f"{path}: {name}: expected a list of names, found {text[:40]!r}") from None
        source = array_source(path, arrays, options, classes)
        source.left_out = [*source.left_out, *others]
        return source

    def write(self, folder: Path, stem: str, tokens: Tokens) -> Path:
        path = folder / f"{stem}{self.suffix}"
        classes = {f"{CLASSES}{name}": json.dumps(label.classes) for name, label in tokens.labels.items()}
        write_atomically(path, save(tokens.arrays(lambda label: label.numbers), classes or None))
        return path
