"""Unigram and bigram bits against values worked out by hand, and against each other where the truth is known."""

import math

import pytest
import torch

from pipelines.metrics.ngrams import bigram_bits, ngram_bits, unigram_bits


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


def test_bigrams_are_those_of_a_dense_table_also_with_padding():
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.randint(0, 6, (count, 9, 1), generator=generator) for count in (60, 20))
    real = [torch.arange(9) < torch.randint(1, 10, (len(codes), 1), generator=generator) for codes in (train, test)]

    def dense(counted, kept, own, held, weight):
        base = torch.bincount(counted[own], minlength=6).double() + 1
        base, table = base / base.sum(), torch.zeros(6, 6, dtype=torch.float64)
        for row, which in zip(counted, own, strict=True):
            for before, after in zip(row[which][:-1], row[which][1:]):
                table[before, after] += 1
        bits = 0.0
        for row, which in zip(kept, held, strict=True):
            codes = row[which]
            bits -= math.log2(base[codes[0]])
            for before, after in zip(codes[:-1], codes[1:]):
                bits -= math.log2((table[before, after] + weight * base[after]) / (table[before].sum() + weight))
        return bits / int(held.sum())

    one, other = train[..., 0], test[..., 0]
    costs = {weight: dense(one[6:], one[:6], real[0][6:], real[0][:6], weight) for weight in 4.0 ** torch.arange(8)}
    best = min(costs, key=costs.__getitem__)
    found = float(bigram_bits(train, test, 6, tuple(real)))
    assert found == pytest.approx(dense(one, other, *real, best), rel=1e-12)


def test_the_largest_codebook_takes_the_memory_of_its_pairs():
    """65,536 codes: a table of all pairs has 34 GB."""
    codes = torch.randint(0, 65_536, (50, 64, 1), generator=torch.Generator().manual_seed(0))
    # hardly a pair occurs twice: with any weight the bits are nearly those of the unigram, above 14
    assert 14 < float(bigram_bits(codes[:40], codes[40:], 65_536)) < 17


@pytest.mark.parametrize("size", [1, 7, 30])
def test_items_in_pieces_cost_what_all_of_them_cost_at_once(size):
    generator = torch.Generator().manual_seed(0)
    parts = [(torch.randint(0, 9, (count, 5, 2), generator=generator),
              torch.arange(5) < torch.randint(1, 6, (count, 1), generator=generator)) for count in (53, 20)]

    def pieces(codes, real):
        return lambda: zip(codes.split(size), real.split(size), strict=True)

    unigram, bigram = ngram_bits(pieces(*parts[0]), 53, pieces(*parts[1]), 9)
    (train, real), (test, held) = parts
    assert torch.allclose(unigram, unigram_bits(train, test, 9, (real, held)), rtol=1e-12)
    assert torch.allclose(bigram, bigram_bits(train, test, 9, (real, held)), rtol=1e-12)
    assert torch.isfinite(bigram_bits(train[:1], test, 9)).all()  # one item: held out, and nothing counted
