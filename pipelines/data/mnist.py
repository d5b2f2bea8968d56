"""MNIST and Fashion-MNIST: 60,000 + 10,000 grey images of 28x28 pixels in ten classes.

Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", 1998.
H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST", arXiv 1708.07747.
"""

from pathlib import Path

import torchvision

from pipelines.data.base import Data, checked_hold_out_size, hold_out
from pipelines.data.images import ImageSplit
from pipelines.data.published import open_published, sorted_classes
from pipelines.errors import InputError


class MNIST(Data):
    """uint8 (1, 28, 28). Validation is held out of the publisher's training images; test is the publisher's."""

    name = "mnist"
    kind = "image"
    shape = (1, 28, 28)
    splits = ("train", "validation", "test")
    label_names = ("digit",)
    published = torchvision.datasets.MNIST
    published_classes = list("0123456789")

    def __init__(self, root: str, download: bool = False, validation_size: int = 5000, pad: int = 0, seed: int = 0):
        folder = Path(root) / self.published.__name__ / "raw"
        self.pad = pad
        self.images, self.labels, classes = {}, {}, len(self.published_classes)
        for name, part in zip(("train", "test"), open_published(self.published, root, folder, download), strict=True):
            if part.data.shape[1:] != (28, 28) or len(part.data) != len(part.targets) or part.targets.max() >= classes:
                raise InputError(f"{folder}: expected 28x28 images with as many labels below {classes}, found images "
                                 f"{tuple(part.data.shape)}, {len(part.targets)} labels up to {part.targets.max()}")
            self.images[name] = part.data[:, None]
            names, self.labels[name] = sorted_classes(self.published_classes, part.targets)
        self.classes = (names,)
        size = checked_hold_out_size("data.validation_size", validation_size, len(self.images["train"]))
        self.kept, self.held_out = hold_out(len(self.images["train"]), size, seed)

    def _split(self, name: str) -> ImageSplit:
        shape = {"size": self.shape[1:], "pad": self.pad}
        if name == "test":
            return ImageSplit(self.images["test"], self.labels["test"], **shape)
        rows = self.kept if name == "train" else self.held_out
        return ImageSplit(self.images["train"], self.labels["train"][rows], rows, **shape)


class FashionMNIST(MNIST):
    """Clothing in MNIST's format; the classes are sorted by name, which is not the publisher's order."""

    name = "fashion_mnist"
    label_names = ("class",)
    published = torchvision.datasets.FashionMNIST
    published_classes = torchvision.datasets.FashionMNIST.classes
