"""The 1,797 handwritten digits that are part of scikit-learn: 8x8 pixels, no download.

E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from pipelines.data.images import ImageSplit
from pipelines.splits.base import Data, checked_hold_out_size, hold_out


class Digits(Data):
    """uint8 (1, 8, 8). The original values 0..16 become round(x * 255 / 16), so that bits/dim refer to 8-bit images.
    The same fraction of each class is held out for validation."""

    name = "digits"
    kind = "image"
    shape = (1, 8, 8)
    label_names = ("digit",)
    classes = (tuple("0123456789"),)
    splits = ("train", "validation")

    def __init__(self, validation_fraction: float = 0.2, pad: int = 0, seed: int = 0):
        images, digits = load_digits()
        self.images = torch.from_numpy(images).reshape(-1, *self.shape).mul(255 / 16).round().to(torch.uint8)
        self.digits = torch.from_numpy(digits).long()[:, None]
        self.pad = pad
        parts: dict[str, list[torch.Tensor]] = {name: [] for name in self.splits}
        for digit in range(10):
            (of_class,) = torch.where(self.digits[:, 0] == digit)
            size = round(validation_fraction * len(of_class))
            checked_hold_out_size("data.validation_fraction", size, len(of_class))
            for name, chosen in zip(self.splits, hold_out(len(of_class), size, seed + digit), strict=True):
                parts[name].append(of_class[chosen])
        self.rows = {name: torch.cat(indices).sort().values for name, indices in parts.items()}

    def _split(self, name: str) -> ImageSplit:
        rows = self.rows[name]
        return ImageSplit(self.images, self.digits[rows], rows, size=self.shape[1:], pad=self.pad)


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """What `sklearn.datasets.load_digits(return_X_y=True)` gives: float64 (1797, 64) and integers (1797,).

    Read from the package's file where it lies: importing scikit-learn takes most of a second."""
    package = find_spec("sklearn")
    assert package is not None and package.origin is not None, "a dependency in pyproject.toml"
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not file.exists():  # another layout of the package: it knows
        from sklearn import datasets

        images, digits = datasets.load_digits(return_X_y=True)
        return images, digits
    rows = np.loadtxt(file, delimiter=",")
    return rows[:, :-1], rows[:, -1].astype(np.int64)
