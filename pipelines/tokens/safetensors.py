"""Safetensors: arrays by name, `codes`, `lengths`, `label_NAME` and `local_NAME`, memory-mapped.

The format has no text: labels are numbers, and the metadata `classes_NAME` hold the names of their classes as JSON.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from pipelines.files.atomic import write_atomically
from pipelines.files.errors import InputError
from pipelines.files.tensors import tensor_places
from pipelines.tokens.base import ArraySource, Format, Options, Tokens, array_source

CLASSES = "classes_"


class Safetensors(Format):
    name = "safetensors"
    suffix = ".safetensors"
    lines = 'from safetensors.numpy import load_file\ncodes = load_file("train.safetensors")["codes"]'
    others = ("arrays of the same file, `label_NAME` (numbers of classes, whose names are in the metadata "
              "`classes_NAME`), `lengths`, `local_NAME`")

    def open(self, path: Path, options: Options) -> ArraySource:
        places, metadata = tensor_places(path)
        arrays, others = {}, []
        for name, place in places.items():
            if place.dtype is None:
                others.append(name)
            elif not place.bytes:
                arrays[name] = np.empty(place.shape, place.dtype)
            else:
                arrays[name] = np.memmap(path, place.dtype, "r", place.offset, place.shape)
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
