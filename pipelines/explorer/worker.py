"""One thread on which all calls of the models run, one after another, and the queue before it.

A call whose tab has gone away is dropped from the queue; a running one that sends values is stopped at its next value.
"""

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import TimeoutError as Late
from contextlib import suppress
from typing import Any

MOST_WAITING = 32  # calls in the queue; a further one is refused
UNREAD = 8  # values that a tab has not read yet, before the call waits for it
PATIENCE_S = 10  # for a tab that does not read: others wait too
END = object()


class Busy(Exception):
    """The queue is full."""


class Job:
    """A call in the queue, or running. It gives one value, or, if it is a generator, one after another."""

    def __init__(self, function: Callable[[], Any]):
        self.function = function
        self.cancelled = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._values: asyncio.Queue[Any] = asyncio.Queue(UNREAD)

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self.cancelled.set()

    async def values(self) -> AsyncIterator[Any]:
        """What it gives. Raises what it raised."""
        while (value := await self._values.get()) is not END:
            if isinstance(value, Exception):
                raise value
            yield value

    def run(self) -> None:
        """On the worker's thread."""
        if self.cancelled.is_set():
            return
        try:
            found = self.function()
            for value in found if isinstance(found, Generator) else [found]:
                if self.cancelled.is_set() or not self._give(value):
                    break
            if isinstance(found, Generator):
                found.close()
        except Exception as error:  # whoever waits for the values raises it
            self._give(error)
        self._give(END)

    def _give(self, value: Any) -> bool:
        """Whether the value was taken."""
        with suppress(RuntimeError):  # the server ends
            put = asyncio.run_coroutine_threadsafe(self._values.put(value), self._loop)
            end = time.monotonic() + PATIENCE_S
            while time.monotonic() < end and not self.cancelled.is_set():
                with suppress(Late):
                    put.result(0.1)
                    return True
            put.cancel()
        self.cancel()
        return False


class Worker:
    """The thread, and its queue."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[Job] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._running: Job | None = None
        self._ended = threading.Event()

    def start(self, first: Callable[[], None]) -> None:
        """`first` runs before all calls: it loads what they need."""
        self._thread = threading.Thread(target=self._work, args=(first,), name="explorer", daemon=True)
        self._thread.start()

    def stop(self, patience_s: float) -> None:
        """Ends after the value that is being made, if that takes no longer than `patience_s`."""
        self._ended.set()
        if (job := self._running) is not None:
            job.cancel()
        if self._thread is not None:
            self._thread.join(patience_s)

    def add(self, function: Callable[[], Any]) -> Job:
        """Raises Busy where too many calls wait."""
        job = Job(function)
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise Busy(f"the explorer is busy: {MOST_WAITING} calls are waiting; try again in a moment") from None
        return job

    def _work(self, first: Callable[[], None]) -> None:
        first()
        while not self._ended.is_set():
            with suppress(queue.Empty):
                self._running = self._jobs.get(timeout=0.2)
                self._running.run()
                self._running = None
