"""Shared by the ranks of a distributed run: sums, values and noise. A single process is rank 0 of 1."""

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_world() -> tuple[int, int]:
    """The rank of this process and the number of ranks: (0, 1) where torch.distributed is not initialised."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def all_sum(x: Tensor) -> Tensor:
    """The sum of `x` over all ranks, in place, the same bits on every rank."""
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

    The whole batch is drawn from the global generator of the device, which has the same seed on every rank: the noise
    does not depend on how the batch is split."""
    rank, world = rank_and_world()
    drawn = torch.rand(world * batch, *shape, dtype=dtype, device=device)
    return drawn[rank * batch : (rank + 1) * batch]
