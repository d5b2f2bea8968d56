"""One process or many: the loop's view of its ranks.

Under `torchrun` every process is a rank; otherwise there is one, and every function here is trivial.
Batch sizes are global: rank r of w processes rows [r * b / w, (r + 1) * b / w) of each batch.
"""

import os
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.files.errors import InputError
from pipelines.files.locks import only_writer


@contextmanager
def process_group(device: torch.device):
    """Joins the group that torchrun describes (nccl for CUDA, gloo otherwise), and leaves it cleanly at the end."""
    if "RANK" not in os.environ:
        yield
        return
    if device.type == "cuda":  # with the device nccl needs no guess, and connects before the first collective
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    try:
        yield
        dist.barrier()  # a rank that leaves early aborts the others' last collective
    finally:
        dist.destroy_process_group()


@contextmanager
def only_training(folder: Path, command: str, device: torch.device):
    """This job, of one process or of many, alone trains in a stage's folder. Raises InputError, on rank 0, that names
    the other one; the other ranks then leave without a word."""
    refusal = None
    with ExitStack() as stack:
        if rank() == 0:
            try:
                stack.enter_context(only_writer(folder, command, folder / "checkpoints"))
            except (InputError, OSError) as error:
                refusal = error
        if any_rank(refusal is not None, device):
            raise refusal or SystemExit(2)
        yield


def in_group() -> bool:
    """Whether this process is a rank, if only one of one."""
    return dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def rank_rows(batch_size: int, parts: int = 1) -> slice:
    """This rank's rows of a global batch. Raises InputError if the batch cannot be divided evenly, or those rows not
    into so many parts."""
    if batch_size % (world_size() * parts) and parts > 1:
        raise InputError(f"accumulate: expected a divisor of the {batch_size / world_size():g} rows of each process, "
                         f"found {parts}")
    if batch_size % world_size():
        raise InputError(f"batch_size: expected a multiple of the {world_size()} processes, found {batch_size}")
    rows = batch_size // world_size()
    return slice(rank() * rows, (rank() + 1) * rows)


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum over ranks, in place; any shape, equal on all ranks."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def gather_rows(rows: Tensor) -> Tensor:
    """(n, ...) of each rank -> (world * n, ...), in rank order: the rows of the global batch."""
    if not dist.is_initialized():
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether the flag is true on any rank."""
    if not dist.is_initialized():
        return flag
    return bool(sum_over_ranks(torch.tensor(float(flag), device=device)))


def choose_device(name: str) -> torch.device:
    """`auto` is this rank's GPU if there is one, otherwise the CPU. Raises InputError for an unknown device, and for a
    numbered one under torchrun: all ranks would share it."""
    if "LOCAL_RANK" in os.environ and name.startswith("cuda:"):
        raise InputError("device: expected auto, cpu or cuda under torchrun, which gives each process its own "
                         f"GPU, found {name!r}")
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device: expected auto, cpu, cuda or cuda:N, found {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device: expected auto, cpu, cuda or cuda:N, found {name!r}")
    if device.type == "cuda":
        if not torch.cuda.is_available() or device.index >= torch.cuda.device_count():
            raise InputError(f"device: expected one of {torch.cuda.device_count()} CUDA devices here, found {name!r}")
        torch.cuda.set_device(device)
    return device
