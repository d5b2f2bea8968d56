"""Unigram and bigram bits against values worked out by hand, and against each other where the truth is known."""

import math

import torch

from pipelines.metrics.ngrams import bigram_bits, unigram_bits


def test_unigram_of_known_counts():
    train = torch.tensor([[[0], [0], [0], [1]]])  # add-one: p = (4/6, 2/6) for two codes
    test = torch.tensor([[[0], [1], [1], [1]]])
    expected = -(math.log2(4 / 6) + 3 * math.log2(2 / 6)) / 4
    assert torch.allclose(unigram_bits(train, test, 2), torch.tensor([expected], dtype=torch.float64))


def test_each_codebook_is_counted_on_its_own():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 8, (200, 16), generator=generator)
    train = torch.stack([drawn, torch.zeros_like(drawn)], -1)
    bits = unigram_bits(train, train, 8)
    assert abs(bits[0] - 3) < 0.01 and bits[1] < 0.01


def test_a_deterministic_chain_costs_its_first_code_only():
    start = torch.randint(0, 8, (2000, 1), generator=torch.Generator().manual_seed(0))
    codes = ((start + torch.arange(16)) % 8)[..., None]  # each code follows from the one before: 3 bits, then none
    assert abs(float(unigram_bits(codes[:1500], codes[1500:], 8)) - 3) < 0.02
    assert abs(float(bigram_bits(codes[:1500], codes[1500:], 8)) - 3 / 16) < 0.02


def test_independent_codes_gain_nothing_from_their_neighbour():
    codes = torch.randint(0, 64, (400, 16, 1), generator=torch.Generator().manual_seed(0))
    unigram, bigram = (float(bits(codes[:300], codes[300:], 64)) for bits in (unigram_bits, bigram_bits))
    assert unigram - 1e-3 < bigram < unigram + 0.05  # the weight of the unigram is chosen large


def test_bigram_of_several_codebooks_keeps_them_apart():
    one = torch.randint(0, 8, (500, 9, 1), generator=torch.Generator().manual_seed(1))
    two = one.cumsum(1) % 8
    both = torch.cat([one, two], -1)
    assert torch.equal(bigram_bits(both[:400], both[400:], 8),
                       torch.cat([bigram_bits(part[:400], part[400:], 8) for part in (one, two)]))
