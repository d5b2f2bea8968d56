"""Tensors to PNG and GIF files: grids of images, originals above reconstructions, strips of frames, loss curves, the
use of a codebook, scatters.

Pictures are uint8 (c, h, w) with c = 1 or 3 going in, (3, h, w) coming out; what is small is enlarged by whole factors
without smoothing. Files appear whole or not at all.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, repeat
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipelines.training.checkpoint import write_atomically
from stage1_vqvae.codebook import perplexity

FRAME_MS = 200  # of a GIF
LEAST_WIDTH = 600  # pixels of a grid: what fits a page and shows 8x8 digits
GAP, SEPARATOR = 4, 1  # pixels between images, and between an original and its reconstruction
MARGIN, TEXT = 112, 14  # pixels left of a comparison for its captions, and their size
PAPER, LINE, INK = 255, 176, 64  # grey levels of what is around images
TRAIN, VALIDATION = "#9ab3cc", "#c0392b"


def write_picture(path: Path, image: Tensor) -> None:
    """Writes uint8 (c, h, w), c = 1 or 3, as PNG, pixel for pixel."""
    assert image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] in (1, 3), (image.dtype, image.shape)
    pixels = rearrange(image.cpu(), "c h w -> h w c").numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, format="PNG", optimize=True)
    write_atomically(Path(path), buffer.getvalue())


def grid(images: Tensor, columns: int | None = None) -> Tensor:
    """Images uint8 (n, c, h, w) in reading order, in rows of `columns` (default: as nearly square as can be)."""
    number, _, height, width = images.shape
    columns = min(columns or math.ceil(math.sqrt(number * height / width)), number)
    return _tile(_enlarge(images, columns), columns)


def comparison(originals: Tensor, reconstructions: Tensor, columns: int = 8,
               captions: tuple[str, str] = ("original", "reconstruction")) -> Tensor:
    """Each original above its reconstruction, both uint8 (n, c, h, w), a thin line between; captions on the left."""
    assert originals.shape == reconstructions.shape, (originals.shape, reconstructions.shape)
    columns = min(columns, len(originals))
    upper, lower = _enlarge(originals, columns), _enlarge(reconstructions, columns)
    line = torch.full_like(upper[:, :, :SEPARATOR], LINE)
    pairs = torch.cat([upper, line, lower], dim=2)
    canvas = _tile(pairs, columns)
    margin = Image.new("L", (MARGIN, canvas.shape[1]), PAPER)
    draw, font = ImageDraw.Draw(margin), ImageFont.load_default(TEXT)
    for top in range(GAP, canvas.shape[1] - GAP, pairs.shape[2] + GAP):
        for above, caption in zip((0, pairs.shape[2] - upper.shape[2]), captions, strict=True):
            draw.text((MARGIN - GAP, top + above + upper.shape[2] / 2), caption, INK, font, anchor="rm")
    return torch.cat([repeat(torch.from_numpy(np.array(margin)), "h w -> c h w", c=3), canvas], dim=2)


def named_rows(images: dict[str, Tensor]) -> Tensor:
    """A row of images uint8 (n, c, h, w) for each name, as many in each, the name on its left."""
    canvas = grid(torch.cat(list(images.values())), len(next(iter(images.values()))))
    font, height = ImageFont.load_default(TEXT), (canvas.shape[1] - GAP) // len(images)
    captions = Image.new("L", (2 * GAP + math.ceil(max(map(font.getlength, images))), canvas.shape[1]), PAPER)
    for place, name in enumerate(images):
        middle = GAP + place * height + (height - GAP) / 2
        ImageDraw.Draw(captions).text((captions.width - GAP, middle), name, INK, font, anchor="rm")
    return torch.cat([repeat(torch.from_numpy(np.array(captions)), "h w -> c h w", c=3), canvas], dim=2)


def frames(clips: Tensor) -> Tensor:
    """Clips (n, c, t, h, w) -> their frames (n * t, c, h, w), one clip after another."""
    return rearrange(clips, "n c t h w -> (n t) c h w")


def strip(clips: dict[str, Tensor], context: int) -> Tensor:
    """A row of frames for each clip uint8 (c, t, h, w), its name on the left; a line after the first `context`."""
    canvas = named_rows({name: frames(clip[None]) for name, clip in clips.items()})
    _, number, _, width = next(iter(clips.values())).shape
    if 0 < context < number:
        line = canvas.shape[2] - GAP - (number - context) * (width * _factor(number, width) + GAP)
        canvas[:, :, line : line + GAP] = INK
    return canvas


def write_gif(path: Path, clips: dict[str, Tensor], context: int) -> None:
    """Clips uint8 (c, t, h, w) side by side as a GIF that goes on forever, each below its name.

    For the first `context` frames that is "context" instead, except for the first clip."""
    number, font, pictures = next(iter(clips.values())).shape[1], ImageFont.load_default(TEXT), []
    for t in range(number):
        panels = grid(torch.stack([clip[:, t] for clip in clips.values()]), len(clips))
        head = Image.new("RGB", (panels.shape[2], 2 * TEXT), (PAPER,) * 3)
        for place, name in enumerate(clips):
            middle = GAP / 2 + (place + 0.5) * (panels.shape[2] - GAP) / len(clips)
            said = "context" if place and t < context else name
            ImageDraw.Draw(head).text((middle, TEXT), said, (INK,) * 3, font, anchor="mm")
        picture = np.concatenate([np.array(head), rearrange(panels, "c h w -> h w c").numpy()])
        pictures.append(Image.fromarray(picture).quantize(256, dither=Image.Dither.NONE))
    buffer = io.BytesIO()
    pictures[0].save(buffer, format="GIF", save_all=True, append_images=pictures[1:], duration=FRAME_MS, loop=0)
    write_atomically(Path(path), buffer.getvalue())


def plot_lines(path: Path, panels: list[tuple[str, str, dict[str, list[tuple]]]]) -> None:
    """Panels side by side: what x is, what y is, and the points (x, y) of each named line; None leaves one out.

    Words for x are set at even distances, in the order of their first use. The scale of y is logarithmic where positive
    values span a factor of more than 100."""
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    for axis, (x, y, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, points in lines.items():
            points = [point for point in points if point[1] is not None]
            axis.plot(*zip(*points), marker="." if len(points) < 20 else None, label=name or None)
        values = [value for points in lines.values() for _, value in points if value is not None]
        wide = bool(values) and 0 < 100 * min(values) < max(values)
        axis.set(xlabel=x, ylabel=y, yscale="log" if wide else "linear")
        axis.grid(alpha=0.3)
        if any(lines):
            axis.legend()
    _write_figure(path, figure)


def plot_curves(path: Path, stages: dict[str, list[dict]]) -> None:
    """The loss of each stage over its steps, training and validation, from the rows of its metrics.jsonl.

    A stage's loss is the first figure that its rows of both splits have. Stages without rows are left out.
    """
    stages = {title: rows for title, rows in stages.items() if rows}
    figure = Figure(figsize=(6 * max(len(stages), 1), 4), layout="constrained")
    axes = figure.subplots(1, max(len(stages), 1), squeeze=False)[0]
    if not stages:
        axes[0].text(0.5, 0.5, "no rows in metrics.jsonl", ha="center")
    for axis, (title, rows) in zip(axes, stages.items(), strict=False):
        splits = {split: [row for row in rows if row["split"] == split] for split in ("train", "validation")}
        known = {name for row in splits["validation"] for name in row} - {"step", "split", "seconds"}
        name = next((name for row in splits["train"] for name in row if name in known), "loss")
        drawn = {split: np.array([(row["step"], row[name]) for row in own if row.get(name) is not None]).reshape(-1, 2)
                 for split, own in splits.items()}
        axis.plot(*drawn["train"].T, color=TRAIN, linewidth=1, label="training")
        axis.plot(*drawn["validation"].T, color=VALIDATION, linewidth=1.5, marker=".", label="validation")
        if len(drawn["validation"]):
            step, best = drawn["validation"][drawn["validation"][:, 1].argmin()]
            axis.axhline(best, color=VALIDATION, linewidth=0.5, linestyle=":")
            axis.set_title(f"{title}: best validation {best:.4g} at step {step:.0f}", fontsize=10)
        settled = [value for curve in drawn.values() for step, value in curve if step > 0.05 * curve[-1, 0]]
        if settled and max(settled) > min(settled):  # the first steps would flatten all that follows
            margin = 0.05 * (max(settled) - min(settled))
            axis.set_ylim(min(settled) - margin, max(settled) + margin)
        axis.set(xlabel="step", ylabel=name)
        axis.grid(alpha=0.3)
        axis.legend()
    _write_figure(path, figure)


def plot_codebook_use(path: Path, counts: Tensor) -> None:
    """How often each code occurs, int64 (k,) or (g, k), from the most to the least used on a logarithmic axis."""
    counts = counts.cpu().reshape(-1, counts.shape[-1])
    books, size = counts.shape
    used, effective = (counts > 0).sum(1).double().mean().item(), perplexity(counts).mean().item()
    figure = Figure(figsize=(8, 4), layout="constrained")
    axis = figure.subplots()
    for book in counts.sort(dim=1, descending=True).values.numpy():
        axis.stairs(book, fill=books == 1, color=TRAIN)
    axis.axhline(counts.sum().item() / counts.numel(), color=VALIDATION, linewidth=1, linestyle="--", label="even use")
    axis.set(xlabel="code, by use", ylabel="occurrences", yscale="log", xlim=(0, size), ylim=(0.5, None))
    axis.set_title(f"{used:.4g} of {size} codes used, perplexity {effective:.1f}"
                   + (f" (means over {books} codebooks)" if books > 1 else ""), fontsize=10)
    axis.legend()
    _write_figure(path, figure)


def plot_plane(path: Path, points: Tensor, box: Tensor, labels: Tensor | None = None,
               names: Sequence[str] = ()) -> None:
    """Points (n, 2) coloured by `labels` (n,), indices of `names`; box (2, 2): low and high of a rectangle about them."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    axis = figure.subplots()
    for number, name in enumerate(names if labels is not None else ("",)):
        of_class = points if labels is None else points[labels == number]
        axis.scatter(*of_class.T.numpy(), s=4, color=f"C{number}", label=name, linewidths=0)
    (left, bottom), (right, top) = box.tolist()
    axis.plot([left, right, right, left, left], [bottom, bottom, top, top, bottom], color=str(INK / 255), linewidth=1)
    axis.set(xlabel="latent 1", ylabel="latent 2")
    if labels is not None:
        figure.legend(loc="outside right upper", markerscale=3)
    _write_figure(path, figure)


