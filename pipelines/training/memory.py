"""Memory that PyTorch frees on the CPU is kept for its next tensor.

glibc gives a block above 32 MiB back to the system when it is freed, and the system clears every page of the next one.
Where tensors are that large this takes up to half the time of a training step (`benchmarks/memory.py`).
"""

import ctypes
import sys

# of malloc.h
TRIM_THRESHOLD = -1  # bytes free at the end of the heap from which on they are given back
MMAP_THRESHOLD = -3  # bytes from which on a block has a mapping of its own, given back as soon as it is free
MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """From now on this process gives no freed memory back before it ends: it holds the most that it ever needed at
    once, and some between the blocks.

    False where the C library has no such setting (macOS, musl), and nothing was changed."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(MMAP_THRESHOLD, MOST) and mallopt(TRIM_THRESHOLD, MOST))
