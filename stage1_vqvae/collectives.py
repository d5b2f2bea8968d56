"""What the ranks of a distributed run share: sums, values and noise. A single process is its own first rank."""

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_world() -> tuple[int, int]:
    """This process's rank and how many there are: (0, 1) where torch.distributed was not initialised."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def all_sum(x: Tensor) -> Tensor:
    """The sum of `x` over all ranks, in place, the same bits on each."""
    if rank_and_world()[1] > 1:
        dist.all_reduce(x)
    return x


def from_first_rank(x: Tensor) -> Tensor:
    """Rank 0's `x`, in place."""
    if rank_and_world()[1] > 1:
        dist.broadcast(x, src=0)
    return x


def global_uniforms(batch: int, *shape: int, device: torch.device, dtype: torch.dtype = torch.float64) -> Tensor:
    """Uniforms (batch, *shape) in [0, 1) for this rank's rows of the global batch.

    Drawn for all of it from the device's global generator, seeded alike on every rank: noise does not depend on how the
    batch is split."""
    rank, world = rank_and_world()
    drawn = torch.rand(world * batch, *shape, dtype=dtype, device=device)
    return drawn[rank * batch : (rank + 1) * batch]
