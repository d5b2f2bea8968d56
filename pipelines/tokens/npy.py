"""NumPy's .npy: one array (n, *shape). Labels and lengths are in files beside it, NAME.labels.csv, NAME.lengths.npy."""

from pathlib import Path

from pipelines.files.arrays import read_array
from pipelines.tokens.base import ArraySource, Format, Options, Tokens, write_beside, write_npy


class Npy(Format):
    name = "npy"
    suffix = ".npy"
    lines = 'import numpy as np\ncodes = np.load("train.npy")'
    others = "files beside it, `NAME.labels.csv` (a row per item), `NAME.lengths.npy`, `NAME.local_FIELD.npy`"

    def open(self, path: Path, options: Options) -> ArraySource:
        return ArraySource(path, read_array(path, mapped=True))

    def write(self, folder: Path, stem: str, tokens: Tokens) -> Path:
        path = folder / f"{stem}{self.suffix}"
        write_npy(path, tokens.items)
        write_beside(path, tokens, lengths=True)
        return path
