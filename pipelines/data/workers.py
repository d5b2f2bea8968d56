"""Pools of worker processes that decode files."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch


def worker_pool(workers: int, initializer: Callable | None = None, arguments: tuple = ()) -> ProcessPoolExecutor:
    """`workers` processes; `initializer(*arguments)` runs in each.

    Where this process has used CUDA they are started by a server process instead of forked: a fork copies the driver's
    state without its threads. They end with this process, even if it is killed, and leave Ctrl-C to it."""
    forked_unsafely = torch.cuda.is_initialized() and "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forked_unsafely else None)
    return ProcessPoolExecutor(workers, context, _begin, (initializer, arguments))


def _begin(initializer: Callable | None, arguments: tuple) -> None:
    """In a worker: SIGTERM ends it at once; SIGINT, which a terminal sends to all, is the business of its parent."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer(*arguments)


def _end_with_parent() -> None:
    """Else the workers of a killed process would wait for tasks for ever, and hold the locks that it had."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
