"""Tensors to PNG and GIF files: grids of images, originals above reconstructions, strips of frames.

Inputs are uint8 (c, h, w) with c = 1 or 3, outputs (3, h, w); small images are enlarged by whole factors without
smoothing. Files appear complete or not at all.
"""

import io
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipelines.files.atomic import write_atomically

FRAME_MS = 200  # duration of a GIF's frame
LEAST_WIDTH = 600  # pixels of a grid: fits a page and makes 8x8 digits visible
GAP, SEPARATOR = 4, 1  # pixels between images, and between an original and its reconstruction
MARGIN, TEXT = 112, 14  # pixels to the left of a comparison for its captions, and their font size
PAPER, LINE, INK = 255, 176, 64  # grey levels around images


def write_image(path: Path, image: Tensor) -> None:
    """Writes uint8 (c, h, w), c = 1 or 3, as PNG, pixel for pixel."""
    write_atomically(Path(path), image_bytes(image))


def image_bytes(image: Tensor) -> bytes:
    """uint8 (c, h, w), c = 1 or 3 -> a PNG file, pixel for pixel."""
    buffer = io.BytesIO()
    _pillow(image).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def clip_bytes(clip: Tensor) -> bytes:
    """uint8 (c, t, h, w), c = 1 or 3 -> a looping WebP file, pixel for pixel."""
    first, *others = (_pillow(frame) for frame in clip.unbind(1))
    buffer = io.BytesIO()
    first.save(buffer, format="WEBP", save_all=True, append_images=others, duration=FRAME_MS, loop=0, lossless=True)
    return buffer.getvalue()


def reduced(images: Tensor, most: int) -> Tensor:
    """uint8 (n, c, h, w), larger ones scaled down so that the longer side has `most` pixels, each the mean of those
    that it stands for."""
    height, width = images.shape[-2:]
    if max(height, width) <= most:
        return images
    size = [max(1, round(side * most / max(height, width))) for side in (height, width)]
    return F.interpolate(images.float(), size=size, mode="area").round().to(torch.uint8)


def on_square(images: Tensor, side: int) -> Tensor:
    """uint8 (n, c, h, w) -> (n, c, side, side): reduced as need be, in the middle of white."""
    images = reduced(images, side)
    left, top = ((side - size) // 2 for size in (images.shape[3], images.shape[2]))
    right, bottom = side - images.shape[3] - left, side - images.shape[2] - top
    return F.pad(images, (left, right, top, bottom), value=PAPER)


def image_grid(images: Tensor, columns: int | None = None) -> Tensor:
    """Images uint8 (n, c, h, w) in reading order, in rows of `columns` (default: as square as possible)."""
    number, _, height, width = images.shape
    columns = min(columns or math.ceil(math.sqrt(number * height / width)), number)
    return _tile(_enlarge(images, columns), columns)


def image_pairs(originals: Tensor, reconstructions: Tensor, columns: int = 8,
               captions: tuple[str, str] = ("original", "reconstruction")) -> Tensor:
    """Each original above its reconstruction, both uint8 (n, c, h, w), with a line between; captions on the left."""
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


def image_rows(images: dict[str, Tensor]) -> Tensor:
    """One row of images uint8 (n, c, h, w) per name, equally many in each, with the name on the left."""
    canvas = image_grid(torch.cat(list(images.values())), len(next(iter(images.values()))))
    font, height = ImageFont.load_default(TEXT), (canvas.shape[1] - GAP) // len(images)
    captions = Image.new("L", (2 * GAP + math.ceil(max(map(font.getlength, images))), canvas.shape[1]), PAPER)
    for place, name in enumerate(images):
        middle = GAP + place * height + (height - GAP) / 2
        ImageDraw.Draw(captions).text((captions.width - GAP, middle), name, INK, font, anchor="rm")
    return torch.cat([repeat(torch.from_numpy(np.array(captions)), "h w -> c h w", c=3), canvas], dim=2)


def clip_frames(clips: Tensor) -> Tensor:
    """Clips (n, c, t, h, w) -> their frames (n * t, c, h, w), one clip after another."""
    return rearrange(clips, "n c t h w -> (n t) c h w")


def frame_strip(clips: dict[str, Tensor], context: int) -> Tensor:
    """One row of frames per clip uint8 (c, t, h, w), with its name on the left and a line after the first `context`."""
    canvas = image_rows({name: clip_frames(clip[None]) for name, clip in clips.items()})
    _, number, _, width = next(iter(clips.values())).shape
    if 0 < context < number:
        line = canvas.shape[2] - GAP - (number - context) * (width * _factor(number, width) + GAP)
        canvas[:, :, line : line + GAP] = INK
    return canvas


def write_gif(path: Path, clips: dict[str, Tensor], context: int) -> None:
    """Clips uint8 (c, t, h, w) side by side as a looping GIF, each below its name.

    During the first `context` frames the title is "context" instead, except for the first clip."""
    number, font, images = next(iter(clips.values())).shape[1], ImageFont.load_default(TEXT), []
    for t in range(number):
        panels = image_grid(torch.stack([clip[:, t] for clip in clips.values()]), len(clips))
        head = Image.new("RGB", (panels.shape[2], 2 * TEXT), (PAPER,) * 3)
        for place, name in enumerate(clips):
            middle = GAP / 2 + (place + 0.5) * (panels.shape[2] - GAP) / len(clips)
            said = "context" if place and t < context else name
            ImageDraw.Draw(head).text((middle, TEXT), said, (INK,) * 3, font, anchor="mm")
        image = np.concatenate([np.array(head), rearrange(panels, "c h w -> h w c").numpy()])
        images.append(Image.fromarray(image).quantize(256, dither=Image.Dither.NONE))
    buffer = io.BytesIO()
    images[0].save(buffer, format="GIF", save_all=True, append_images=images[1:], duration=FRAME_MS, loop=0)
    write_atomically(Path(path), buffer.getvalue())


def _pillow(image: Tensor) -> Image.Image:
    """uint8 (c, h, w), c = 1 or 3."""
    assert image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] in (1, 3), (image.dtype, image.shape)
    pixels = rearrange(image.cpu(), "c h w -> h w c").numpy()
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _enlarge(images: Tensor, columns: int) -> Tensor:
    """uint8 (n, c, h, w) -> (n, 3, f*h, f*w) with f = `_factor`."""
    assert images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] in (1, 3), (images.dtype, images.shape)
    factor = _factor(columns, images.shape[-1])
    images = images.cpu().expand(-1, 3, -1, -1)
    return repeat(images, "n c h w -> n c (h f1) (w f2)", f1=factor, f2=factor)


def _factor(columns: int, width: int) -> int:
    """The smallest factor with which a row of `columns` images of `width` pixels reaches LEAST_WIDTH."""
    return math.ceil(LEAST_WIDTH / (columns * width))


def _tile(images: Tensor, columns: int) -> Tensor:
    """Images (n, 3, h, w) on a white canvas (3, H, W), with a gap around each."""
    number, _, height, width = images.shape
    rows = -(-number // columns)
    canvas = torch.full((3, rows * (height + GAP) + GAP, columns * (width + GAP) + GAP), PAPER, dtype=torch.uint8)
    for place, image in enumerate(images):
        top, left = GAP + place // columns * (height + GAP), GAP + place % columns * (width + GAP)
        canvas[:, top : top + height, left : left + width] = image
    return canvas
