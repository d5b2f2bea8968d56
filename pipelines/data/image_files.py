"""Image files to uint8 arrays: a few in memory, or thousands with several processes into one file of raw pixels.

Axes: n images, c channels (1 grey, 3 RGB), h w pixels.
"""

import hashlib
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from pipelines.data.folders import shown, walk, warn_left_out, warn_unreadable
from pipelines.data.members import Member, Source, nameless, readable
from pipelines.data.workers import worker_pool
from pipelines.files.errors import InputError, naming
from pipelines.files.outputs import overviews
from pipelines.files.platforms import reserve
from pipelines.splits.describe import counted

Shape = tuple[int, int | None, int | None]  # (c, h, w); None, None: the image's own height and width
Range = tuple[float, float]  # the pixel values that become 0 and 255

# Pillow knows these by their first bytes and cannot decode them by itself; PostScript is a program besides.
UNDECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
MAX_PIXELS = 100_000_000  # per image: 300 MB decoded; a file of a few kB can claim a thousand times as many
CHUNK = 64  # images that a process takes at a time
DEEP_COLOUR = re.compile(r"(RGB|RGBX|RGBA|LA|CMYK);16")  # Pillow's name for pixels of which it reads the upper 8 bits


@dataclass
class Found:
    """What was found out about images, by their position among those that were read."""

    unreadable: dict[int, str] = field(default_factory=dict)  # the reasons
    deep: dict[int, Range] = field(default_factory=dict)  # of images with more than 8 bits: least and largest value
    digests: dict[int, str] = field(default_factory=dict)  # SHA-256 of the file; "" if it cannot be opened

    def add(self, start: int, other: "Found") -> None:
        """What was found out about the images from the position `start`."""
        for mine, theirs in ((self.unreadable, other.unreadable), (self.deep, other.deep),
                             (self.digests, other.digests)):
            mine.update({start + place: value for place, value in theirs.items()})


@cache
def image_formats() -> dict[str, str]:
    """{".png": "PNG", ...}: the suffixes of all formats that Pillow decodes, HEIF if the extra `heic` is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        pass
    else:
        register_heif_opener()
    suffixes = Image.registered_extensions()  # imports Pillow's formats, which know what they read
    decoded = (Image.OPEN.keys() | {"MPO"}) - UNDECODED  # MPO, several JPEGs in a file, is opened as JPEG
    return {suffix: name for suffix, name in suffixes.items() if name in decoded}


def suffix_hints() -> dict[str, str]:
    """What to say of suffixes that are left out."""
    return {suffix: "read with the extra heic: pip install pillow-heif" for suffix in HEIF_SUFFIXES
            if suffix not in image_formats()}


def find_images(path: Path) -> list[Path]:
    """The file itself, or all image files below a folder, sorted. Raises InputError if there are none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: expected an image or a folder of images, found nothing")
    (part,) = walk([path], image_formats().keys(), suffix_hints())
    warn_left_out(path, part.details)
    if part.files and part.left_out:
        print(f"note: {path}: left out: {counted(part.left_out)}", file=sys.stderr)
    images = [path / image.path for image in part.files]
    beside = {folder: overviews(folder) for folder in {image.parent for image in images}}
    if found := [image for image in images if image.name in beside[image.parent]]:
        print(f"note: {path}: left out: overviews of earlier calls, {', '.join(image.name for image in found)}",
              file=sys.stderr)
    if len(images) == len(found):
        raise InputError(f"{path}: expected images ({shown(image_formats())}), found none"
                         + (f"; left out: {counted(part.left_out)}" if part.left_out else ""))
    return [image for image in images if image not in found]


def load_images(paths: list[Path], shape: tuple[int, int, int], values: Range | None = None
                ) -> tuple[list[Path], Tensor]:
    """The readable files and their pixels, uint8 (n, *shape), shape = (c, h, w); warns about the others.

    values: see `read_image`. Raises InputError if no file can be read."""
    pixels, found = _read_all(paths, shape, values)
    reasons = {str(paths[place]): reason for place, reason in found.unreadable.items()}
    _refuse_if_all(paths, reasons)
    warn_unreadable("images", len(paths), reasons)
    readable = [place for place in range(len(paths)) if place not in found.unreadable]
    return [paths[place] for place in readable], torch.from_numpy(pixels[readable])


def load_whole_images(paths: list[Path], channels: int, values: Range | None = None
                      ) -> Iterator[tuple[Path, Tensor]]:
    """The readable files, one after the other, and their pixels, uint8 (c, h, w), each of its own size; warns about the
    others. Raises InputError if no file can be read."""
    reasons: dict[str, str] = {}
    for path in paths:
        pixels, reason = _read_one(path, (channels, None, None), values)[::2]
        if reason:
            reasons[str(path)] = reason
        else:
            yield path, torch.from_numpy(pixels.copy())
    _refuse_if_all(paths, reasons)
    warn_unreadable("images", len(paths), reasons)


