"""Clips have lengths: how a prior is told them, and how the length of a new clip is chosen.

A clip's codes end where its audio ends; nothing is learned from the padding after that. So that a word fits its clip,
the prior can be conditioned, at every position, on how much of the clip has passed and how much is left.
"""

import numpy as np
import torch
from torch import Tensor

CLOCK_CHANNELS = 4
NEAR = 8.0  # codes: how near to either end is told apart finely


def clock(lengths: Tensor, positions: int) -> Tensor:
    """lengths (b,) in codes -> float32 (b, CLOCK_CHANNELS, positions): the share passed, the whole length, nearness to
    the start and to the end. Positions after the end count as the end."""
    length = lengths[:, None].float()
    passed = torch.minimum(torch.arange(positions, device=lengths.device).float(), length - 1)
    whole = (length / positions).expand_as(passed)
    return torch.stack([passed / length, whole, torch.exp(-passed / NEAR), torch.exp((passed + 1 - length) / NEAR)], 1)


def conditioning(local: Tensor | None, lengths: Tensor | None, positions: int) -> Tensor | None:
    """The local features that a prior is told: those of the data, and the clock where `lengths` are given."""
    parts = [part for part in (local, None if lengths is None else clock(lengths, positions)) if part is not None]
    return torch.cat(parts, 1) if parts else None


def length_counts(labels: Tensor, lengths: Tensor) -> list[list[int]]:
    """Rows (label of each column, length, count) of the training clips, for `draw_lengths`."""
    rows, counts = torch.cat([labels.cpu(), lengths.cpu()[:, None]], 1).unique(dim=0, return_counts=True)
    return torch.cat([rows, counts[:, None]], 1).tolist()


def draw_lengths(table: list[list[int]], labels: Tensor, draws: Tensor) -> Tensor:
    """Lengths (n,) int64 drawn from those of the training clips with the same labels (n, L); draws: float64 (n,).

    Where none has all of a clip's labels, those count that share the first of them, and of these the next: a word that
    a speaker never said is as long as others say it."""
    rows = np.asarray(table, dtype=np.int64)
    found = []
    for wanted, draw in zip(labels.numpy(), draws.tolist(), strict=True):
        own = rows
        for column, label in enumerate(wanted):
            shared = own[own[:, column] == label]
            own = shared if len(shared) else own
        edges = own[:, -1].cumsum()
        found.append(int(own[np.searchsorted(edges, draw * edges[-1], side="right"), -2]))
    return torch.tensor(found, dtype=torch.int64)
