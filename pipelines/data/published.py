"""Image data sets that torchvision reads from their published files; errors say how to get these files."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange

from pipelines.data.images import ImageSplit
from pipelines.files.errors import InputError
from pipelines.files.locks import locked
from pipelines.splits.base import Data, checked_hold_out_size, hold_out


class PublishedImages(Data):
    """uint8 (c, h, w). Validation is held out of the published training images; test is the published test set.

    `root` is the folder that torchvision takes. `pad` and `flip` augment (pipelines/data/images.py); `seed` chooses the
    held-out images. Raises InputError if files are missing, damaged or cannot be downloaded.
    """

    kind = "image"
    splits = ("train", "validation", "test")
    published: type  # the torchvision data set
    folder: str  # with its files, relative to root
    published_classes: list[str]  # in the published order; labels here index the sorted names

    def __init__(self, root: str, download: bool = False, validation_size: int = 5000, pad: int = 0, flip: bool = False,
                 seed: int = 0):
        names = sorted(self.published_classes)
        self.classes = (tuple(names),)
        place = torch.tensor([names.index(name) for name in self.published_classes])
        self.augmentation = {"size": self.shape[1:], "pad": pad, "flip": flip}
        self.images, self.labels = {}, {}
        for name, part in zip(("train", "test"), self._open(root, download), strict=True):
            self.images[name], targets = self._tensors(part, Path(root) / self.folder)
            self.labels[name] = place[targets][:, None]
        size = checked_hold_out_size("data.validation_size", validation_size, len(self.images["train"]))
        self.kept, self.held_out = hold_out(len(self.images["train"]), size, seed)

    def _split(self, name: str) -> ImageSplit:
        if name == "test":
            return ImageSplit(self.images["test"], self.labels["test"], **self.augmentation)
        rows = self.kept if name == "train" else self.held_out
        return ImageSplit(self.images["train"], self.labels["train"][rows], rows, **self.augmentation)

    def _open(self, root: str, download: bool) -> list[Any]:
        """The training and the test part. torchvision unpickles CIFAR-10 after checking the published MD5 sums."""
        def parts(download: bool) -> list[Any]:
            return [self.published(root, train=train, download=download) for train in (True, False)]

        try:
            try:
                return parts(download=False)
            except Exception:  # whatever torchvision makes of a damaged file
                if not download:
                    raise
            with locked(Path(root)):  # two runs that begin at once
                return parts(download=True)
        except Exception as error:
            raise InputError(
                f"{Path(root) / self.folder}: expected the published files of {self.published.__name__}, found none "
                f"that can be read ({error or type(error).__name__}); name their root with data.root=FOLDER, or "
                "download them with data.download=true"
            ) from error

    def _tensors(self, part: Any, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (n, c, h, w) uint8 and labels (n,) int64 in the published numbering."""
        images, targets = torch.from_numpy(np.asarray(part.data)), torch.as_tensor(part.targets, dtype=torch.int64)
        images = rearrange(images, "n h w -> n 1 h w" if images.ndim == 3 else "n h w c -> n c h w").contiguous()
        classes = len(self.published_classes)
        fits = len(images) == len(targets) > 0 and images.shape[1:] == self.shape and images.dtype == torch.uint8
        highest = max(targets.tolist(), default=None)
        if not fits or highest >= classes:
            raise InputError(f"{folder}: expected images {self.shape} and equally many labels below {classes}, found "
                             f"{len(images)} {tuple(images.shape[1:])}, {len(targets)} labels up to {highest}")
        return images, targets
