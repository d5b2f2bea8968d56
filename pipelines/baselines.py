"""What a prior has to beat: unigram and bigram models of the codes, counted on the training split.

k: number of codes; n: code grids; t: positions of a grid in raster order; g: codebooks, each with its own counts.
"""

import math

import torch
from torch import Tensor


def unigram_bits(train: Tensor, test: Tensor, num_codes: int) -> Tensor:
    """Bits a code of `test` under the training frequencies (add-one smoothing), one for each codebook.

    train, test: int64 (n, t, g). Returns float64 (g,)."""
    logs = torch.stack([_unigram(train[..., book], num_codes).log2() for book in range(train.shape[-1])])
    return torch.stack([-logs[book][test[..., book]].mean() for book in range(train.shape[-1])])


def bigram_bits(train: Tensor, test: Tensor, num_codes: int) -> Tensor:
    """Bits a code of `test` given the code before it in raster order; the first of a grid has the unigram.

    p(b | a) = (count(a, b) + s * p(b)) / (count(a) + s), the unigram as prior with the weight s, chosen among powers
    of two by the likelihood of a tenth of the training grids that is kept from the counts. As unigram_bits."""
    result = []
    for book in range(train.shape[-1]):
        own, held = train[..., book], test[..., book]
        cut = max(1, len(own) // 10)
        costs = {s: _bigram_cost(own[cut:], own[:cut], num_codes, s) for s in (2.0**e for e in range(0, 15, 2))}
        result.append(_bigram_cost(own, held, num_codes, min(costs, key=costs.get)))
    return torch.tensor(result, dtype=torch.float64)


def _unigram(codes: Tensor, num_codes: int) -> Tensor:
    counts = torch.bincount(codes.flatten(), minlength=num_codes).double() + 1
    return counts / counts.sum()


def _bigram_cost(train: Tensor, test: Tensor, num_codes: int, weight: float) -> float:
    base = _unigram(train, num_codes)
    pairs = torch.bincount((train[:, :-1] * num_codes + train[:, 1:]).flatten(), minlength=num_codes**2)
    pairs = pairs.double().reshape(num_codes, num_codes)
    table = (pairs + weight * base) / (pairs.sum(1, keepdim=True) + weight)
    nats = -base[test[:, 0]].log().sum() - table[test[:, :-1], test[:, 1:]].log().sum()
    return float(nats) / test.numel() / math.log(2)
