"""How well codes predict phonemes: codes with a known answer."""

import pytest
import torch

from pipelines.metrics.phonemes import frame_labels, phoneme_accuracy

SYMBOLS = ("a", "b", "c", "d")


def clips(number: int, frames: int, seed: int, shares=(0.25,) * 4) -> tuple[torch.Tensor, list[list[str]]]:
    """Phonemes drawn independently with the given shares, as numbers (n, t) and as labels."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(torch.tensor(shares), number * frames, True, generator=generator)
    numbers = drawn.reshape(number, frames)
    return numbers, [[SYMBOLS[phoneme] for phoneme in row] for row in numbers.tolist()]


def test_a_code_has_the_phoneme_at_its_centre():
    intervals = [("a", 0, 100), ("b", 100, 200)]
    assert frame_labels(intervals, 4, 64) == ["a", "a", "b", "_"]  # centres 32, 96, 160, 224
    assert frame_labels([("a", 0, 96), ("b", 96, 97)], 2, 64) == ["a", "b"]  # starts count, ends do not
    assert frame_labels([("a", 0, 95), ("b", 97, 200)], 3, 64, silence="-") == ["a", "-", "b"]
    assert frame_labels([("a", 33, 96)], 2, 64) == ["_", "_"]
    assert frame_labels([("a", 0, 1), ("b", 1, 1), ("c", 1, 3)], 3, 1) == ["a", "c", "c"]  # an empty one has no sample
    assert frame_labels([("a", 0.0, 22.5), ("b", 22.5, 60.0)], 4, 15) == ["a", "a", "b", "b"]  # 7, 22, 37, 52
    assert frame_labels([], 2, 64) == ["_", "_"]


@pytest.mark.parametrize("intervals", [[("a", 0, 50), ("b", 40, 60)], [("a", 50, 60), ("b", 0, 50)], [("a", 5, 3)]])
def test_intervals_follow_one_another(intervals):
    with pytest.raises(ValueError, match="in order and without overlap"):
        frame_labels(intervals, 2, 64)


def test_codes_that_are_the_phonemes_are_always_right():
    numbers, labels = clips(6, 50, 0)
    codes = torch.tensor([3, 0, 7, 5])[numbers]  # whatever the codes are called
    result = phoneme_accuracy(codes, labels, 8)
    true = [symbol for row in labels[1::2] for symbol in row]
    counted = [symbol for row in labels[::2] for symbol in row]
    guess = max(SYMBOLS, key=counted.count)
    assert (result.accuracy, result.normalised, result.frames, result.classes) == (1, 1, 150, 4)
    assert result.baseline == true.count(guess) / 150


def test_random_codes_are_as_good_as_the_guess():
    """Each half has 8,000 frames, about 2,000 per code, of which the most frequent phoneme has about 1,000
    and the next 500, the difference deviating by sqrt(2,000 * (0.75 - 0.25^2)) = 37. A code is mapped to another than
    the most frequent phoneme if 500, 13 deviations, become 0: with a probability of 10^-39. Else it is the guess."""
    numbers, labels = clips(20, 800, 1, shares=(0.25, 0.5, 0.25, 0))
    codes = torch.randint(0, 4, numbers.shape, generator=torch.Generator().manual_seed(2))
    result = phoneme_accuracy(codes, labels, 4)
    # 8,000 frames of a share of 0.5: it deviates by 0.0056; 0.03 is 5 of them, 6e-7 on both sides
    assert result.accuracy == result.baseline == pytest.approx(0.5, abs=0.03) and result.normalised == 0


def test_the_map_is_not_measured_on_what_it_was_counted_on():
    """Every frame has a code of its own: known by heart on the first half, never seen on the second."""
    numbers, labels = clips(10, 40, 3, shares=(0.2, 0.2, 0.5, 0.1))
    result = phoneme_accuracy(torch.arange(400).reshape(10, 40), labels, 400)
    assert result.accuracy == result.baseline and result.normalised == 0


def test_codes_are_worth_what_they_tell():
    labels = [list("aabb"), list("aabb")]
    result = phoneme_accuracy(torch.tensor([[0, 0, 1, 0], [0, 1, 1, 2]]), labels, 3)
    # code 0 is a (2 of 3), 1 is b, 2 unseen and so a, the first of the equally frequent: a b b a against a a b b
    assert result.accuracy == 0.5 and result.baseline == 0.5 and result.normalised == 0
    better = phoneme_accuracy(torch.tensor([[0, 0, 1, 0], [0, 0, 1, 2]]), labels, 3)
    assert better.accuracy == 0.75 and better.normalised == 0.5


def test_silence_and_padding_count_for_nothing():
    numbers, labels = clips(4, 30, 4)
    expected = phoneme_accuracy(numbers, labels, 4)
    codes = torch.cat([torch.zeros(4, 10, dtype=torch.int64), numbers, torch.full((4, 5), 999)], 1)  # and padding
    assert phoneme_accuracy(codes, [["_"] * 10 + row for row in labels], 4) == expected
    assert phoneme_accuracy(codes, [["-"] * 10 + row for row in labels], 4, silence="-") == expected
    assert phoneme_accuracy(codes, [["x"] * 10 + row for row in labels], 4) != expected
    shorter = [row[:length] for row, length in zip(labels, (30, 7, 12, 1), strict=True)]
    assert phoneme_accuracy(numbers, shorter, 4).frames == 8


def test_one_phoneme_alone_leaves_nothing_to_know():
    result = phoneme_accuracy(torch.zeros(2, 3, dtype=torch.int64), [["a"] * 3] * 2, 1)
    assert result.accuracy == result.baseline == 1 and result.normalised != result.normalised


@pytest.mark.parametrize(("codes", "labels", "message"), [
    (torch.zeros(2, 3), [["a"] * 3], "labels: expected 2 clips of up to 3 codes"),
    (torch.zeros(2, 3), [["a"] * 3, ["a"] * 4], "labels: expected 2 clips of up to 3 codes"),
    (torch.full((2, 3), 5), [["a"] * 3] * 2, "codes: expected 0 to 4, found 5"),
    (torch.full((2, 3), -1), [["a"] * 3] * 2, "codes: expected 0 to 4, found -1"),
    (torch.zeros(2, 3), [["a"] * 3, ["_"] * 3], "found none in half 2"),
    (torch.zeros(1, 3), [["a"] * 3], "found none in half 2"),
])
def test_what_does_not_fit_is_refused(codes, labels, message):
    with pytest.raises(ValueError, match=message):
        phoneme_accuracy(codes.long(), labels, 5)
