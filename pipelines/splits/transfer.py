"""Copies from main memory to a GPU that nothing waits for, and batches that are made ahead.

A copy from ordinary memory makes the processor wait until the GPU has done all its work, one from pinned memory does
not.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

AHEAD = 2  # batches made while the GPU works on an earlier one

Fields = TypeVar("Fields", bound=Sequence[Tensor | None])


def send(x: Tensor, device: torch.device) -> Tensor:
    """`x` on `device`; a CPU's waits for the copy, a GPU's work does not hold it up."""
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def send_together(parts: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """int64 tensors of any shapes, from main memory to `device` in one copy."""
    if device.type == "cpu":
        return list(parts)
    sent = send(torch.cat([part.flatten() for part in parts]), device)
    pieces = sent.split([part.numel() for part in parts])
    return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]


def ahead(make: Callable[[int], Fields], numbers: Iterable[int], device: torch.device) -> Generator[Fields, None, None]:
    """make(number) for each of `numbers`, in order, computed in a thread up to `AHEAD` numbers early.

    An error of `make` is raised here, in the place of its own result. Closing the iterator ends the thread.
    On CUDA the thread's copies and kernels run on a stream of its own, beside the work of the caller's stream."""
    side = torch.cuda.Stream(device) if device.type == "cuda" else None
    if side is not None:
        side.wait_stream(torch.cuda.current_stream(device))  # what `make` reads has been written

    def made(number: int) -> tuple[Fields, torch.cuda.Event | None]:
        if side is None:
            return make(number), None
        with torch.cuda.stream(side):
            fields = make(number)
            return fields, side.record_event()

    def arrived(future: "Future[tuple[Fields, torch.cuda.Event | None]]") -> Fields:
        fields, event = future.result()
        if event is not None:
            own = torch.cuda.current_stream(device)
            own.wait_event(event)
            for field in fields:
                if field is not None:
                    field.record_stream(own)  # its memory is not used again before the caller's stream is done with it
        return fields

    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(1, "batches") as pool:
        try:
            for number in numbers:
                waiting.append(pool.submit(made, number))
                if len(waiting) > AHEAD:
                    yield arrived(waiting.popleft())
            while waiting:
                yield arrived(waiting.popleft())
        finally:
            for future in waiting:
                future.cancel()
