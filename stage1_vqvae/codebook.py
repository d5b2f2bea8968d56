"""How codes are used: functions of codes only."""

import torch
from torch import Tensor


def usage(codes: Tensor, num_codes: int, real: Tensor | None = None) -> Tensor:
    """Codes of any shape -> (num_codes,) int64, how often each occurs. For a whole split, sum over its batches.

    real: bool, of the same shape: which codes count; None: all. Nothing here waits for a GPU, as `torch.bincount` does.
    """
    each = torch.ones_like(codes) if real is None else real.to(torch.int64)
    return codes.new_zeros(num_codes).scatter_add_(0, codes.flatten(), each.flatten())


def perplexity(counts: Tensor) -> Tensor:
    """Usage (..., num_codes) -> (...,) float64: exp of the entropy, between 1 and the number of codes in use.

    It grows with the number of codes counted: use the counts of a whole split, not the mean over batches.
    """
    p = counts.double() / counts.sum(-1, keepdim=True)
    return torch.special.entr(p).sum(-1).exp()


def dead_codes(counts: Tensor) -> Tensor:
    """Usage (num_codes,) -> the codes that never occur, in ascending order."""
    return (counts == 0).nonzero().flatten()
