"""How codes are used: functions of codes only."""

import torch
from torch import Tensor


def usage(codes: Tensor, num_codes: int) -> Tensor:
    """Codes of any shape -> (num_codes,) int64, how often each occurs. For a whole split, sum over its batches."""
    return torch.bincount(codes.flatten(), minlength=num_codes)


def perplexity(counts: Tensor) -> Tensor:
    """Usage (..., num_codes) -> (...,) float64: exp of the entropy, between 1 and the number of codes in use.

    It grows with the number of codes counted: use the counts of a whole split, not the mean over batches.
    """
    p = counts.double() / counts.sum(-1, keepdim=True)
    return torch.special.entr(p).sum(-1).exp()


def dead_codes(counts: Tensor) -> Tensor:
    """Usage (num_codes,) -> the codes that never occur, in ascending order."""
    return (counts == 0).nonzero().flatten()
