"""What not every system has (Linux, macOS, Windows), each with another way beside it.

tests/test_platforms.py holds that no other file calls such a function unguarded.
"""

import errno
import os
from typing import BinaryIO

CHUNK = 1 << 24  # bytes of zeros written at a time
UNABLE = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}  # of a file system that reserves nothing


def usable_cores() -> int:
    """The processor cores that this process may use; where the system does not say, all of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int | None:
    """The machine's memory; None where the system does not say."""
    if hasattr(os, "sysconf"):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (ValueError, OSError):  # a name that this system does not know
            return None
    return None


def reserve(file: BinaryIO, size: int) -> None:
    """Gives a new, empty file `size` bytes of zeros on the disk. Raises OSError now if the disk is too full for them.

    Where the system cannot reserve them, they are written."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
            return
        except OSError as error:
            if error.errno not in UNABLE:
                raise
    zeros = bytes(min(size, CHUNK))
    for start in range(0, size, CHUNK):
        file.write(zeros[: size - start])
    file.flush()
