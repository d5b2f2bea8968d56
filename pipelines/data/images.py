"""Splits of images: gathered and augmented per batch, without a loop over items and without loader processes.

Axes: n items of a split, b items of a batch, c channels, H W stored rows and columns, h w rows and columns in a batch.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.files.errors import InputError
from pipelines.splits import counters
from pipelines.splits.base import Batch, Split
from pipelines.splits.transfer import send_together


@dataclass(frozen=True, kw_only=True)
class ImageSplit(Split):
    """uint8 images, stored (m, c, H, W), in batches (b, c, h, w).

    Augmentation: padding with `pad` zeros on each side, a random h x w window, and with `flip` mirroring with
    probability 1/2. Evaluation uses the central window, unpadded and unmirrored.
    """

    size: tuple[int, int]  # (h, w), at most (H, W)
    pad: int = 0
    flip: bool = False

    def __post_init__(self):
        if self.pad < 0:
            raise InputError(f"data.pad: expected a number >= 0, found {self.pad}")

    def batch(self, indices: Tensor, seed: int = 0, epoch: int | Tensor | None = None) -> Batch:
        slack = [stored - size for stored, size in zip(self.x.shape[-2:], self.size, strict=True)]
        top, left = (free // 2 for free in slack)
        if epoch is None or not (self.pad or self.flip or any(slack)):
            batch = self._take(indices)
            return batch._replace(x=batch.x[..., top : top + self.size[0], left : left + self.size[1]])

        epoch = np.asarray(torch.as_tensor(epoch).cpu())
        bits = counters.words(seed, epoch[..., None], indices.cpu().numpy()[:, None], np.arange(3))
        tops = counters.below(bits[:, 0], slack[0] + 2 * self.pad + 1)
        lefts = counters.below(bits[:, 1], slack[1] + 2 * self.pad + 1)
        mirrored = counters.below(bits[:, 2], 2) * self.flip
        plain = np.broadcast_to(epoch < 0, tops.shape)
        window = np.stack([np.where(plain, top + self.pad, tops), np.where(plain, left + self.pad, lefts),
                           np.where(plain, 0, mirrored)])
        sent, window = send_together([indices.cpu(), torch.from_numpy(window)], self.device)
        batch = self._take(indices, sent)
        padded = F.pad(batch.x, (self.pad,) * 4)
        return batch._replace(x=windows(padded, window[0], window[1], window[2] > 0, self.size))


def windows(x: Tensor, tops: Tensor, lefts: Tensor, mirrored: Tensor, size: tuple[int, int]) -> Tensor:
    """A separate window of each image: x (b, c, H, W), tops and lefts (b,) int64, mirrored (b,) bool -> (b, c, h, w).

    A single gather over flattened pixels: 0.4 ms for 128 images of 32x32 with 4 pixels of padding, on two CPU cores.
    """
    height, width = size
    rows = tops[:, None] + torch.arange(height, device=x.device)
    columns = lefts[:, None] + torch.arange(width, device=x.device)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    pixels = (rows[:, :, None] * x.shape[-1] + columns[:, None, :]).flatten(1)
    pixels = pixels[:, None].expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, pixels).unflatten(2, size)
