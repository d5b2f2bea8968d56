"""Range coding by a tree whose log-odds are rounded: what is read is what was written, whatever the rounding errors."""

import math
from decimal import Decimal, getcontext

import numpy as np
import pytest

from stage2_prior import coder
from stage2_prior.coder import BITS, CLIP, STEPS, TABLE, TOLERANCE, Decoder, Encoder, leaves

getcontext().prec = 40


def drawn(k, count, scale, seed=0):
    """Logits (count, k) and codes (count,) drawn from their distributions."""
    draws = np.random.default_rng(seed)
    logits = draws.normal(size=(count, k)) * scale
    masses = np.exp(logits - logits.max(1, keepdims=True))
    cdf = masses.cumsum(1)
    codes = (cdf < draws.random((count, 1)) * cdf[:, -1:]).sum(1)
    bits = -np.log2(masses[np.arange(count), codes] / cdf[:, -1]).sum()
    return logits, codes, bits


def written(logits, codes):
    encoder = Encoder()
    encoder.codes(logits, codes)
    return encoder.finish(), encoder


def test_the_table_is_that_of_exact_arithmetic_and_no_entry_is_near_an_edge():
    for steps, found in zip(range(-CLIP, CLIP + 1), TABLE.tolist(), strict=True):
        exact = Decimal(2**BITS) / (1 + (-Decimal(steps) / STEPS).exp())
        assert found == int(exact + Decimal("0.5"))
        assert abs(exact - int(exact) - Decimal("0.5")) > Decimal("1e-3"), "another exp might round it elsewhere"


@pytest.mark.parametrize("k", [1, 2, 3, 128, 513])
@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
def test_codes_are_read_as_written_by_logits_that_differ_by_the_tolerance(k, scale):
    logits, codes, _ = drawn(k, 300, scale)
    data, _ = written(logits, codes)
    noise = np.random.default_rng(1).uniform(-TOLERANCE, TOLERANCE, logits.shape)
    assert Decoder([data]).codes(logits + noise, np.zeros(300, np.int64)).tolist() == codes.tolist()


def test_a_stream_is_as_long_as_the_codes_are_improbable():
    """Rounding to 1 / 16 costs 6e-5 bits per decision at most, give or take 0.013 (36,000 of them: 2.5 bits; six
    deviations are allowed), the flag 2.2e-5 per code, the end a byte."""
    logits, codes, bits = drawn(512, 4000, 2.0)
    data, _ = written(logits, codes)
    assert abs(8 * len(data) - bits - 4 - 4000 * (9 * 6e-5 + 2.2e-5)) <= 4 + 6 * 2.5


def test_codes_written_one_by_one_make_the_same_stream():
    logits, codes, _ = drawn(8, 200, 2.0)
    encoder = Encoder()
    for row in range(200):  # a buffer that doubles with each call is larger than any memory by then
        encoder.codes(logits[row : row + 1], codes[row : row + 1])
    assert encoder.finish() == written(logits, codes)[0]


def test_codes_near_a_rounding_edge_are_sent_plainly_and_read_from_either_side():
    edge = (3 + 0.5) / STEPS  # log-odds halfway between two steps
    logits = np.array([[0.0, edge], [0.0, -edge], [0.0, edge + 3 * TOLERANCE], [0.0, 0.0]])
    data, encoder = written(logits, np.array([1, 0, 1, 0]))
    assert encoder.exceptions == 2, "the third is beyond the guard band, the fourth in the middle of a step"
    assert encoder.exception_bits == 2 * 17
    for shift in (-TOLERANCE, TOLERANCE):
        moved = logits + np.array([-shift, shift])
        assert Decoder([data]).codes(moved, np.zeros(4, np.int64)).tolist() == [1, 0, 1, 0]


def test_a_code_without_mass_can_be_coded_and_costs_its_bits():
    logits = np.full((1, 8), -np.inf)
    logits[0, 3] = 0.0
    data, _ = written(logits, np.array([6]))
    assert Decoder([data]).codes(logits, np.zeros(1, np.int64)).tolist() == [6]
    assert len(data) <= 9  # up to three decisions of 24 bits


def test_integers_and_codes_share_a_stream():
    logits, codes, _ = drawn(5, 40, 1.0)
    encoder = Encoder()
    encoder.bits(0, 0)
    encoder.bits(2**62 - 3, 62)
    encoder.codes(logits[:20], codes[:20])
    encoder.bits(5, 3)
    encoder.codes(logits[20:], codes[20:])
    decoder, zeros = Decoder([encoder.finish()]), np.zeros(20, np.int64)
    assert (decoder.bits(0, 0), decoder.bits(0, 62)) == (0, 2**62 - 3)
    assert decoder.codes(logits[:20], zeros).tolist() == codes[:20].tolist()
    assert decoder.bits(0, 3) == 5
    assert decoder.codes(logits[20:], zeros).tolist() == codes[20:].tolist()


def test_streams_are_read_side_by_side():
    parts = [drawn(9, 50, 2.0, seed) for seed in range(6)]
    decoder = Decoder([written(logits, codes)[0] for logits, codes, _ in parts])
    for place in range(50):
        logits = np.stack([own[place] for own, _, _ in parts])
        assert decoder.codes(logits, np.arange(6)).tolist() == [own[place] for _, own, _ in parts]


def test_every_short_stream_is_read_as_written():
    """Carries, ends and streams of no bytes: all sequences of four codes of three, at three odds."""
    for logits in ([0.0, 0.0, 0.0], [0.0, -9.0, -20.0], [-20.0, 0.0, 20.0]):
        rows = np.tile(logits, (4, 1))
        for number in range(3**4):
            codes = np.array([number // 3**place % 3 for place in range(4)])
            data, _ = written(rows, codes)
            assert not data.endswith(b"\0")
            assert Decoder([data]).codes(rows, np.zeros(4, np.int64)).tolist() == codes.tolist()


def test_damaged_streams_yield_codes_that_exist():
    draws = np.random.default_rng(0)
    logits, _, _ = drawn(5, 200, 3.0)
    for _ in range(30):
        codes = Decoder([draws.bytes(20)]).codes(logits, np.zeros(200, np.int64))
        assert 0 <= codes.min() and codes.max() < 5


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_refused(broken):
    logits = np.zeros((2, 4))
    logits[1, 2] = broken
    with pytest.raises(ValueError, match="expected finite numbers"):
        written(logits, np.array([0, 1]))
    with pytest.raises(ValueError, match="expected finite numbers"):
        Decoder([b"abc"]).codes(logits, np.zeros(2, np.int64))


def test_plain_python_writes_the_same_bytes(monkeypatch):
    """Where numba is missing the same functions run as they are."""
    logits, codes, _ = drawn(7, 60, 2.0)
    data, _ = written(logits, codes)
    for name, function in vars(coder).items():
        if hasattr(function, "py_func"):
            monkeypatch.setattr(coder, name, function.py_func)
    assert written(logits, codes)[0] == data
    assert Decoder([data]).codes(logits, np.zeros(60, np.int64)).tolist() == codes.tolist()


def test_leaves_are_a_power_of_two():
    assert [leaves(k) for k in (1, 2, 3, 512, 513)] == [1, 2, 4, 512, 1024]
    assert math.log2(leaves(2**20)) == 20
