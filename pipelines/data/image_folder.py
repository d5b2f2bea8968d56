"""Any folder of images: decoded once into a file of raw pixels, which is then memory-mapped.

    root/*.jpg                        no labels; validation is held out
    root/CLASS/*.jpg                  the label is the name of the folder
    root/{train,validation,test}/...  either layout in each; validation (or `val`, `valid`) and test may be missing

Training therefore needs no loader processes: a batch is a gather from GPU memory or from the page cache.
"""

import json
import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
import torch
from torch import Tensor
from tqdm import tqdm

from pipelines.data.cache import cache_key, cached, made_whole, map_values
from pipelines.data.folders import (
    FOLDERS,
    Part,
    check_strays,
    class_folder,
    class_names,
    find_parts,
    warn_left_out,
    warn_unreadable,
)
from pipelines.data.image_files import (
    Found,
    Range,
    decode_images,
    image_formats,
    measure_values,
    read_image,
    suffix_hints,
)
from pipelines.data.images import ImageSplit
from pipelines.data.members import Source
from pipelines.files.atomic import write_atomically
from pipelines.files.errors import InputError
from pipelines.files.platforms import usable_cores
from pipelines.splits.base import Data, checked_hold_out_size, hold_out
from pipelines.splits.rows import Rows

VERSION = 2  # of the cached files
DARK = 2**15  # 16-bit images whose largest value is below it are said to be dark


@dataclass(frozen=True)
class Listed:
    """The image files of one split, in a fixed order."""

    sources: list[Source]
    names: list[str]  # that stay the same wherever the data lie
    labels: Tensor  # (n, L) int64
    facts: list  # what JSON can hold, of which the cache's names depend: names, sizes and times


class ImageFiles(Data):
    """uint8 (channels, *size): the centre of each image, resized to `store_size` and cropped to `size`.

    `size` and `store_size` are a number, of squares, or (height, width). A `store_size` above `size` leaves room for
    random crops; `pad` and `flip` augment too (pipelines/data/images.py). The decoded images are stored in `cache`
    under a name that depends on every file's name, size and time and on the settings. `workers` processes decode them;
    0 means one per core. Whatever is left out is counted, and unreadable images are named.

    cache_bytes: images beyond so many bytes are not stored, and decoded each time they are asked for, with the same
    result; every image is still decoded once first, to know which can be read. 0: all are stored.

    `range`: the values of pixels with more than 8 bits that become 0 and 255; "auto": the least (0 if all are integers
    above it) and the largest of the training images; None: 16 bits are reduced to their upper 8, 32 bits are refused.

    Raises InputError where no image can be read.
    """

    kind = "image"

    def __init__(self, root: str, cache: str, size: int | list[int], store_size: int | list[int], channels: int,
                 range: str | list[float] | None, pad: int, flip: bool, validation_fraction: float, workers: int,
                 seed: int, cache_bytes: int):
        self.shape = item_shape(size, channels)
        stored = (channels, *_stored_size(store_size, size))
        check_range(range)
        for key, number in (("workers", workers), ("cache_bytes", cache_bytes)):
            if number < 0:
                raise InputError(f"data.{key}: expected a number >= 0, found {number}")
        self.augmentation = {"size": self.shape[1:], "pad": pad, "flip": flip}
        parts = self._listed()
        workers = workers or usable_cores()
        rows = _rows({split: part.labels for split, part in parts.items()}, validation_fraction, seed)
        sources = [source for part in parts.values() for source in part.sources]
        key = [[split, *part.facts] for split, part in parts.items()]
        if range == "auto":
            self.values = _values_of_training(sources, rows["train"], Path(cache), self.name, key, workers)
        else:
            self.values = None if range is None else (range[0], range[1])
        found = decoded(parts, Path(cache), self.name, stored, self.values, workers, cache_bytes)
        self.pixels, self.digest = found.pixels, found.digest
        rows = {split: own[found.readable[own]] for split, own in rows.items()}
        of_all = torch.cat([part.labels for part in parts.values()])
        self.parts = {split: (own, of_all[own]) for split, own in rows.items()}
        self.splits = tuple(split for split in FOLDERS if split in self.parts)
        for split, (own, _) in self.parts.items():
            if not len(own):
                raise InputError(f"{root}: expected images for {split}, found none that can be read")
        unreadable = len(sources) - int(found.readable.sum())
        self.left_out = Counter(self.left_out) + Counter({"unreadable image": unreadable})
        self.remarks = self._said_of_values(found.deep)

    @abstractmethod
    def _listed(self) -> dict[str, Listed]:
        """The files of each split; also sets `name`, `label_names`, `classes` and `left_out`."""

    @classmethod
    def planned_shape(cls, settings: Mapping[str, Any]) -> tuple[int, ...] | None:
        return item_shape(settings.get("size", 64), settings.get("channels", 3))

    @property
    def saved_facts(self) -> dict[str, Any]:
        return {} if self.values is None else {"range": list(self.values)}

    def _said_of_values(self, deep: list[Range]) -> tuple[str, ...]:
        """What the line of what was loaded says of images with more than 8 bits."""
        if not deep:
            return ()
        low, high = min(low for low, _ in deep), max(high for _, high in deep)
        to = self.values or (0, 2**16 - 1)
        dark = "; dark? data.range=auto" if self.values is None and high < DARK else ""
        return (f"{len(deep)} with more than 8 bits, values {low:g} to {high:g}, read as {to[0]:g} to {to[1]:g}{dark}",)

    def _split(self, name: str) -> ImageSplit:
        rows, labels = self.parts[name]
        return ImageSplit(self.pixels, labels, rows, **self.augmentation)


