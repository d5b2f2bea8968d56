"""Dropout whose mask does not depend on how the batch is split over processes.

Every process draws the mask of the *global* batch from the device's global generator and keeps the rows of its own
samples (rank r: rows r*b .. (r+1)*b). With the same seed on every rank, two processes with half of the batch each take
the same step as one process with the whole batch; so do micro-batches whose gradients are accumulated.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed
from torch import Tensor, nn


class GlobalBatchDropout(nn.Module):
    """Srivastava et al. (2014) on x (b, c, *grid): in training, zeroes with `probability` and rescales the rest."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0.0 <= probability < 1.0:
            raise ValueError(f"dropout: expected a probability in [0, 1), found {probability}")
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        kept = self.kept((x.shape[0], *x.shape[2:], x.shape[1]), x.device)
        return x if kept is None else x * kept.movedim(-1, 1) / (1.0 - self.probability)

    def kept(self, shape: tuple[int, ...], device: torch.device) -> Tensor | None:
        """Which features (b, *grid, c) are kept, the memory layout of the activations; None: all."""
        if not self.training or self.probability == 0.0:
            return None
        rank, world = _rank_and_world()
        batch, *others = shape
        # Always float32: autocast does not change the mask.
        noise = torch.rand(world * batch, *others, device=device)[rank * batch : (rank + 1) * batch]
        return noise >= self.probability


_micro = 0, 1  # the present micro-batch of this process's rows, and how many there are


@contextmanager
def micro_batch(number: int, count: int) -> Iterator[None]:
    """Within, activations are those of one of `count` micro-batches of this process's rows."""
    global _micro
    _micro = number, count
    try:
        yield
    finally:
        _micro = 0, 1


def _rank_and_world() -> tuple[int, int]:
    """Each micro-batch counts as the batch of a rank of its own."""
    number, count = _micro
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() * count + number, torch.distributed.get_world_size() * count
    return number, count
