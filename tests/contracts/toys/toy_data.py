"""A data set in one file: stripes of two directions, drawn from counters."""

import numpy as np
import torch

from pipelines.data.images import ImageSplit
from pipelines.splits import counters
from pipelines.splits.base import Data, hold_out


class Stripes(Data):
    """uint8 (1, 8, 12): waves along rows or columns, of a random length and phase."""

    name = "stripes"
    kind = "image"
    shape = (1, 8, 12)
    label_names = ("direction",)
    classes = (("horizontal", "vertical"),)
    splits = ("train", "validation")

    def __init__(self, count: int, seed: int):
        bits = counters.words(seed, np.arange(count)[:, None], np.arange(3))
        direction = counters.below(bits[:, 0], 2)
        length, phase = 3 + 5 * (bits[:, 1] / 2**64), 2 * np.pi * (bits[:, 2] / 2**64)
        rows, columns = np.arange(8)[:, None], np.arange(12)[None]
        along = np.where(direction[:, None, None] == 0, rows, columns)
        waves = np.sin(2 * np.pi * along / length[:, None, None] + phase[:, None, None])
        self.images = torch.from_numpy((127.5 + 127.4 * waves).round().astype(np.uint8))[:, None]
        self.labels = torch.from_numpy(direction)[:, None]
        self.rows = dict(zip(self.splits, hold_out(count, count // 4, seed), strict=True))

    def _split(self, name: str) -> ImageSplit:
        rows = self.rows[name]
        return ImageSplit(self.images, self.labels[rows], rows, size=self.shape[1:])


class Textures(Stripes):
    """The same stripes as a kind of their own, kinds/texture.py."""

    kind = "texture"
