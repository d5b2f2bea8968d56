"""A folder of one .npy file per item, in the order of their names. Items that differ in the size of one axis have
lengths. Labels are in labels.csv beside them, a row per item in the same order."""

from pathlib import Path

import numpy as np

from pipelines.files.arrays import read_array
from pipelines.files.errors import InputError
from pipelines.tokens.base import LOCAL, Format, Options, Source, Tokens, write_beside

SUFFIX = ".npy"


class ItemsFolder(Format):
    name = "folder"
    suffix = ""
    lines = ('import numpy as np\nfrom pathlib import Path\n'
             'codes = [np.load(path) for path in sorted(Path("train").glob("*.npy"))]')
    others = "files of the same folder, `labels.csv` (a row per item, in the order of the names), `local_FIELD.npy`"

    def open(self, path: Path, options: Options) -> "FolderSource":
        return FolderSource(path)

    def write(self, folder: Path, stem: str, tokens: Tokens) -> Path:
        path = folder / stem
        path.mkdir(exist_ok=True)
        for number in range(len(tokens.items)):
            name = f"{number:05d}" if tokens.names is None else tokens.names[number]
            item = np.ascontiguousarray(tokens.item(number))
            np.save(path / f"{name}{SUFFIX}", item, allow_pickle=False)  # forcing thousands to the disk takes minutes
        write_beside(path, tokens, lengths=False)
        return path


class FolderSource(Source):
    """Of each file the header is read."""

    def __init__(self, path: Path):
        if not path.is_dir():
            found = "a file" if path.exists() else "nothing"
            raise InputError(f"{path}: expected a folder of {SUFFIX} files, found {found}")
        self.path = path
        self.files = sorted(file for file in path.iterdir()
                            if file.suffix == SUFFIX and not file.name.startswith((".", LOCAL)))
        if not self.files:
            raise InputError(f"{path}: expected a folder of {SUFFIX} files, one per item, found none")
        forms = [(array.dtype, array.shape) for array in (read_array(file, mapped=True) for file in self.files)]
        self.dtype = forms[0][0]
        if self.dtype.kind not in "iu":
            raise InputError(f"{self.files[0]}: expected integers, found {self.dtype}")
        first = forms[0][1]
        for file, (dtype, shape) in zip(self.files, forms, strict=True):
            if dtype != self.dtype or len(shape) != len(first) or not shape or min(shape) < 1:
                raise InputError(f"{file}: expected {self.dtype} and {len(first)} axes of at least 1 as in "
                                 f"{self.files[0].name}, found {dtype} {shape}")
        sizes = np.array([shape for _, shape in forms], np.int64)
        differ = np.flatnonzero((sizes != sizes[0]).any(0))
        if len(differ) > 1:
            odd = int(np.flatnonzero((sizes != sizes[0]).any(1))[0])
            raise InputError(f"{self.files[odd]}: expected items that differ in one axis at most, found shape "
                             f"{tuple(sizes[odd].tolist())} beside {first}")
        self.shape = tuple(sizes.max(0).tolist())
        if len(differ):
            self.length_axis = int(differ[0])
            self.lengths = sizes[:, self.length_axis]
        known = {*self.files, path / "labels.csv"}
        self.left_out = sorted(file.name for file in path.iterdir() if file not in known)[:12]

    @property
    def count(self) -> int:
        return len(self.files)

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        items = np.zeros((len(numbers), *self.shape), self.dtype)
        for place, number in enumerate(numbers.tolist()):
            item = read_array(self.files[number])
            items[(place, *(slice(size) for size in item.shape))] = item
        return items
