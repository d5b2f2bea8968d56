"""Several processes under `torchrun` share the work of one command, and write the bytes that one would.

Every rank runs the same code on the same input. What takes long is cut into parts whose borders do not depend on the
number of ranks: `shared` lets each rank work on some of them and hands all results, in order, to all ranks. Rank 0
alone holds locks and writes results: a job that dies leaves what one process leaves that dies.

The group is not torch.distributed's default one, which belongs to training: whatever else the command runs takes itself
for a single process. In a command of one process, and outside of `sharing`, every function here is trivial.
"""

import io
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TextIO, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.files.errors import USER_ERRNOS, InputError
from pipelines.files.signals import Stopped

LONGEST = timedelta(days=30)  # that a rank waits for another one; torchrun ends all where one dies
POLL_S = 0.001  # between two looks whether a message has come: a signal is noticed in between
SAME_ERROR_S = 5.0  # within this time rank 0 has ended with the error that all ranks have
FAILED = "failed"  # the key by which rank 0 says so
ENDED = "torchrun: expected all processes to go on, found one that has ended; start the same command again"

Part = TypeVar("Part")
Result = TypeVar("Result")  # of what `torch.load` reads without unpickling objects: tensors, numbers, strings, bytes,
# None, and lists, tuples and dictionaries of these


class _Left(BaseException):
    """A rank that leaves the rest of the command to rank 0."""


@dataclass
class _Group:
    rank: int
    world: int
    store: Any  # of torch.distributed, as the group is
    gloo: Any
    stderr: TextIO
    working: bool = False  # on a part of its own: what is shared within it is not shared any further

    def broadcast(self, tensor: Tensor, source: int) -> None:
        """Fills the tensor with that of the rank `source`. Raises InputError where a rank has ended."""
        try:
            message = self.gloo.broadcast(tensor, source)
            while not message.is_completed():
                time.sleep(POLL_S)
            message.wait()
        except RuntimeError:
            raise InputError(ENDED) from None

    def first_has_failed(self) -> bool:
        """Waits until rank 0 has, at most `SAME_ERROR_S`."""
        end = time.monotonic() + SAME_ERROR_S
        try:
            while time.monotonic() < end:
                if self.store.check([FAILED]):
                    return True
                time.sleep(10 * POLL_S)
        except RuntimeError:  # it has ended, and the store with it
            return True
        return False

    def handed(self, value: Any, source: int) -> Any:
        """The value of the rank `source`, on all ranks."""
        buffer = io.BytesIO()
        if self.rank == source:
            torch.save(value, buffer)
        size = torch.tensor(len(buffer.getbuffer()))
        self.broadcast(size, source)
        content = torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8) if self.rank == source else torch.empty(
            int(size), dtype=torch.uint8)
        self.broadcast(content, source)
        return value if self.rank == source else torch.load(io.BytesIO(content.numpy().data), weights_only=True)

    def attempt(self, work: Callable[[], Any]) -> tuple[str, Any]:
        """("", what `work` gives) or (the user's error in words, None); what it warns of is shown."""
        self.working = True
        try:
            with redirect_stderr(self.stderr):
                return "", work()
        except InputError as error:
            return str(error) or "unknown error", None
        except OSError as error:
            if error.errno not in USER_ERRNOS:
                raise
            return f"{error.filename}: {error.strerror}", None
        finally:
            self.working = False


_group: _Group | None = None
_sessions = itertools.count()  # several in one process, with --multirun


@contextmanager
def sharing() -> Iterator[None]:
    """Around the work of a command: joins the ranks that torchrun has started, if there are several, and ends with all
    of them. Ranks but the first print nothing, unless an error is theirs alone."""
    global _group
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    from torch.distributed.rendezvous import rendezvous

    store, rank, world = next(rendezvous("env://"))
    store = dist.PrefixStore(f"shares{next(_sessions)}", store)
    gloo = dist.ProcessGroupGloo(store, rank, world, LONGEST)
    _group = group = _Group(rank, world, store, gloo, sys.stderr)
    try:
        with ExitStack() as stack:
            if rank:
                silence = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(redirect_stdout(silence))
                stack.enter_context(redirect_stderr(silence))
            with suppress(_Left):
                yield
            with suppress(*([InputError] if rank else [])):  # how rank 0 ends is how the command ends
                group.broadcast(torch.zeros(1), 0)
    except (InputError, OSError) as error:
        if not rank:
            store.set(FAILED, "")
        elif isinstance(error, InputError) or error.errno in USER_ERRNOS:
            with suppress(Stopped):  # by torchrun, since rank 0 has ended
                if not group.first_has_failed():
                    print(f"error: {error} (process {rank} of {world})", file=sys.stderr)
            raise SystemExit(2) from None
        raise
    except Stopped as stopped:
        if rank:
            raise SystemExit(128 + stopped.number) from None
        raise
    finally:
        _group = None


def first() -> bool:
    """Whether this is rank 0, which writes."""
    return _group is None or _group.rank == 0


def leave_to_first() -> None:
    """On all ranks but the first the command ends here: they wait until rank 0 has ended as well."""
    if not first():
        raise _Left


def shared(parts: Iterable[Part], work: Callable[[Part], Result]) -> Iterator[Result]:
    """work(part) of each part, in order, on every rank; each part is worked on by one of them.

    An error that a user can cause is raised on all ranks."""
    group = _group
    if group is None or group.working:
        yield from map(work, parts)
        return
    remaining = iter(parts)
    while turn := list(itertools.islice(remaining, group.world)):
        own: tuple[str, Any] = ("", None)
        if group.rank < len(turn):
            part = turn[group.rank]
            own = group.attempt(lambda: work(part))
        for source in range(len(turn)):
            error, result = group.handed(own, source)
            if error:
                raise InputError(error)
            yield result


def own_parts(parts: Sequence[Part]) -> Sequence[Part]:
    """Those of the parts that `shared` lets this rank work on."""
    return parts if _group is None or _group.working else parts[_group.rank :: _group.world]


def by_first(work: Callable[[], Result]) -> Result:
    """What `work` gives on rank 0, on every rank."""
    [result] = shared([None], lambda _: work())
    return result


@contextmanager
def on_first(context: AbstractContextManager[Any]) -> Iterator[Any]:
    """Rank 0 alone enters the context, a lock or a file; the others wait until it has, and get None. Where rank 0 is
    refused, all are."""
    with ExitStack() as stack:
        entered: list[Any] = []
        by_first(lambda: entered.append(stack.enter_context(context)))
        yield entered[0] if entered else None
