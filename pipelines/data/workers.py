"""Pools of worker processes that decode files."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch


def worker_pool(workers: int, initializer: Callable | None = None, arguments: tuple = ()) -> ProcessPoolExecutor:
    """`workers` processes; `initializer(*arguments)` runs in each.

    Where this process has used CUDA they are started by a server process instead of forked: a fork copies the driver's
    state without its threads."""
    forked_unsafely = torch.cuda.is_initialized() and "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forked_unsafely else None)
    return ProcessPoolExecutor(workers, context, initializer, arguments)
