"""Any folder of pictures: decoded once into a file of raw pixels, which is then memory-mapped.

    root/*.jpg                        no labels; validation is held out
    root/CLASS/*.jpg                  the label is the name of the folder
    root/{train,validation,test}/...  either of these in each; validation (also `val`, `valid`) and test may be missing

So training needs no loader processes: a batch is a gather from memory, the page cache or a GPU.
"""

import fcntl
import hashlib
import json
import logging
import os
import stat
import warnings
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import torch
from torch import Tensor
from tqdm import tqdm

from pipelines.data.base import Data, checked_hold_out_size, hold_out
from pipelines.data.images import ImageSplit
from pipelines.data.pictures import SUFFIXES, decode_pictures
from pipelines.errors import InputError
from pipelines.training.checkpoint import write_atomically

log = logging.getLogger(__name__)

FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}
NAMED = 5  # unreadable pictures that a warning names; all are counted


class Picture(NamedTuple):
    """A picture file as it was found."""

    path: str  # below root, with "/"
    folder: str  # the first folder below that of its split, "" if it lies in the latter directly
    bytes: int
    changed_ns: int


class ImageFolder(Data):
    """uint8 (channels, size, size): the central square of each picture, its shorter side reduced to `store_size`.

    A `store_size` above `size` leaves room for random crops; `pad` and `flip` augment too (pipelines/data/images.py).
    Labels are there where the training pictures lie in two or more class folders. The decoded pictures are kept in
    `cache` under a name that changes with any file's name, size or time and with the settings; the pool has `workers`
    processes, 0 meaning as many as there are cores. Pictures that cannot be read are left out, counted and named.

    Raises InputError for a folder that is missing or holds no pictures that can be read.
    """

    kind = "image"

    def __init__(
        self,
        root: str,
        cache: str,
        name: str = "",
        size: int = 64,
        store_size: int = 0,
        channels: int = 3,
        pad: int = 0,
        flip: bool = False,
        validation_fraction: float = 0.1,
        workers: int = 0,
        seed: int = 0,
    ):
        store_size = store_size or size
        for key, found, accepted, expected in (
            ("size", size, size >= 1, "1 or more"),
            ("store_size", store_size, store_size >= size, f"at least size, {size}, or 0"),
            ("channels", channels, channels in (1, 3), "1 or 3"),
            ("workers", workers, workers >= 0, "0 or more"),
        ):
            if not accepted:
                raise InputError(f"data.{key}: expected {expected}, found {found}")
        folder = Path(root)
        self.name = name or folder.resolve().name
        self.shape = (channels, size, size)
        self.augmentation = {"size": (size, size), "pad": pad, "flip": flip}
        parts = find_pictures(folder)
        names = class_names(parts["train"])
        self.label_names, self.classes = (("class",), (names,)) if names else ((), ())
        cached = Decoded(Path(cache), self.name, folder, [picture for part in parts.values() for picture in part])
        self.pixels, unreadable = cached.open(store_size, channels, workers or len(os.sched_getaffinity(0)))
        self.parts = self._place(folder, parts, unreadable, validation_fraction, seed)
        self.splits = tuple(split for split in FOLDERS if split in self.parts)

    def _split(self, name: str) -> ImageSplit:
        rows, labels = self.parts[name]
        return ImageSplit(self.pixels, labels, rows, **self.augmentation)

    def _place(self, root: Path, parts: dict[str, list[Picture]], unreadable: set[str], fraction: float,
               seed: int) -> dict[str, tuple[Tensor, Tensor]]:
        """For each split the rows of its pictures among all that were decoded (n,), and their labels (n, L)."""
        placed, first = {}, 0
        for split, pictures in parts.items():
            rows = torch.arange(first, first + len(pictures))
            labels = torch.tensor([self._labels(root, picture) for picture in pictures], dtype=torch.int64)
            placed[split], first = (rows, labels), first + len(pictures)
        if "validation" not in parts:
            # held out before the unreadable are left out, so that a damaged picture moves no other to another split
            rows, labels = placed["train"]
            size = checked_hold_out_size("data.validation_fraction", round(fraction * len(rows)), len(rows))
            for split, chosen in zip(("train", "validation"), hold_out(len(rows), size, seed), strict=True):
                placed[split] = rows[chosen], labels[chosen]
        readable = torch.tensor([picture.path not in unreadable for part in parts.values() for picture in part])
        for split, (rows, labels) in placed.items():
            placed[split] = rows[readable[rows]], labels[readable[rows]]
            if not len(placed[split][0]):
                raise InputError(f"{root}: expected pictures for {split}, found none of {len(rows)} that can be read")
        return placed

    def _labels(self, root: Path, picture: Picture) -> list[int]:
        """The labels of a picture; none where the training pictures have none."""
        if not self.classes:
            return []
        if picture.folder not in self.classes[0]:
            raise InputError(f"{root / picture.path}: expected a picture in the folder of one of the "
                             f"{len(self.classes[0])} classes of training, found {picture.folder or 'no such folder'!r}")
        return [self.classes[0].index(picture.folder)]


