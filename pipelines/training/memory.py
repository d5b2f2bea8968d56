"""Keeps memory that PyTorch frees on the CPU for its next tensor.

glibc returns freed blocks above 32 MiB to the system, which clears every page of the next block. With tensors of this
size that takes up to half the time of a training step (`benchmarks/works/freed_memory.py`).
"""

import ctypes
import sys

# from malloc.h
TRIM_THRESHOLD = -1  # free bytes at the end of the heap above which they are returned
MMAP_THRESHOLD = -3  # size above which a block has its own mapping, returned as soon as it is free
MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """From now on this process returns no freed memory before it ends: it keeps its peak memory and more.

    Returns False, and changes nothing, if the C library has no such setting (macOS, musl)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(MMAP_THRESHOLD, MOST) and mallopt(TRIM_THRESHOLD, MOST))
