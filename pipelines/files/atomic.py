"""Atomic writes: a reader, or a crash, sees the old file or the new one, never a part."""

import os
from pathlib import Path

from pipelines.files.errors import naming


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Replaces a file's content so that a reader, or a crash, sees the old or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path), open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """After this, files that were created or renamed in the folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
