"""Unigram and bigram bits against values worked out by hand, and against each other where the truth is known."""

import math

import pytest
import torch

from pipelines.metrics.ngrams import bigram_bits, unigram_bits


def test_unigram_of_known_counts():
    train = torch.tensor([[[0], [0], [0], [1]]])  # add-one: p = (4/6, 2/6) for two codes
    test = torch.tensor([[[0], [1], [1], [1]]])
    expected = -(math.log2(4 / 6) + 3 * math.log2(2 / 6)) / 4
    assert torch.allclose(unigram_bits(train, test, 2), torch.tensor([expected], dtype=torch.float64))


def test_each_codebook_is_counted_on_its_own():
    generator = torch.Generator().manual_seed(0)
    random = torch.randint(0, 8, (200, 16), generator=generator)
    train = torch.stack([random, torch.zeros_like(random)], -1)
    bits = unigram_bits(train, train, 8)
    # 3,200 codes of 8 by their own frequencies, about as often as each other: 3 bits less about 7 / (2 * 3,200 log 2) =
    # 0.0016 on average, with a deviation of 0.5 of that. A constant code: log2(3,208 / 3,201) = 0.0032 by add-one.
    assert 2.99 < bits[0] < 3 and bits[1].item() == pytest.approx(math.log2(3208 / 3201))


def test_a_deterministic_chain_costs_its_first_code_only():
    start = torch.randint(0, 8, (2000, 1), generator=torch.Generator().manual_seed(0))
    codes = ((start + torch.arange(16)) % 8)[..., None]  # each code follows from the one before: 3 bits, then none
    # 16 codes in a row are each of the 8 twice, so the frequencies are equal
    assert float(unigram_bits(codes[:1500], codes[1500:], 8)) == pytest.approx(3)
    # 15 of 16 codes have a table of 1,350 * 15 / 8 = 2,531 counts, all of one code, and a unigram of weight 1:
    # log2(2,532 / (2,531 + 1/8)) = 0.0005 bits
    expected = 3 / 16 + 15 / 16 * 0.0005
    assert float(bigram_bits(codes[:1500], codes[1500:], 8)) == pytest.approx(expected, abs=1e-4)


def test_independent_codes_gain_nothing_from_their_neighbour():
    codes = torch.randint(0, 64, (400, 16, 1), generator=torch.Generator().manual_seed(0))
    unigram, bigram = (float(bits(codes[:300], codes[300:], 64)) for bits in (unigram_bits, bigram_bits))
    # The weight is chosen among 1, 4, ..., 16,384 on a tenth of the grids. With the largest, 75 counts per code change
    # the unigram by 75 / 16,384 = 0.5 %, at most 0.007 bits; with the next smaller one by up to four times as much.
    assert abs(bigram - unigram) < 0.03
    assert 6 < unigram < 6.03  # log2 64, and 63 / (2 * 4,800 log 2) = 0.0095 for the counts' own chance


def test_bigram_of_several_codebooks_keeps_them_apart():
    one = torch.randint(0, 8, (500, 9, 1), generator=torch.Generator().manual_seed(1))
    two = one.cumsum(1) % 8
    both = torch.cat([one, two], -1)
    assert torch.equal(bigram_bits(both[:400], both[400:], 8),
                       torch.cat([bigram_bits(part[:400], part[400:], 8) for part in (one, two)]))
