"""Atomic writes: a reader, or a crash, sees the old file or the new one, never a part."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipelines.files.errors import naming
from pipelines.files.locks import only_writer


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Replaces a file's content so that a reader, or a crash, sees the old or the new one, never a part.

    A kill leaves a temporary file, which the next writer of the folder removes (`files/locks.py`)."""
    with file_made_whole(path) as file:
        file.write(content)


@contextmanager
def file_made_whole(path: Path) -> Iterator[BinaryIO]:
    """Yields a file to write to; at the end it replaces `path`. After an error `path` is as it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path), open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def folder_made_whole(target: Path, command: str) -> Iterator[Path]:
    """Yields a folder to fill; at the end it becomes `target`, which does not exist yet. After an error it is removed.

    Raises InputError where another process makes a folder beside it, and OSError where `target` has come to exist."""
    with only_writer(target.parent, command):
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed process
        temporary.mkdir()
        try:
            yield temporary
            os.rename(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """After this, files that were created or renamed in the folder survive a power failure.

    Windows opens no folders; its file system keeps a journal of their names."""
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with naming(folder):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