class ImageFolder(ImageFiles):
    """Images of a folder, as `ImageFiles` reads them.

    There are labels if all training images lie in class folders, at least two; with `labels` false there are none, and
    images may also lie beside folders. Raises InputError for a folder that is missing or contains no readable image.
    """

    def __init__(
        self,
        root: str,
        cache: str,
        name: str = "",
        size: int | list[int] = 64,
        store_size: int | list[int] = 0,
        channels: int = 3,
        range: str | list[float] | None = None,
        labels: bool | None = None,
        pad: int = 0,
        flip: bool = False,
        validation_fraction: float = 0.1,
        workers: int = 0,
        seed: int = 0,
        cache_bytes: int = 0,
    ):
        if labels is not None and not isinstance(labels, bool):
            raise InputError(f"data.labels: expected true, false or null, found {labels!r}")
        self.name = name or Path(root).resolve().name
        self._root, self._wanted = Path(root), labels
        super().__init__(root, cache, size, store_size, channels, range, pad, flip, validation_fraction, workers,
                         seed, cache_bytes)

    def _listed(self) -> dict[str, Listed]:
        parts, labels = find_parts(self._root, image_formats().keys(), "images", suffix_hints()), self._wanted
        for part in parts.values():
            warn_left_out(part.folder, part.details)
        if labels is not False:
            check_strays(parts["train"], "images", "give data.labels=false: all images, without labels")
        names = class_names(parts["train"].files) if labels is not False else ()
        if labels and not names:
            raise InputError(f"data.labels: expected at least two class folders in {parts['train'].folder}, found none")
        self.label_names, self.classes = (("class",), (names,)) if names else ((), ())
        self.left_out = sum((Counter(part.left_out) for part in parts.values()), Counter())
        return {split: Listed([part.folder / file.path for file in part.files], [file.path for file in part.files],
                              self._labels(part), [part.folder.name, part.files]) for split, part in parts.items()}

    def _labels(self, part: Part) -> Tensor:
        """Labels (n, L) int64 of the images of a folder; L = 0 if the training images have no classes."""
        if not self.classes:
            return torch.zeros(len(part.files), 0, dtype=torch.int64)
        numbers = {name: number for number, name in enumerate(self.classes[0])}
        for file in part.files:
            if class_folder(file) not in numbers:
                raise InputError(f"{part.folder / file.path}: expected an image in the folder of one of the "
                                 f"{len(numbers)} training classes, found {class_folder(file) or 'no such folder'!r}")
        return torch.tensor([[numbers[class_folder(file)]] for file in part.files])