class Decoded:
    """All pictures of a data set as one file of raw pixels, STEM.u8, and STEM.json that says what could not be read.

    The stem is the data set's name and a hash of the list of files and of the settings.
    """

    def __init__(self, cache: Path, name: str, root: Path, pictures: list[Picture]):
        self.cache, self.name, self.root, self.pictures = cache, name, root, pictures

    def open(self, size: int, channels: int, workers: int) -> tuple[Tensor, set[str]]:
        """Pixels (n, channels, size, size) uint8, memory-mapped, and the paths of the unreadable; decodes if need be."""
        shape = (len(self.pictures), channels, size, size)
        settings = [self.pictures, shape, PIL.__version__]
        key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
        pixels, notes = (self.cache / f"{self.name}-{key}{suffix}" for suffix in (".u8", ".json"))
        self.cache.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.cache, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # of several processes one decodes, the others find its work
            if not notes.exists():
                unreadable = self._decode(pixels, size, channels, workers)
                write_atomically(notes, json.dumps({"unreadable": unreadable}, indent=1).encode())
        finally:
            os.close(folder)
        return _map(pixels, shape), self._unreadable(notes)

    def _decode(self, target: Path, size: int, channels: int, workers: int) -> dict[str, str]:
        """Writes the pixels; returns the reason for each path that cannot be read. All of them: InputError."""
        temporary = target.with_suffix(".tmp")
        paths = [self.root / picture.path for picture in self.pictures]
        try:
            with tqdm(total=len(paths), desc=f"decode {self.name}", unit="picture", disable=None, dynamic_ncols=True) as bar:
                unreadable = decode_pictures(paths, temporary, size, channels, workers, bar.update)
            if len(unreadable) == len(paths):
                raise InputError(f"{self.root}: expected pictures, found {len(paths)} files none of which can be read; "
                                 f"the first: {self.pictures[0].path}: {unreadable[0]}")
            os.replace(temporary, target)
        except BrokenProcessPool as error:
            raise InputError(f"{self.root}: a decoding process was killed, perhaps for want of memory; "
                             f"expected room for data.workers={workers}") from error
        finally:
            temporary.unlink(missing_ok=True)
        return {self.pictures[place].path: reason for place, reason in unreadable.items()}

    def _unreadable(self, notes: Path) -> set[str]:
        """Paths of the pictures that could not be read, with a warning that counts them and names the first."""
        try:
            unreadable = json.loads(notes.read_text())["unreadable"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{notes}: expected notes on decoded pictures, found none; remove the file") from error
        if unreadable:
            named = "; ".join(f"{path}: {reason}" for path, reason in list(unreadable.items())[:NAMED])
            more = f"; and {len(unreadable) - NAMED} more, listed in {notes}" if len(unreadable) > NAMED else ""
            log.warning("%s: left out %d of %d pictures that cannot be read: %s%s", self.root, len(unreadable),
                        len(self.pictures), named, more)
        return set(unreadable)


def find_pictures(root: Path) -> dict[str, list[Picture]]:
    """The picture files of each split that has a folder, in the order of their paths; without such folders all are
    training's. Raises InputError for a folder that is missing or without pictures."""
    if not root.is_dir():
        raise InputError(f"{root}: expected a folder of pictures, found {'a file' if root.exists() else 'nothing'}; "
                         "name it with data.root=FOLDER")
    present = {split: [name for name in names if (root / name).is_dir()] for split, names in FOLDERS.items()}
    folders = {split: names[0] for split, names in present.items() if names}
    if len(present["validation"]) > 1:
        raise InputError(f"{root}: expected one folder for validation, found {' and '.join(present['validation'])}")
    if folders and "train" not in folders:
        raise InputError(f"{root}: expected a folder train beside {', '.join(folders.values())}, found none")
    parts = {split: _pictures_below(root, name) for split, name in (folders or {"train": ""}).items()}
    for split, pictures in parts.items():
        if not pictures:
            raise InputError(f"{root / folders.get(split, '')}: expected pictures ({', '.join(sorted(SUFFIXES))}), found none")
    return parts


def class_names(pictures: list[Picture]) -> tuple[str, ...]:
    """The folders that the pictures lie in, sorted, if they are classes: two at least and no picture outside them."""
    names = sorted({picture.folder for picture in pictures})
    return tuple(names) if len(names) > 1 and "" not in names else ()


def _pictures_below(root: Path, name: str) -> list[Picture]:
    """Picture files at any depth of root/name, links followed; hidden files and folders are passed over."""
    top, seen, pictures = os.path.join(root, name), set(), []
    for folder, inner, files in os.walk(top, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:  # a link that leads back up
            inner.clear()
            continue
        seen.add(real)
        inner[:] = [name for name in inner if not name.startswith(".")]
        below = Path(folder).relative_to(top).parts
        prefix = Path(folder).relative_to(root).as_posix() + "/"
        for file in files:
            if file.startswith(".") or os.path.splitext(file)[1].lower() not in SUFFIXES:
                continue
            with suppress(FileNotFoundError):  # a link that leads nowhere
                found = os.stat(os.path.join(folder, file))
                if stat.S_ISREG(found.st_mode):
                    path = (prefix + file).removeprefix("./")
                    pictures.append(Picture(path, below[0] if below else "", found.st_size, found.st_mtime_ns))
    return sorted(pictures)


def _map(path: Path, shape: tuple[int, ...]) -> Tensor:
    """A memory-mapped file as a uint8 tensor, which must not be written to."""
    if (size := path.stat().st_size) != np.prod(shape, dtype=np.int64):
        raise InputError(f"{path}: expected {np.prod(shape, dtype=np.int64)} bytes, found {size}; remove the file and "
                         f"{path.with_suffix('.json').name}, they will be made again")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.memmap(path, np.uint8, "r", shape=shape))
