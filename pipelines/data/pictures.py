"""Picture files to uint8 arrays: one file, or thousands at a time with several processes into one file of raw pixels.

Axes: n pictures, c channels, h w pixels; a stored picture is square.
"""

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
MAX_PIXELS = 100_000_000  # of one picture: 300 MB when decoded; a file of a few kB can claim a thousand times as many
CHUNK = 64  # pictures that a process takes at a time


def read_picture(path: Path | str, size: int, channels: int) -> np.ndarray:
    """The central square of a picture as uint8 (channels, size, size), grey (1) or RGB (3), as a viewer shows it.

    Turned as its EXIF data say; transparent parts are white; 16 bits are cut to 8; of an animation the first frame.
    Reduced with antialiasing; a picture that is size x size already keeps its pixels. Raises what Pillow raises, and
    ValueError for more than `MAX_PIXELS` and for pixels without a defined range.
    """
    mode = {1: "L", 3: "RGB"}[channels]
    with Image.open(path) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"{picture.width}x{picture.height} are more than {MAX_PIXELS} pixels")
        picture.draft(mode, (2 * size, 2 * size))  # of a large JPEG only the low frequencies are decoded
        picture = ImageOps.exif_transpose(picture)
        if picture.mode.startswith("I;16"):
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        elif picture.mode in ("I", "F"):
            raise ValueError(f"pixels of type {picture.mode} (32 bits) have no defined range")
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        picture = ImageOps.fit(picture.convert(mode), (size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture).reshape(size, size, channels).transpose(2, 0, 1)


def decode_pictures(
    paths: list[Path], target: Path, size: int, channels: int, workers: int, done: Callable[[int], object]
) -> dict[int, str]:
    """Writes `read_picture` of each path to `target`, raw and in order: uint8 (n, channels, size, size).

    Those that cannot be read are left zero; returned is the reason for each of them, by its place in `paths`.
    `done(count)` is called as pictures are finished. Raises OSError where the file has no room on the disk, and
    `concurrent.futures.process.BrokenProcessPool` where a process was killed.
    """
    picture_bytes = channels * size * size
    with open(target, "wb") as file:
        try:  # a file with holes would end in a bus error once the disk is full
            os.posix_fallocate(file.fileno(), 0, len(paths) * picture_bytes)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(target)) from error
    starts = range(0, len(paths), CHUNK)
    tasks = [(str(target), start, [str(path) for path in paths[start : start + CHUNK]], size, channels) for start in starts]
    unreadable = {}
    with ProcessPoolExecutor(min(workers, len(tasks))) as pool:
        for (_, _, names, _, _), reasons in zip(tasks, pool.map(_decode_chunk, tasks), strict=True):
            unreadable |= reasons
            done(len(names))
    with open(target, "rb") as file:
        os.fsync(file.fileno())
    return unreadable


def _decode_chunk(task: tuple[str, int, list[str], int, int]) -> dict[int, str]:
    """Decodes the pictures [start, start + len(paths)) and writes them to their place; runs in a process of the pool."""
    target, start, paths, size, channels = task
    pictures = np.zeros((len(paths), channels, size, size), np.uint8)
    unreadable = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata, once for each of thousands of files
        for place, path in enumerate(paths):
            try:
                pictures[place] = read_picture(path, size, channels)
            except Exception as error:  # whatever a decoder raises, it is this picture that is at fault: it is reported
                unreadable[start + place] = f"{error or type(error).__name__}"
    with open(target, "r+b") as file:
        file.seek(start * pictures[0].nbytes)
        file.write(pictures.tobytes())
    return unreadable
