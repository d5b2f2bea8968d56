"""Baselines for a prior: unigram and bigram models of the codes, counted on the training split.

Axes: k codes of a codebook, n items, t positions of a grid in raster order, g codebooks, each with its own counts.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

Pieces = Callable[[], Iterable[tuple[Tensor, Tensor]]]  # at each call all items: codes (n, t, g), real (n, t) of some
WEIGHTS = [2.0**e for e in range(0, 15, 2)]  # of the unigram in the bigram


def unigram_bits(train: Tensor, test: Tensor, num_codes: int, real: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Bits per code of `test` under the training frequencies (add-one smoothing), for each codebook.

    train, test: int64 (n, t, g). real: for both, bool (n, t), False for padding; None: no padding.
    Returns float64 (g,)."""
    real_train, real_test = real or (all_real(train), all_real(test))
    books = range(train.shape[-1])
    logs = [_unigram(train[..., book][real_train], num_codes).log2() for book in books]
    return torch.stack([-logs[book][test[..., book][real_test]].mean() for book in books])


def bigram_bits(train: Tensor, test: Tensor, num_codes: int, real: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Bits per code of `test` given the preceding code in raster order, as of `ngram_bits`. Arguments and result as in
    `unigram_bits`."""
    real_train, real_test = real or (all_real(train), all_real(test))
    return ngram_bits(lambda: [(train, real_train)], len(train), lambda: [(test, real_test)], num_codes)[1]


def ngram_bits(train: Pieces, items: int, test: Pieces, num_codes: int) -> tuple[Tensor, Tensor]:
    """Bits per code of the test items for each codebook, float64 (g,): under the training frequencies (add-one
    smoothing), and given the preceding code in raster order, where the first code of a grid uses the unigram.

    p(b | a) = (count(a, b) + s * p(b)) / (count(a) + s): the unigram p is a prior of weight s, chosen among powers of
    two by the likelihood of a tenth of the training grids, held out. Of all items no more than one piece is in memory.
    items: of the training pieces."""
    cut = max(1, items // 10)
    kept, rest = _counted(train, num_codes, 0, cut), _counted(train, num_codes, cut, items)
    found = []
    for book, (own, others) in enumerate(zip(kept, rest, strict=True)):
        costs = _costs(others, train, book, (0, cut), WEIGHTS)
        weight = WEIGHTS[int(costs[1:].argmin())]
        others.add(own.pairs, own.counts, own.codes)
        found.append(_costs(others, test, book, (0, None), [weight]))
    bits = torch.stack(found)
    return bits[:, 0], bits[:, 1]


def all_real(codes: Tensor) -> Tensor:
    return torch.ones(codes.shape[:2], dtype=torch.bool)


def _unigram(codes: Tensor, num_codes: int) -> Tensor:
    counts = torch.bincount(codes.flatten(), minlength=num_codes).double() + 1
    return counts / counts.sum()


class _Counts:
    """How often codes and pairs of neighbours occur. Only pairs that occur are counted, so that memory is theirs, not
    num_codes squared."""

    def __init__(self, num_codes: int):
        self.codes = torch.zeros(num_codes, dtype=torch.int64)
        self.pairs = self.counts = torch.zeros(0, dtype=torch.int64)

    def add(self, pairs: Tensor, counts: Tensor, codes: Tensor) -> None:
        """Different pairs (m,), first code times num_codes plus second, their counts (m,), and counts of codes (k,)."""
        self.codes += codes
        self.pairs, place = torch.cat([self.pairs, pairs]).unique(return_inverse=True)
        total = torch.zeros(len(self.pairs), dtype=torch.int64)
        self.counts = total.index_add_(0, place, torch.cat([self.counts, counts]))


def _counted(pieces: Pieces, num_codes: int, start: int, stop: int) -> list[_Counts]:
    """Of each codebook, over items [start, stop)."""
    found: list[_Counts] = []
    for codes, real in _between(pieces, start, stop):
        found = found or [_Counts(num_codes) for _ in range(codes.shape[-1])]
        for own, book in zip(found, codes.unbind(-1), strict=True):
            pairs, counts = (book[:, :-1] * num_codes + book[:, 1:])[real[:, 1:]].unique(return_counts=True)
            own.add(pairs, counts, torch.bincount(book[real], minlength=num_codes))
    return found


def _between(pieces: Pieces, start: int, stop: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """The pieces of items [start, stop); of an empty range one empty piece, for the number of codebooks."""
    first = 0
    for codes, real in pieces():
        own = slice(max(start - first, 0), None if stop is None else max(stop - first, 0))
        if len(codes[own]) or (start == stop and first == 0):
            yield codes[own], real[own]
        first += len(codes)
        if stop is not None and first >= stop:
            return


def _costs(counted: _Counts, held: Pieces, book: int, items: tuple[int, int | None], weights: Sequence[float]
           ) -> Tensor:
    """Bits per code of items [start, stop): by the unigram, then by the bigram with each weight of it."""
    num_codes, base = len(counted.codes), (counted.codes + 1) / (counted.codes.double() + 1).sum()
    logs, pairs = base.log(), counted.pairs
    totals = torch.zeros(num_codes, dtype=torch.float64).index_add_(0, pairs // num_codes, counted.counts.double())
    nats, number = torch.zeros(1 + len(weights), dtype=torch.float64), 0
    for codes, real in _between(held, *items):
        own = codes[..., book]
        before, after = own[:, :-1][real[:, 1:]], own[:, 1:][real[:, 1:]]
        wanted = before * num_codes + after
        seen = torch.zeros(len(wanted), dtype=torch.float64)
        if len(pairs):
            places = torch.searchsorted(pairs, wanted).clamp(max=len(pairs) - 1)
            seen = torch.where(pairs[places] == wanted, counted.counts[places].double(), seen)
        start = -logs[own[:, 0]].sum()
        nats[0] += start - logs[after].sum()
        for place, weight in enumerate(weights, 1):
            chances = (seen + weight * base[after]) / (totals[before] + weight)
            nats[place] += start - chances.log().sum()
        number += int(real.sum())
    return nats / number / math.log(2)
