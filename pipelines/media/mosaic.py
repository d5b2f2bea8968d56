"""Codes as pictures: a square for each code, equal codes in equal colours, which mean nothing else.

Axes: n items, g codebooks, h rows, w columns, t positions of a sequence, or frames.
"""

import math

import numpy as np
import torch
from torch import Tensor

GOLDEN = (math.sqrt(5) - 1) / 2  # multiples of it spread evenly over the hues, however many there are


def planes(values: Tensor, axes: int) -> Tensor:
    """(n, *grid) with `axes` axes of the grid -> (n, h, w): a sequence in lines of about the square root of its length,
    frames side by side. Places that are left over hold -1."""
    if axes == 1:
        count = values.shape[1]
        width = math.ceil(math.sqrt(count))
        values = torch.nn.functional.pad(values, (0, -count % width), value=-1)
        return values.reshape(len(values), -1, width)
    return values if axes == 2 else values.movedim(1, 2).flatten(2)


def mosaic(x: Tensor) -> Tensor:
    """Codes int64 (n, g, *grid), -1 where there is none -> uint8 (n, 3, g h, w): one codebook below the other."""
    plane = torch.cat([planes(x[:, book], x.ndim - 2) for book in range(x.shape[1])], 1)
    hue = (plane.numpy() * GOLDEN) % 1
    value = np.where(plane.numpy() % 2, 0.75, 1.0)  # neighbours in number differ in more than the hue
    channels = [np.clip(np.abs((hue * 6 + shift) % 6 - 3) - 1, 0, 1) * 0.7 + 0.3 for shift in (0, 4, 2)]
    colours = np.stack([255 * value * channel for channel in channels], 1)
    colours[np.broadcast_to(plane.numpy()[:, None] < 0, colours.shape)] = 255
    return torch.from_numpy(colours.round().astype(np.uint8))
