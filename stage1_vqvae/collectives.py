"""Shared by the ranks of a distributed run: sums, values and noise. A single process is rank 0 of 1.

Where the gradients of several micro-batches are accumulated, each micro-batch counts as the batch of a rank of its own
(`MicroBatches`): rank r of w with m micro-batches is ranks r m to r m + m - 1 of w m.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


class MicroBatches:
    """Sums over the micro-batches of one step, by the order in which a forward pass asks for them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.number = 0  # of the present micro-batch
        self.looking = False  # a pass without gradients, for sums that the forward pass itself needs
        self._calls = 0
        self._totals: dict[tuple[bool, int], Tensor] = {}

    @contextmanager
    def at(self, number: int, looking: bool = False) -> Iterator[None]:
        """Within, the forward pass is that of one micro-batch; they follow one another."""
        global _micro
        self.number, self.looking, self._calls = number, looking, 0
        _micro = self
        try:
            yield
        finally:
            _micro = None

    def add(self, x: Tensor) -> tuple[Tensor, bool]:
        """The sum of `x` over the micro-batches so far and, with the last one, over the ranks; whether it is whole."""
        key, self._calls = (self.looking, self._calls), self._calls + 1
        total = self._totals[key] = x.clone() if self.number == 0 else self._totals[key] + x
        whole = self.number == self.count - 1
        return (_all_reduced(total) if whole else total), whole

    def found(self) -> Tensor:
        """The sum that the pass without gradients has found at this place."""
        key, self._calls = (True, self._calls), self._calls + 1
        if key not in self._totals:
            raise ValueError("accumulate: expected a bottleneck that says `needs_whole_batch`, found one that sums "
                             "over the batch in its forward pass")
        return self._totals[key].clone()


_micro: MicroBatches | None = None


def rank_and_world() -> tuple[int, int]:
    """The rank of this process and the number of ranks: (0, 1) where torch.distributed is not initialised."""
    rank, world = _processes()
    if _micro is None:
        return rank, world
    return rank * _micro.count + _micro.number, world * _micro.count


def _processes() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def all_sum(x: Tensor) -> Tensor:
    """The sum of `x` over all ranks, in place, the same bits on every rank. Where gradients are accumulated it is known
    only if a pass without gradients went before: `Bottleneck.needs_whole_batch`."""
    if _micro is None:
        return _all_reduced(x)
    return _micro.add(x)[0] if _micro.looking else x.copy_(_micro.found())


def learn_from_sum(x: Tensor, learn: Callable[[Tensor], None]) -> None:
    """Calls `learn` with the sum of `x` over all ranks. Where gradients are accumulated it is called in the last
    micro-batch: until then nothing changes."""
    if _micro is None:
        learn(_all_reduced(x))
        return
    total, whole = _micro.add(x)
    if whole and not _micro.looking:
        learn(total)


def _all_reduced(x: Tensor) -> Tensor:
    if _processes()[1] > 1:
        dist.all_reduce(x)
    return x


def from_first_rank(x: Tensor) -> Tensor:
    """Rank 0's `x`, in place."""
    if _processes()[1] > 1:
        dist.broadcast(x, src=0)
    return x


def global_uniforms(batch: int, *shape: int, device: torch.device, dtype: torch.dtype = torch.float64) -> Tensor:
    """Uniforms (batch, *shape) in [0, 1) for this rank's rows of the global batch.

    The whole batch is drawn from the global generator of the device, which has the same seed on every rank: the noise
    does not depend on how the batch is split."""
    rank, world = rank_and_world()
    drawn = torch.rand(world * batch, *shape, dtype=dtype, device=device)
    return drawn[rank * batch : (rank + 1) * batch]
