"""SIGINT and SIGTERM: a command ends cleanly at the first, and a repetition of it does no harm.

`make`, a scheduler or `torchrun` may deliver one request several times: to the whole process group, and by each parent
once more. All signals within `GRACE_S` seconds of the first are therefore that same request. One that comes later,
while the command is still ending, kills it at once; files stay whole even then.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

GRACE_S = 5.0
CAUGHT = (signal.SIGINT, signal.SIGTERM)

_first: float | None = None  # when the request to stop came, on the monotonic clock


class Stopped(BaseException):
    """A signal ended the command. Not an Exception, so that nothing takes it for a failure of what was going on."""

    def __init__(self, number: int, what: str = ""):
        super().__init__(what or f"stopped by {signal.Signals(number).name}")
        self.number = number


class StopRequest(threading.Event):
    """Set by the first signal, whose number it has."""

    number: int = signal.SIGTERM


@contextmanager
def raising_stopped() -> Iterator[None]:
    """Meanwhile the first SIGINT or SIGTERM raises `Stopped` in the main thread."""

    def stop(number: int) -> NoReturn:
        raise Stopped(number)

    with _handling(stop):
        yield


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """An event that the first SIGINT or SIGTERM sets, for a loop that ends by itself once it has saved its work."""
    request = StopRequest()

    def note(number: int) -> None:
        request.number = number
        request.set()

    with _handling(note):
        yield request


@contextmanager
def saying(words: str) -> Iterator[None]:
    """Adds to what `Stopped` says."""
    try:
        yield
    except Stopped as stopped:
        raise Stopped(stopped.number, f"{stopped}; {words}") from None


@contextmanager
def _handling(react: Callable[[int], object]) -> Iterator[None]:
    """Meanwhile the first signal calls `react(number)`. Contexts may lie in each other: the innermost one reacts, and
    all know of the first signal. After a signal the outermost one leaves both signals ignored: the process ends.

    A signal that was ignored before, as SIGINT is in a script's background jobs, stays ignored."""
    global _first
    if threading.current_thread() is not threading.main_thread():  # handlers can only be set there
        yield
        return

    def handle(number: int, frame: object) -> None:
        global _first
        if _first is None:
            _first = time.monotonic()
            react(number)
        elif time.monotonic() - _first > GRACE_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    previous: dict[int, Any] = {number: signal.getsignal(number) for number in CAUGHT}
    outermost = not any(getattr(handler, "__module__", None) == __name__ for handler in previous.values())
    if outermost:
        _first = None
    for number, handler in previous.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_IGN if outermost and _first is not None else handler)
