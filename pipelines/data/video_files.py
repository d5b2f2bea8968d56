"""Video files to uint8 frames, one at a time: MP4, MOV, WebM and others with PyAV (the extra `video`), GIF with Pillow.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from PIL import Image, ImageSequence

from pipelines.data.containers import opened, promised_seconds
from pipelines.data.image_files import MAX_PIXELS

SUFFIXES = {".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}
VERSION = 1  # of the decoding: part of the name of caches
MAX_FRAMES = 2**20  # of one file: 9.7 hours at 30 frames per second
TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


def read_video(path: Path, frame_rate_hz: float | None = None) -> Iterator[Image.Image]:
    """The frames of a file as Pillow images, turned as its metadata say; only one frame is held in memory.

    frame_rate_hz: frames per second that are wanted: frame k is the one shown at k / frame_rate_hz seconds after the
    first, so that frames repeat or are left out; None: every frame of the file, once.
    Raises PyAV's and Pillow's exceptions, and ValueError for a file that is truncated, too large or without frames, and
    without PyAV for all but GIF."""
    timed = _gif_frames(path) if path.suffix.lower() == ".gif" else _container_frames(path)
    images = (image for _, _, image in timed) if frame_rate_hz is None else _at_rate(timed, frame_rate_hz)
    count = 0
    for count, image in enumerate(images, start=1):
        if count > MAX_FRAMES:
            raise ValueError(f"it has more than {MAX_FRAMES} frames")
        yield image
    if not count:
        raise ValueError("it contains no frames")


def _at_rate(timed: Iterator[tuple[float, float, Image.Image]], rate: float) -> Iterator[Image.Image]:
    """Frames with the times at which they appear and disappear -> those shown at 0, 1 / rate, 2 / rate, ... seconds."""
    step, number, start, end, shown = 1 / Fraction(rate).limit_denominator(1001), 0, None, 0.0, None
    for begin, until, image in timed:
        start = begin if start is None else start
        while shown is not None and number * step < begin - start - 1e-6:
            yield shown
            number += 1
        shown, end = image, until - start
    while shown is not None and number * step < end - 1e-6:
        yield shown
        number += 1


def _gif_frames(path: Path) -> Iterator[tuple[float, float, Image.Image]]:
    """(begin, end, image) of each frame of a GIF, in seconds; a frame without a duration is shown for 100 ms."""
    with Image.open(path) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} are more than {MAX_PIXELS} pixels")
        now = 0.0
        for frame in ImageSequence.Iterator(image):
            until = now + (frame.info.get("duration") or 100) / 1000
            yield now, until, frame.convert("RGB")
            now = until


def _container_frames(path: Path) -> Iterator[tuple[float, float, Image.Image]]:
    """(begin, end, image) of each frame, in seconds.

    The last frame ends where the file says that the stream ends. A file whose frames end a second or a tenth before its
    header's duration is truncated."""
    with opened(path, "video") as (container, stream):
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width}x{height} are more than {MAX_PIXELS} pixels")
        usual = float(1 / stream.average_rate) if stream.average_rate else 1 / 25
        begin, first, before = None, None, None
        for frame in container.decode(stream):
            now = frame.time if frame.time is not None else (0.0 if begin is None else begin + usual)
            if before is not None:
                yield begin, now, before
            image, turn = frame.to_image(), round(frame.rotation) % 360
            before, begin = (image.transpose(TURNS[turn]) if turn in TURNS else image), now
            first = now if first is None else first
        if before is None:
            return
        promised = promised_seconds(container, stream)
        if promised is not None and begin + usual - first < promised - max(1.0, promised / 10):
            raise ValueError(f"it ends after {begin + usual - first:.1f} of {promised:.1f} seconds")
        yield begin, begin + usual, before
