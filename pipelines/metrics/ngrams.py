"""Baselines for a prior: unigram and bigram models of the codes, counted on the training split.

Axes: k codes of a codebook, n items, t positions of a grid in raster order, g codebooks, each with its own counts.
"""

import math

import torch
from torch import Tensor


def unigram_bits(train: Tensor, test: Tensor, num_codes: int, real: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Bits per code of `test` under the training frequencies (add-one smoothing), for each codebook.

    train, test: int64 (n, t, g). real: for both, bool (n, t), False for padding; None: no padding.
    Returns float64 (g,)."""
    real_train, real_test = real or (all_real(train), all_real(test))
    books = range(train.shape[-1])
    logs = [_unigram(train[..., book][real_train], num_codes).log2() for book in books]
    return torch.stack([-logs[book][test[..., book][real_test]].mean() for book in books])


def bigram_bits(train: Tensor, test: Tensor, num_codes: int, real: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Bits per code of `test` given the preceding code in raster order; the first code of a grid uses the unigram.

    p(b | a) = (count(a, b) + s * p(b)) / (count(a) + s): the unigram p is a prior of weight s, chosen among powers of
    two by the likelihood of a tenth of the training grids, held out. Arguments and result as in `unigram_bits`."""
    real_train, real_test = real or (all_real(train), all_real(test))
    cut = max(1, len(train) // 10)
    result = []
    for book in range(train.shape[-1]):
        own, held = (train[..., book], real_train), (test[..., book], real_test)
        counted, kept = (train[cut:, ..., book], real_train[cut:]), (train[:cut, ..., book], real_train[:cut])
        costs = {s: _bigram_cost(counted, kept, num_codes, s) for s in (2.0**e for e in range(0, 15, 2))}
        result.append(_bigram_cost(own, held, num_codes, min(costs, key=costs.__getitem__)))
    return torch.tensor(result, dtype=torch.float64)


def all_real(codes: Tensor) -> Tensor:
    return torch.ones(codes.shape[:2], dtype=torch.bool)


def _unigram(codes: Tensor, num_codes: int) -> Tensor:
    counts = torch.bincount(codes.flatten(), minlength=num_codes).double() + 1
    return counts / counts.sum()


def _bigram_cost(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], num_codes: int, weight: float) -> float:
    """Bits per code; train and test are pairs of codes (n, t) and bool (n, t), False for padding at the end.

    Only pairs that occur are counted, so that memory is that of the codes, not num_codes squared."""
    (codes, real), (held, real_held) = train, test
    base = _unigram(codes[real], num_codes)
    pairs, counts = (codes[:, :-1] * num_codes + codes[:, 1:])[real[:, 1:]].unique(return_counts=True)
    totals = torch.zeros(num_codes, dtype=torch.float64).index_add_(0, pairs // num_codes, counts.double())
    before, after = held[:, :-1][real_held[:, 1:]], held[:, 1:][real_held[:, 1:]]
    wanted = before * num_codes + after
    seen = torch.zeros(len(wanted), dtype=torch.float64)
    if len(pairs):
        places = torch.searchsorted(pairs, wanted).clamp(max=len(pairs) - 1)
        seen = torch.where(pairs[places] == wanted, counts[places].double(), seen)
    chances = (seen + weight * base[after]) / (totals[before] + weight)
    nats = -base[held[:, 0]].log().sum() - chances.log().sum()
    return float(nats) / int(real_held.sum()) / math.log(2)