def _refuse_if_all(paths: list[Path], reasons: dict[str, str]) -> None:
    if len(reasons) == len(paths):
        raise InputError(f"{paths[0]}: expected an image, found {reasons[str(paths[0])]}; none of {len(paths)} can be "
                         "read")


def read_image(path: Source | str, shape: Shape, values: Range | None = None) -> np.ndarray:
    """The centre of an image as uint8 (c, h, w), cropped to the aspect ratio of (h, w) and resized; of h and w None all
    of it, at its own size.

    Rotated according to EXIF data; transparency is composited on white; of an animation the first frame is used.
    Downsampling is antialiased; an image of h x w pixels keeps its pixels. Of pixels with more than 8 bits, `values`
    (low, high) become 0 and 255, those between and beyond them accordingly; without `values` 16 bits are reduced to
    their upper 8, and those of 32 bits are refused. Raises Pillow's exceptions, and ValueError for more than
    `MAX_PIXELS` and for pixels without a defined range.
    """
    with open_image(path) as image:
        return fit_image(image, shape, values)


def open_image(path: Source | str | BinaryIO) -> Image.Image:
    """The file's header, whatever its suffix. Raises Pillow's exceptions."""
    return Image.open(readable(path), formats=sorted({*image_formats().values()} - {"MPO"}))


def fit_image(image: Image.Image, shape: Shape, values: Range | None = None) -> np.ndarray:
    """Like `read_image`, for an opened Pillow image."""
    return _fit(image, shape, values)[0]


def _fit(image: Image.Image, shape: Shape, values: Range | None) -> tuple[np.ndarray, Range | None]:
    """`fit_image`, and the least and largest pixel value of an image with more than 8 bits."""
    channels, height, width = shape
    mode = {1: "L", 3: "RGB"}[channels]
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width}x{image.height} are more than {MAX_PIXELS} pixels")
    if height is not None and width is not None:
        turned = 2 * max(height, width)  # EXIF may exchange the axes
        image.draft(mode, (turned, turned))  # decodes only the low frequencies of a large JPEG
    extremes = None
    if values is not None and DEEP_COLOUR.match(_stored_as(image)):
        image, extremes = _deep_colour(image, values)
    grey_values = _grey_values(image, values) if _is_deep_grey(image) else None
    image = ImageOps.exif_transpose(image)
    if _is_deep_grey(image):
        pixels = np.asarray(image)
        if not np.isfinite(pixels).all():
            raise ValueError("NaN or infinity among its pixels")
        extremes = pixels.min().item(), pixels.max().item()
        image = Image.fromarray(_eight_bits(pixels, grey_values))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert(mode)
    if height is not None and width is not None:
        image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(image.height, image.width, channels).transpose(2, 0, 1), extremes


def _stored_as(image: Image.Image) -> str:
    """How a file that is not loaded yet stores its pixels, in Pillow's words: "I;12", "RGB;16B"; "" if unknown."""
    tiles = getattr(image, "tile", None)
    described = tiles[0][3] if tiles else ""
    return str(described[0] if isinstance(described, tuple) and described else described)


def _is_deep_grey(image: Image.Image) -> bool:
    """Whether its pixels are one number of more than 8 bits each: I;16 and its like, I and F, both of 32 bits."""
    return image.mode.startswith("I") or image.mode == "F"


def _grey_values(image: Image.Image, values: Range | None) -> Range | None:
    """The values of a deep grey image, not loaded yet, that become 0 and 255; None: 0 and 65535, by the upper byte."""
    if image.format == "PPM" and image.mode == "I":  # Pillow scales them to 16 bits by the maximum in the header
        return None
    if values is not None:
        return values
    if _stored_as(image) == "I;12":
        return 0, 4095
    if not image.mode.startswith("I;16"):
        raise ValueError(f"pixels of type {image.mode} (32 bits) have no defined range: data.range=[LOW,HIGH] or auto "
                         "gives one")
    return None


def _eight_bits(pixels: np.ndarray, values: Range | None) -> np.ndarray:
    if values is None:
        return (pixels >> 8).astype(np.uint8)
    low, high = values
    scaled = (pixels.astype(np.float64) - low) * (255 / (high - low))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def _deep_colour(image: Image.Image, values: Range) -> tuple[Image.Image, Range]:
    """A PNG of 16 bits per channel, of which Pillow reads the upper 8, by `values`; and its least and largest value."""
    if image.format != "PNG":
        raise ValueError(f"16 bits per colour channel, for which data.range works with PNG only, not {image.format}")
    from torchvision.io import ImageReadMode, decode_png

    file = cast(ImageFile.ImageFile, image).fp
    file.seek(0)
    content = np.frombuffer(file.read(), np.uint8).copy()
    pixels = decode_png(torch.from_numpy(content), ImageReadMode.UNCHANGED).numpy()
    colours = pixels[: len(pixels) - (len(pixels) in (2, 4))]  # alpha is a share of all 16 bits
    reduced = np.concatenate([_eight_bits(colours, values), _eight_bits(pixels[len(colours) :], None)])
    made = Image.fromarray(reduced.transpose(1, 2, 0))
    made.info["exif"] = image.getexif().tobytes()
    return made, (colours.min().item(), colours.max().item())