def _enlarge(images: Tensor, columns: int) -> Tensor:
    """uint8 (n, c, h, w) -> (n, 3, f*h, f*w) with f = `_factor`."""
    assert images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] in (1, 3), (images.dtype, images.shape)
    factor = _factor(columns, images.shape[-1])
    images = images.cpu().expand(-1, 3, -1, -1)
    return repeat(images, "n c h w -> n c (h f1) (w f2)", f1=factor, f2=factor)


def _factor(columns: int, width: int) -> int:
    """The smallest with which a row of `columns` images, each `width` wide, has LEAST_WIDTH."""
    return math.ceil(LEAST_WIDTH / (columns * width))


def _tile(images: Tensor, columns: int) -> Tensor:
    """Images (n, 3, h, w) on white paper (3, H, W), a gap around each."""
    number, _, height, width = images.shape
    rows = -(-number // columns)
    canvas = torch.full((3, rows * (height + GAP) + GAP, columns * (width + GAP) + GAP), PAPER, dtype=torch.uint8)
    for place, image in enumerate(images):
        top, left = GAP + place // columns * (height + GAP), GAP + place % columns * (width + GAP)
        canvas[:, top : top + height, left : left + width] = image
    return canvas


def _write_figure(path: Path, figure: Figure) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(Path(path), buffer.getvalue())
