"""Worker processes, with and without CUDA in the process that starts them."""

import os

import pytest
import torch

from pipelines.data.workers import worker_pool


@pytest.mark.parametrize("used, method", [(False, None), (True, "forkserver")])
def test_a_process_that_has_used_cuda_is_not_forked(used, method, monkeypatch):
    import multiprocessing

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    with worker_pool(1, torch.set_num_threads, (1,)) as pool:
        assert pool._mp_context.get_start_method() == (method or multiprocessing.get_start_method())
        child, threads = pool.submit(os.getpid), pool.submit(torch.get_num_threads)
        assert child.result(timeout=120) != os.getpid() and threads.result() == 1
