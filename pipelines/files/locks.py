"""Locks of folders: one process writes, a second one waits or is refused.

A lock is the operating system's, held on a file in the folder: it ends with its process, however that ends.
Over a network file system it holds between machines. Where a file system has no locks, one line says so.
"""

import errno
import json
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from filelock import lock_descriptor

from pipelines.files.errors import InputError, naming

LOCK = ".ndr.lock"  # of a folder that a user may have named; it goes at the end
CACHE_LOCK = ".lock"  # of a folder that is all ours; it stays
LEFTOVER = re.compile(r"\..+\.[0-9]+\.tmp")  # what `write_atomically` writes first
NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK}
NOTE_S = 0.5  # within this time the holder of a lock has written who it is


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Creates the folder and lets one process at a time go on; yields the descriptor that holds the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / CACHE_LOCK, "a+b") as lock:
        if _lock(lock, folder, wait=True):
            remove_leftovers(folder)
        yield lock.fileno()


@contextmanager
def only_writer(folder: Path, command: str, *inner: Path) -> Iterator[None]:
    """This process alone writes into the folder, and into `inner` folders of it, until the end.

    Temporary files that killed processes left in them are removed first. At the end the lock's file goes, and the
    folder too if it was made here and is empty. Raises InputError that names the command which writes there now."""
    made, lock, held = _open_locked(folder)
    try:
        if held is False:
            raise InputError(f"{folder}: expected no other process that writes there, found {_holder(folder)}; wait "
                             "until it has ended, or write to another folder (run=NAME, --out)")
        note = {"command": command, "process": os.getpid(), "host": platform.node(), "since": _now()}
        with naming(folder / LOCK):
            lock.truncate(0)
            lock.write(b" " + json.dumps(note).encode())  # on Windows nobody else can read the first byte
            lock.flush()
        if held:
            for own in (folder, *inner):
                remove_leftovers(own)
        yield
    finally:
        _give_back(folder, lock, made, held)


def remove_leftovers(folder: Path) -> None:
    """Removes temporary files of `write_atomically`. Call it under the folder's lock: then nobody is writing them,
    whatever the process number in their names, which on a shared disk may be one of another machine."""
    with suppress(FileNotFoundError, NotADirectoryError):
        with os.scandir(folder) as entries:
            found = list(entries)
        for entry in found:
            if LEFTOVER.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                os.unlink(entry.path)


def _open_locked(folder: Path) -> tuple[list[Path], IO[bytes], bool | None]:
    """The folders that had to be made, the innermost first; the lock's file; whether it is locked, as `_lock` says."""
    while True:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = open(folder / LOCK, "a+b")
        except FileNotFoundError:
            continue  # the last holder has just removed the folder that it had made
        held = _lock(lock, folder, wait=False)
        try:
            if not held or os.path.samestat(os.fstat(lock.fileno()), os.stat(folder / LOCK)):
                return made, lock, held
        except FileNotFoundError:
            pass
        lock.close()  # the last holder has just removed it: a lock on it keeps nobody out


def _lock(lock: IO[bytes], folder: Path, wait: bool) -> bool | None:
    """Whether the lock is held now; None where the file system has none."""
    try:
        return lock_descriptor(lock.fileno(), blocking=wait)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        print(f"note: {folder}: its file system has no locks: do not start two commands that write there",
              file=sys.stderr)
        return None


def _give_back(folder: Path, lock: IO[bytes], made: list[Path], held: bool | None) -> None:
    with lock:
        if held is False:
            return
        with suppress(OSError):  # on Windows it has to be closed first
            os.unlink(folder / LOCK)
    if os.name == "nt":
        with suppress(OSError):
            os.unlink(folder / LOCK)
    with suppress(OSError):  # not empty
        for path in made:
            path.rmdir()


def _holder(folder: Path) -> str:
    """Who holds a folder's lock, in words, as its file says."""
    end = time.monotonic() + NOTE_S
    while time.monotonic() < end:
        try:
            with open(folder / LOCK, "rb", buffering=0) as file:
                file.seek(1)
                note = json.loads(file.read(1000))
            return f"{note['command']} (process {note['process']} on {note['host']}, since {note['since']})"
        except (OSError, ValueError, TypeError, KeyError):
            time.sleep(0.02)
    return "another process"


def _now() -> str:
    return datetime.now().isoformat(" ", "seconds")
