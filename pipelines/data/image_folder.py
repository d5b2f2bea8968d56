"""Any folder of images: decoded once into a file of raw pixels, which is then memory-mapped.

    root/*.jpg                        no labels; validation is held out
    root/CLASS/*.jpg                  the label is the name of the folder
    root/{train,validation,test}/...  either layout in each; validation (or `val`, `valid`) and test may be missing

Training therefore needs no loader processes: a batch is a gather from GPU memory or from the page cache.
"""

import json
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor
from tqdm import tqdm

from pipelines.data.cache import cache_key, locked, made_whole, map_values
from pipelines.data.folders import FOLDERS, Part, class_folder, class_names, find_parts, warn_unreadable
from pipelines.data.image_files import SUFFIXES, decode_images
from pipelines.data.images import ImageSplit
from pipelines.files.atomic import write_atomically
from pipelines.files.errors import InputError
from pipelines.files.platforms import usable_cores
from pipelines.splits.base import Data, checked_hold_out_size, hold_out


class ImageFolder(Data):
    """uint8 (channels, size, size): the central square of each image, resized to `store_size` and cropped to `size`.

    A `store_size` above `size` leaves room for random crops; `pad` and `flip` augment too (pipelines/data/images.py).
    There are labels if all training images lie in class folders, at least two. The decoded images are stored in `cache`
    under a name that depends on every file's name, size and time and on the settings. `workers` processes decode them;
    0 means one per core. Unreadable images are left out, counted and named.

    Raises InputError for a folder that is missing or contains no readable image.
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
            ("size", size, size >= 1, "a number >= 1"),
            ("store_size", store_size, store_size >= size, f"0 or a number >= size, {size}"),
            ("channels", channels, channels in (1, 3), "1 or 3"),
            ("workers", workers, workers >= 0, "a number >= 0"),
        ):
            if not accepted:
                raise InputError(f"data.{key}: expected {expected}, found {found}")
        self.name = name or Path(root).resolve().name
        self.shape = (channels, size, size)
        self.augmentation = {"size": (size, size), "pad": pad, "flip": flip}
        parts = find_parts(Path(root), SUFFIXES, "images")
        names = class_names(parts["train"].files)
        self.label_names, self.classes = (("class",), (names,)) if names else ((), ())
        labels = {split: self._labels(part) for split, part in parts.items()}
        workers = workers or usable_cores()
        stored = (channels, store_size, store_size)
        self.pixels, readable = decoded(list(parts.values()), Path(cache), self.name, stored, workers)
        self.parts = _place(labels, readable, validation_fraction, seed)
        self.splits = tuple(split for split in FOLDERS if split in self.parts)
        for split, (rows, _) in self.parts.items():
            if not len(rows):
                raise InputError(f"{root}: expected images for {split}, found none that can be read")

    def _split(self, name: str) -> ImageSplit:
        rows, labels = self.parts[name]
        return ImageSplit(self.pixels, labels, rows, **self.augmentation)

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


def decoded(
    parts: list[Part], cache: Path, name: str, shape: tuple[int, int, int], workers: int
) -> tuple[Tensor, Tensor]:
    """All images of the parts, one part after the other: uint8 (n, *shape), memory-mapped, and bool (n,): readable?

    The cache holds NAME-KEY.u8, raw pixels, and NAME-KEY.json, the unreadable files with reasons; KEY is a hash of the
    list of files and the settings. Missing caches are created first, by one of several processes.
    """
    paths = [part.folder / file.path for part in parts for file in part.files]
    settings = [[part.folder.name, part.files] for part in parts], shape, PIL.__version__
    pixels, notes = (cache / f"{name}-{cache_key(settings)}{suffix}" for suffix in (".u8", ".json"))
    with locked(cache):
        if not notes.exists():
            unreadable = _decode(paths, pixels, shape, workers)
            write_atomically(notes, json.dumps(unreadable, indent=1).encode())
    try:
        unreadable = {int(place): str(reason) for place, reason in json.loads(notes.read_text()).items()}
    except (ValueError, AttributeError) as error:
        raise InputError(f"{notes}: expected a list of unreadable images, found other content; remove it") from error
    warn_unreadable("images", len(paths), {str(paths[place]): reason for place, reason in unreadable.items()})
    readable = torch.tensor([place not in unreadable for place in range(len(paths))])
    return map_values(pixels, np.uint8, (len(paths), *shape)), readable


def _decode(paths: list[Path], target: Path, shape: tuple[int, int, int], workers: int) -> dict[int, str]:
    """Decodes into the file `target`; returns the reason for each unreadable image."""
    try:
        with (made_whole(target) as temporary,
              tqdm(total=len(paths), desc="decode", unit="image", disable=None, dynamic_ncols=True) as bar):
            unreadable = decode_images(paths, temporary, shape, workers, bar.update)
            if len(unreadable) == len(paths):
                raise InputError(f"{paths[0]}: expected an image, found {unreadable[0]}; "
                                 f"none of {len(paths)} can be read")
    except BrokenProcessPool as error:
        raise InputError(f"data.workers: expected memory for {workers} decoding processes, found one killed") from error
    return unreadable


def _place(labels: dict[str, Tensor], readable: Tensor, fraction: float, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """For each split the rows of its readable images among all decoded ones (n,), and their labels (n, L)."""
    rows = dict(zip(labels, torch.arange(len(readable)).split([len(part) for part in labels.values()]), strict=True))
    placed = {split: (rows[split], labels[split]) for split in labels}
    if "validation" not in labels:
        # held out before unreadable images are removed, so that a damaged one moves no other image to another split
        count = len(rows["train"])
        size = checked_hold_out_size("data.validation_fraction", round(fraction * count), count)
        for split, chosen in zip(("train", "validation"), hold_out(count, size, seed), strict=True):
            placed[split] = rows["train"][chosen], labels["train"][chosen]
    return {split: (rows[readable[rows]], labels[readable[rows]]) for split, (rows, labels) in placed.items()}