def item_shape(size: int | list[int], channels: int) -> tuple[int, int, int]:
    """(c, h, w) of `data.size` and `data.channels`. Raises InputError for values that are none."""
    if channels not in (1, 3) or isinstance(channels, bool):
        raise InputError(f"data.channels: expected 1 or 3, found {channels}")
    sides = _sides(size)
    if sides is None or min(sides) < 1:
        raise InputError(f"data.size: expected a number >= 1 or [HEIGHT,WIDTH], found {size}")
    return channels, *sides


def check_range(values: Any) -> None:
    """Raises InputError for a `data.range` that is none."""
    if values is None or values == "auto":
        return
    numbers = isinstance(values, list | tuple) and len(values) == 2 and all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values)
    if not numbers or values[0] >= values[1]:
        raise InputError(f"data.range: expected null, auto or [LOW,HIGH] with LOW < HIGH, found {values}")


def _sides(size: Any) -> tuple[int, int] | None:
    """Height and width of a size; None if it is none."""
    sides = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, list | tuple) else ()
    return (sides[0], sides[1]) if len(sides) == 2 and all(type(side) is int for side in sides) else None


def _stored_size(store_size: int | list[int], size: int | list[int]) -> tuple[int, int]:
    sides, least = _sides(store_size or size), _sides(size)
    if sides is None or least is None or sides[0] < least[0] or sides[1] < least[1]:
        raise InputError(f"data.store_size: expected 0 or a number >= size, {size}, found {store_size}")
    return sides


class Decoded(NamedTuple):
    """All images of a folder."""

    pixels: Tensor | Rows  # uint8 (n, c, h, w), memory-mapped, or decoded when they are asked for
    readable: Tensor  # bool (n,)
    deep: list[Range]  # least and largest value of each image with more than 8 bits
    digest: str  # SHA-256 over splits, paths and contents of the files, except those of the test split


class DecodedImages(Rows):
    """Images uint8 (n, c, h, w), the first of them in a file, the others decoded when they are asked for."""

    def __init__(self, kept: Tensor | None, sources: Sequence[Source], shape: tuple[int, int, int],
                 values: Range | None, workers: int):
        super().__init__(len(sources), np.dtype(np.uint8), shape)
        self.kept, self.sources, self.values = kept, sources, values
        self._pool = ThreadPoolExecutor(workers, "decode")  # Pillow decodes without Python's lock

    def _fill(self, wanted: np.ndarray, found: np.ndarray) -> None:
        stored = 0 if self.kept is None else int(np.searchsorted(wanted, len(self.kept)))
        if self.kept is not None and stored:
            found[:stored] = self.kept[torch.from_numpy(wanted[:stored])].flatten(1).numpy()
        for place, pixels in enumerate(self._pool.map(self._one, wanted[stored:].tolist()), stored):
            found[place] = pixels.reshape(-1)

    def _one(self, number: int) -> np.ndarray:
        source = self.sources[number]
        try:
            return read_image(source, (self.item[0], self.item[1], self.item[2]), self.values)
        except Exception as error:  # any error of a decoder
            raise InputError(f"{source}: expected the image that was there at first, found one that cannot be read "
                             f"({' '.join(str(error).split()) or type(error).__name__})") from error