def measure_values(paths: Sequence[Source], workers: int) -> dict[int, Range]:
    """The least and largest pixel value of each image with more than 8 bits per channel, by its position."""
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    with worker_pool(min(workers, len(chunks))) as pool:
        measured = list(pool.map(_measure_chunk, chunks))
    return {number * CHUNK + place: values for number, own in enumerate(measured) for place, values in own.items()}


def _measure_chunk(paths: Sequence[Source]) -> dict[int, Range]:
    measured: dict[int, Range] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for place, path in enumerate(paths):
            try:
                with open_image(path) as image:
                    if _is_deep_grey(image) or DEEP_COLOUR.match(_stored_as(image)):
                        extremes = _fit(image, (1, 1, 1), (0, 1))[1]
                        measured |= {} if extremes is None else {place: extremes}
            except Exception:  # as in _read_all: the image is reported when it is decoded
                continue
    return measured


def decode_images(
    paths: Sequence[Source], target: Path, shape: tuple[int, int, int], values: Range | None, workers: int,
    done: Callable[[int], object], kept: int | None = None
) -> Found:
    """Writes `read_image` of each path, or of the first `kept` ones, to `target`, raw and in order: uint8 (n, *shape).

    Unreadable images stay zero. Calls `done(count)` as images are finished. Raises OSError if the disk is too full for
    the file, and `concurrent.futures.process.BrokenProcessPool` if a process was killed.
    """
    with open(target, "wb") as file, naming(target):  # a full disk fails now, not after an hour of decoding
        kept = len(paths) if kept is None else kept
        reserve(file, kept * math.prod(shape))
    tasks = [(target, start, paths[start : start + CHUNK], shape, values, kept)
             for start in range(0, len(paths), CHUNK)]
    found = Found()
    with worker_pool(min(workers, len(tasks))) as pool:
        for (_, start, chunk, *_), own in zip(tasks, pool.map(_decode_chunk, tasks), strict=True):
            found.add(start, own)
            done(len(chunk))
    return found


def _decode_chunk(task: tuple[Path, int, Sequence[Source], tuple[int, int, int], Range | None, int]) -> Found:
    """Decodes images and writes the first `kept` of all to their position in the file; runs in a process of the
    pool."""
    target, start, paths, shape, values, kept = task
    pixels, found = _read_all(paths, shape, values)
    if start < kept:
        with open(target, "r+b") as file:
            file.seek(start * pixels[0].nbytes)
            file.write(pixels[: kept - start].tobytes())
    found.digests = {place: _digest(path) for place, path in enumerate(paths)}
    return found


def _digest(path: Source) -> str:
    """SHA-256 of a file; "" if it cannot be opened."""
    try:
        if isinstance(path, Member):
            return hashlib.sha256(path.read()).hexdigest()
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return ""


def _read_all(paths: Sequence[Source], shape: tuple[int, int, int], values: Range | None) -> tuple[np.ndarray, Found]:
    """Pixels (n, *shape), zero for unreadable images, and what was found out about them."""
    pixels, found = np.zeros((len(paths), *shape), np.uint8), Found()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about odd metadata in each of thousands of files
        for place, path in enumerate(paths):
            own, extremes, reason = _read_one(path, shape, values)
            if reason:
                found.unreadable[place] = reason
                continue
            pixels[place] = own
            if extremes is not None:
                found.deep[place] = extremes
    return pixels, found


def _read_one(path: Source, shape: Shape, values: Range | None) -> tuple[np.ndarray, Range | None, str]:
    """Pixels, the least and largest value of an image with more than 8 bits, and "" or why it cannot be read."""
    try:
        with open_image(path) as image:
            return *_fit(image, shape, values), ""
    except Exception as error:  # any error of a decoder means that this image is unreadable; it is reported
        reason = nameless(str(error)).removesuffix(f" {str(path)!r}")  # the path is named anyway
        suffix = Path(str(path)).suffix.lower()
        hint = f" ({suffix_hints()[suffix]})" if suffix in suffix_hints() else ""
        return np.empty(0, np.uint8), None, (" ".join(reason.split()) or type(error).__name__) + hint
