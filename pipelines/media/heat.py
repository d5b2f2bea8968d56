"""Maps of bits: drawn over images and frames, and over time.

Maps are float (rows, columns) in bits per position; an image shows each as a colour over its grey values, from black
at 0 bits to light yellow at `top`, nearest neighbours, so that positions keep their edges.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipelines.files.atomic import write_atomically
from pipelines.media.images import GAP, INK, PAPER, TEXT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 6  # in a row of an overview
SCALE, RED = "inferno", "#c0392b"
WIDTH, DPI = 1440, 120


def overlay(images: Tensor, maps: Tensor, top: float) -> Tensor:
    """Images uint8 (n, c, h, w), maps (n, rows, columns) -> uint8 (n, 3, h, w): the map's colours, lit by the image."""
    from matplotlib import colormaps  # takes half a second to import

    height, width = images.shape[-2:]
    rows, columns = (torch.arange(size) * count // size for size, count in zip((height, width), maps.shape[1:]))
    bits = maps[:, rows][:, :, columns]
    colours = torch.from_numpy(colormaps[SCALE]((bits / top).clamp(0, 1).numpy())[..., :3]).movedim(-1, 1)
    grey = images.double().mean(1, keepdim=True) / 255
    return (255 * (0.75 * colours + 0.25 * grey)).round().to(torch.uint8)


def scale(maps: Tensor) -> float:
    """The bits that are drawn brightest: what all but one of a hundred positions stay below."""
    values = maps.flatten().double().sort().values
    return max(float(values[int(0.99 * (len(values) - 1))]), 1e-6)


def chosen(items: int, count: int) -> dict[str, range]:
    """Which of the items of a ranking an overview shows: up to `count` from either end, by a title for each group."""
    if items <= count:
        return {"most surprising first": range(items)}
    return {"most surprising": range(count), "least surprising": range(max(count, items - count), items)}


def plot_over_time(path: Path, wave: Tensor, sample_rate_hz: int, code_seconds: float, code_bits: Tensor,
                   data_bits: Tensor, title: str) -> None:
    """A wave (t,) as a spectrogram above the bits of its codes (p,), and of its samples as means over the time of a
    code, (p,)."""
    from pipelines.media.audio import RANGE_DB, decibels

    figure, seconds = _figure(6.5), len(wave) / sample_rate_hz
    above, middle, below = figure.subplots(3, 1, sharex=True)
    power = decibels(wave, sample_rate_hz)
    above.imshow(power.numpy(), origin="lower", aspect="auto", cmap="magma", vmin=float(power.max()) - RANGE_DB,
                 extent=(0, seconds, 0, sample_rate_hz / 2000))
    above.set(ylabel="kHz", title=title)
    for axis, bits, name in ((middle, code_bits, "bits per code"), (below, data_bits, "bits per sample,\ngiven codes")):
        axis.stairs(bits.numpy(), np.arange(len(bits) + 1) * code_seconds, fill=True, color=RED)
        axis.set(ylabel=name, xlim=(0, seconds))
        axis.grid(alpha=0.3)
    below.set_xlabel("seconds")
    _write(path, figure)


def overview(path: Path, captions: list[str], images: Tensor, maps: Tensor, top: float) -> None:
    """Of a ranking, captions (n), images uint8 (n, c, h, w), maps (n, rows, columns): the first and the last ones, each
    with its map below it, and a colour bar of the bits."""
    groups = chosen(len(images), SHOWN)
    count = max(map(len, groups.values()))
    side, factor = min(2.0, WIDTH / DPI / count), -(-200 // images.shape[-2])
    figure = _figure((2 * 0.89 * side + 0.5) * len(groups))  # 0.89: a colour bar and titles take the rest
    grid = figure.subplots(len(groups), count, squeeze=False)
    for axis in grid.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for place, (title, numbers) in enumerate(groups.items()):
        above = images[list(numbers)].expand(-1, 3, -1, -1)
        below = overlay(images[list(numbers)], maps[list(numbers)], top)
        above, below = (pixels.repeat_interleave(factor, 2).repeat_interleave(factor, 3) for pixels in (above, below))
        pairs = torch.cat([above, torch.full_like(above[:, :, :GAP], PAPER), below], 2).movedim(1, -1).numpy()
        for column, (number, pixels) in enumerate(zip(numbers, pairs, strict=True)):
            grid[place, column].imshow(pixels, interpolation="nearest")
            grid[place, column].set_title(captions[number].replace(": ", "\n", 1), fontsize=8)
        grid[place, 0].set_ylabel(title, fontsize=11)
    colours = grid[0, 0].scatter([], [], c=[], cmap=SCALE, vmin=0, vmax=top)
    figure.colorbar(colours, ax=grid, shrink=0.6, aspect=40, pad=0.01).set_label("bits of the codes at each position")
    _write(path, figure)


def caption_below(image: Tensor, words: str) -> Tensor:
    """An image uint8 (3, h, w) with a line of text below it."""
    line = Image.new("RGB", (image.shape[2], TEXT + 2 * GAP), (PAPER,) * 3)
    ImageDraw.Draw(line).text((GAP, GAP), words, (INK,) * 3, ImageFont.load_default(TEXT))
    return torch.cat([image, torch.from_numpy(np.array(line)).movedim(-1, 0)], 1)


def _figure(height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH / DPI, height), layout="constrained")


def _write(path: Path, figure: "Figure") -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    write_atomically(path, buffer.getvalue())
