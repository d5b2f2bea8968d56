"""Image files to uint8 arrays: a few in memory, or thousands with several processes into one file of raw pixels.

Axes: n images, c channels (1 grey, 3 RGB), h w pixels.
"""

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pipelines.data.folders import list_files, warn_unreadable
from pipelines.data.workers import worker_pool
from pipelines.files.errors import InputError, naming
from pipelines.files.platforms import reserve

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
MAX_PIXELS = 100_000_000  # per image: 300 MB decoded; a file of a few kB can claim a thousand times as many
CHUNK = 64  # images that a process takes at a time


def find_images(path: Path) -> list[Path]:
    """The file itself, or all image files below a folder, sorted. Raises InputError if there are none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: expected an image or a folder of images, found nothing")
    found = [path / image.path for image in list_files(path, SUFFIXES)]
    if not found:
        raise InputError(f"{path}: expected images ({', '.join(sorted(SUFFIXES))}), found none")
    return found


def load_images(paths: list[Path], shape: tuple[int, int, int]) -> tuple[list[Path], Tensor]:
    """The readable files and their pixels, uint8 (n, *shape), shape = (c, h, w); warns about the others.

    Raises InputError if no file can be read."""
    pixels, unreadable = _read_all(paths, shape)
    if len(unreadable) == len(paths):
        raise InputError(f"{paths[0]}: expected an image, found {unreadable[0]}; none of {len(paths)} can be read")
    warn_unreadable("images", len(paths), {str(paths[place]): reason for place, reason in unreadable.items()})
    readable = [place for place in range(len(paths)) if place not in unreadable]
    return [paths[place] for place in readable], torch.from_numpy(pixels[readable])


def read_image(path: Path | str, shape: tuple[int, int, int]) -> np.ndarray:
    """The centre of an image as uint8 (c, h, w), cropped to the aspect ratio of (h, w) and resized.

    Rotated according to EXIF data; transparency is composited on white; 16 bits are reduced to 8; of an animation the
    first frame is used. Downsampling is antialiased; an image of h x w pixels keeps its pixels. Raises Pillow's
    exceptions, and ValueError for more than `MAX_PIXELS` and for pixels without a defined range.
    """
    with Image.open(path) as image:
        return fit_image(image, shape)


def fit_image(image: Image.Image, shape: tuple[int, int, int]) -> np.ndarray:
    """Like `read_image`, for an opened Pillow image."""
    channels, height, width = shape
    mode = {1: "L", 3: "RGB"}[channels]
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width}x{image.height} are more than {MAX_PIXELS} pixels")
    turned = 2 * max(height, width)  # EXIF may exchange the axes
    image.draft(mode, (turned, turned))  # decodes only the low frequencies of a large JPEG
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of type {image.mode} (32 bits) have no defined range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = ImageOps.fit(image.convert(mode), (width, height), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)


def decode_images(
    paths: list[Path], target: Path, shape: tuple[int, int, int], workers: int, done: Callable[[int], object]
) -> dict[int, str]:
    """Writes `read_image` of each path to `target`, raw and in order: uint8 (n, *shape).

    Unreadable images stay zero; returns the reason for each of them, by its position in `paths`. Calls `done(count)` as
    images are finished. Raises OSError if the disk is too full for the file, and
    `concurrent.futures.process.BrokenProcessPool` if a process was killed.
    """
    with open(target, "wb") as file, naming(target):  # a full disk fails now, not after an hour of decoding
        reserve(file, len(paths) * math.prod(shape))
    tasks = [(target, start, paths[start : start + CHUNK], shape) for start in range(0, len(paths), CHUNK)]
    unreadable: dict[int, str] = {}
    with worker_pool(min(workers, len(tasks))) as pool:
        for (_, start, chunk, _), reasons in zip(tasks, pool.map(_decode_chunk, tasks), strict=True):
            unreadable |= {start + place: reason for place, reason in reasons.items()}
            done(len(chunk))
    return unreadable


def _decode_chunk(task: tuple[Path, int, list[Path], tuple[int, int, int]]) -> dict[int, str]:
    """Decodes images and writes them to their position in the file; runs in a process of the pool."""
    target, start, paths, shape = task
    pixels, unreadable = _read_all(paths, shape)
    with open(target, "r+b") as file:
        file.seek(start * pixels[0].nbytes)
        file.write(pixels.tobytes())
    return unreadable


def _read_all(paths: list[Path], shape: tuple[int, int, int]) -> tuple[np.ndarray, dict[int, str]]:
    """Pixels (n, *shape), zero for unreadable images, and the reasons by position."""
    pixels, unreadable = np.zeros((len(paths), *shape), np.uint8), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about odd metadata in each of thousands of files
        for place, path in enumerate(paths):
            try:
                pixels[place] = read_image(path, shape)
            except Exception as error:  # any error of a decoder means that this image is unreadable; it is reported
                reason = str(error).removesuffix(f" {str(path)!r}")  # the path is named anyway
                unreadable[place] = " ".join(reason.split()) or type(error).__name__
    return pixels, unreadable
