"""Worker processes, with and without CUDA in the process that starts them."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from pipelines.data.workers import worker_pool
from pipelines.files.signals import Stopped, raising_stopped


def slow_number(task: int) -> int:
    time.sleep(0.05)  # so that the other worker takes the other task
    return os.getpid()


def test_a_signal_cancels_what_no_worker_has_begun():
    """100 tasks take 5 s; some three have been handed out when Ctrl-C comes."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    start = time.monotonic()
    try:
        with pytest.raises(Stopped), raising_stopped(), worker_pool(1) as pool:
            for _ in pool.map(slow_number, range(100)):
                signal.raise_signal(signal.SIGINT)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert time.monotonic() - start < 4


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="/proc tells whether a process is there")
def test_workers_end_with_a_killed_process():
    """Else they would wait for tasks for ever and hold its locks."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        pool = worker_pool(2)
        workers = set(pool.map(slow_number, range(4)))
        os.write(writing, " ".join(map(str, workers)).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading) as pipe:
        workers = pipe.read().split()
    assert len(workers) == 2
    end = time.monotonic() + 20
    while running := [worker for worker in workers if is_running(worker)]:
        assert time.monotonic() < end, running
        time.sleep(0.02)


def is_running(process: str) -> bool:
    """A zombie, whose new parent has not asked for its status, is not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("used, method", [(False, None), (True, "forkserver")])
def test_a_process_that_has_used_cuda_is_not_forked(used, method, monkeypatch):
    import multiprocessing

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    with worker_pool(1, torch.set_num_threads, (1,)) as pool:
        assert pool._mp_context.get_start_method() == (method or multiprocessing.get_start_method())
        child, threads = pool.submit(os.getpid), pool.submit(torch.get_num_threads)
        assert child.result(timeout=120) != os.getpid() and threads.result() == 1