def decoded(parts: Mapping[str, Listed], cache: Path, name: str, shape: tuple[int, int, int], values: Range | None,
            workers: int, most_bytes: int) -> Decoded:
    """All images of the parts, one part after the other.

    The cache holds NAME-KEY.u8, raw pixels, and NAME-KEY.json, its checksum and what was found out while decoding; KEY
    is a hash of the list of files and the settings. Missing and damaged caches are created first, by one of several
    processes. most_bytes: of the pixels; 0: all.
    """
    paths = [source for part in parts.values() for source in part.sources]
    listed = [part.facts for part in parts.values()]
    kept = min(len(paths), most_bytes // math.prod(shape)) if most_bytes else len(paths)
    key = [VERSION, listed, shape, values, PIL.__version__, *([] if kept == len(paths) else [kept])]
    pixels = cache / f"{name}-{cache_key(key)}.u8"

    def decode() -> dict[str, Any]:
        found = _decode(paths, pixels, shape, values, workers, kept)
        names = [(split, file) for split, part in parts.items() for file in part.names]
        known = [[*name, found.digests[place]] for place, name in enumerate(names) if name[0] != "test"]
        return {"unreadable": found.unreadable, "deep": found.deep, "digest": cache_key(known, 64)}

    notes = cached(pixels, decode)
    unreadable = {int(place): reason for place, reason in notes["unreadable"].items()}
    deep, digest = [(low, high) for low, high in notes["deep"].values()], notes["digest"]
    warn_unreadable("images", len(paths), {str(paths[place]): reason for place, reason in unreadable.items()})
    readable = torch.tensor([place not in unreadable for place in range(len(paths))])
    mapped = map_values(pixels, np.uint8, (kept, *shape)) if kept else None
    if mapped is not None and kept == len(paths):
        return Decoded(mapped, readable, deep, digest)
    return Decoded(DecodedImages(mapped, paths, shape, values, workers), readable, deep, digest)


def _decode(paths: Sequence[Source], target: Path, shape: tuple[int, int, int], values: Range | None, workers: int,
            kept: int) -> Found:
    """Decodes all, and the first `kept` ones into the file `target`."""
    with (made_whole(target) as temporary, _naming_killed(workers),
          tqdm(total=len(paths), desc="decode", unit="image", disable=None, dynamic_ncols=True) as bar):
        found = decode_images(paths, temporary, shape, values, workers, bar.update, kept)
        if len(found.unreadable) == len(paths):
            raise InputError(f"{paths[0]}: expected an image, found {found.unreadable[0]}; "
                             f"none of {len(paths)} can be read")
    return found


@contextmanager
def _naming_killed(workers: int) -> Iterator[None]:
    """A process of the pool that was killed becomes an InputError."""
    try:
        yield
    except BrokenProcessPool as error:
        raise InputError(f"data.workers: expected memory for {workers} decoding processes, found one killed") from error


def _values_of_training(paths: Sequence[Source], training: Tensor, cache: Path, name: str, key: list, workers: int
                        ) -> Range | None:
    """`data.range=auto`: of the training images with more than 8 bits; None if there are none.

    What was measured of all images is kept in the cache, NAME-KEY.values, with its checksum in NAME-KEY.json."""
    target = cache / f"{name}-{cache_key([VERSION, key, PIL.__version__])}.values"

    def measure() -> None:
        with _naming_killed(workers):
            measured = measure_values(paths, workers)
        write_atomically(target, json.dumps(measured).encode())

    cached(target, measure)
    measured = {int(place): (low, high) for place, (low, high) in json.loads(target.read_text()).items()}
    found = [measured[place] for place in training.tolist() if place in measured]
    if not found:
        return None
    low, high = min(low for low, _ in found), max(high for _, high in found)
    if low >= 0 and all(isinstance(value, int) for own in found for value in own):
        low = 0
    return (low, high) if low < high else (low, low + 1)


def _rows(labels: dict[str, Tensor], fraction: float, seed: int) -> dict[str, Tensor]:
    """For each split the rows of its images among all, (n,); `labels` are those of each folder."""
    counts = [len(part) for part in labels.values()]
    rows = dict(zip(labels, torch.arange(sum(counts)).split(counts), strict=True))
    if "validation" not in labels:
        # held out before unreadable images are removed, so that a damaged one moves no other image to another split
        count = len(rows["train"])
        size = checked_hold_out_size("data.validation_fraction", round(fraction * count), count)
        rows["train"], rows["validation"] = (rows["train"][chosen] for chosen in hold_out(count, size, seed))
    return rows
