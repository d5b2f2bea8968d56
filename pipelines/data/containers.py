"""Opens containers of video and audio (MP4, WebM, Matroska, ...) with PyAV, which the extra `video` installs.

FFmpeg finds out by content what a file is, and some formats name other files or addresses. Only the formats listed here
are read, and nothing but the file itself is opened.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.data.members import Member, Source

MISSING = "it requires PyAV: pip install 'neural-discrete-representations[video]'"
FORMATS = ("aac", "ac3", "amr", "ape", "asf", "avi", "caf", "eac3", "flac", "flv", "m4v", "matroska,webm",
           "mov,mp4,m4a,3gp,3g2,mj2", "mp3", "mpeg", "mpegts", "ogg", "wav", "wv", "aiff", "au", "tta", "dts", "w64")
OPTIONS = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}


def version() -> str | None:
    """Of PyAV; None where it is missing. What is cached of a container depends on it."""
    try:
        import av
    except ImportError:
        return None
    return av.__version__


@contextmanager
def opened(path: Source | str, kind: str) -> Iterator[tuple[Any, Any]]:
    """The open container and its first stream of a kind, "audio" or "video", ready to decode.

    Raises ValueError without PyAV, for a file that is none of `FORMATS`, and for one without such a stream."""
    try:
        import av
    except ImportError:
        raise ValueError(MISSING) from None
    with io.BytesIO(path.read()) if isinstance(path, Member) else open(path, "rb") as file:
        try:
            container = av.open(file, metadata_errors="replace", container_options=OPTIONS)
        except (av.FFmpegError, ValueError) as error:
            raise ValueError(f"it cannot be opened ({getattr(error, 'strerror', None) or error})") from None
        with container:
            found = [stream for stream in container.streams if stream.type == kind]
            if not found:
                raise ValueError(f"it contains no {kind}")
            yield container, found[0]


def promised_seconds(container, stream) -> float | None:
    """The duration that a file's header gives for a stream; None where it gives none, or only a guess."""
    if container.format.name in ("aac", "ac3", "amr", "avi", "eac3", "mp3", "mpeg", "mpegts", "m4v"):
        return None
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else None
