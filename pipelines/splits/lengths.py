"""Lengths of clips: how a prior is conditioned on them, and how the length of a new clip is chosen.

The codes of a clip end with its audio; padding is excluded from training. So that a word fits the available time, the
prior can be conditioned, at every position, on the elapsed and the remaining length.
"""

import numpy as np
import torch
from torch import Tensor

CLOCK_CHANNELS = 4
NEAR = 8.0  # codes: distance from either end that is resolved finely


def clock(lengths: Tensor, positions: int, usual: int | None = None) -> Tensor:
    """lengths (b,) in codes -> float32 (b, CLOCK_CHANNELS, positions): elapsed fraction, total length, proximity to the
    start and to the end. Positions after the end count as the end.

    usual: of which number of positions the total length is a fraction, at most 1, where there are more than in
    training; None: of `positions`."""
    length = lengths[:, None].float()
    passed = torch.minimum(torch.arange(positions, device=lengths.device).float(), length - 1)
    whole = (length / (positions if usual is None else usual)).clamp(max=1.0).expand_as(passed)
    return torch.stack([passed / length, whole, torch.exp(-passed / NEAR), torch.exp((passed + 1 - length) / NEAR)], 1)


def conditioning(local: Tensor | None, lengths: Tensor | None, positions: int, usual: int | None = None
                 ) -> Tensor | None:
    """The local features that a prior is conditioned on: those of the data, and the clock if `lengths` are given."""
    own = None if lengths is None else clock(lengths, positions, usual)
    parts = [part for part in (local, own) if part is not None]
    return torch.cat(parts, 1) if parts else None


def length_counts(labels: Tensor, lengths: Tensor) -> list[list[int]]:
    """Rows (label of each column, length, count) of the training clips, for `draw_lengths`."""
    rows, counts = torch.cat([labels.cpu(), lengths.cpu()[:, None]], 1).unique(dim=0, return_counts=True)
    return torch.cat([rows, counts[:, None]], 1).tolist()


def draw_lengths(table: list[list[int]], labels: Tensor, draws: Tensor) -> Tensor:
    """Lengths (n,) int64 drawn from those of the training clips with the same labels (n, L); draws: float64 (n,).

    If no training clip has all labels, the labels are matched one after another as far as possible: a word that a
    speaker never said gets the lengths of that word by other speakers."""
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
