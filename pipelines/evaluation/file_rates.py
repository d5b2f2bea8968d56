"""Sizes of images as lossless files, in bits per data dimension, to compare with a bound."""

import io
import math
from pathlib import Path

from einops import rearrange
from PIL import Image

from pipelines.data.folders import find_parts
from pipelines.data.image_files import image_formats
from pipelines.data.image_folder import ImageFolder
from pipelines.splits.base import Data


def webp(data: Data, split: str) -> float:
    """A lossless WebP file for each image of a split, grey ones as RGB.

    At 4 of the encoder's efforts up to 6: above that files of 32x32 photographs grow."""
    total, images = 0, data.split(split)
    for batch in images.evaluation_batches():
        for pixels in rearrange(batch.x.expand(-1, 3, -1, -1), "b c h w -> b h w c").contiguous().numpy():
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, format="WEBP", lossless=True, quality=100, method=4)
            total += buffer.tell()
    return 8 * total / (len(images) * math.prod(data.shape))


def own(data: Data, config: dict, split: str) -> float | None:
    """The size of the files that a split of `data` was read from, `data` made by `config`. None unless the pixels are
    exactly those of the files: for other data than a folder of images, a held-out split, images cropped or resized."""
    if not isinstance(data, ImageFolder):
        return None
    part = find_parts(Path(config["root"]), image_formats().keys(), "images").get(split)
    if part is None or len(part.files) != len(data.split(split)):
        return None
    for file in part.files:
        with Image.open(part.folder / file.path) as image:
            if image.size != data.shape[:0:-1]:
                return None
    return 8 * sum(file.bytes for file in part.files) / (len(part.files) * math.prod(data.shape))
