"""Lengths of clips: the clock that a prior is conditioned on, and lengths of new clips like those of training clips."""

import pytest
import torch

from pipelines.splits.base import Batch, code_lengths, real_codes
from pipelines.splits.lengths import CLOCK_CHANNELS, clock, conditioning, draw_lengths, length_counts

LABELS = torch.tensor([[0, 1], [0, 1], [0, 1], [1, 0]])
LENGTHS = torch.tensor([5, 5, 9, 7])


def test_the_clock_tells_both_ends_and_the_length():
    ticks = clock(torch.tensor([4, 8]), 8)
    assert ticks.shape == (2, CLOCK_CHANNELS, 8)
    share, whole, start, end = ticks.unbind(1)
    assert share[0, :4].tolist() == [0, 0.25, 0.5, 0.75] and whole[:, 0].tolist() == [0.5, 1.0]
    assert bool((start[:, 0] == 1).all()) and end[0, 3] == 1 and end[1, 7] == 1
    assert torch.equal(ticks[0, :, 3:4].expand(-1, 5), ticks[0, :, 3:])  # after the end all is as at the end
    assert not torch.equal(ticks[0, :, :4], ticks[1, :, :4])


def test_conditioning_joins_what_there_is():
    local = torch.randn(2, 3, 8)
    assert conditioning(None, None, 8) is None
    assert conditioning(local, None, 8) is not None and conditioning(local, None, 8).shape == (2, 3, 8)
    both = conditioning(local, torch.tensor([4, 8]), 8)
    assert torch.equal(both[:, :3], local) and torch.equal(both[:, 3:], clock(torch.tensor([4, 8]), 8))


def test_lengths_are_drawn_from_clips_with_the_same_labels_as_often_as_they_occur():
    table = length_counts(LABELS, LENGTHS)
    assert sorted(table) == [[0, 1, 5, 2], [0, 1, 9, 1], [1, 0, 7, 1]]
    draws = (torch.arange(300, dtype=torch.float64) + 0.5) / 300
    drawn = draw_lengths(table, torch.tensor([[0, 1]]).expand(300, 2), draws)
    assert (drawn == 5).sum() == 200 and (drawn == 9).sum() == 100
    assert draw_lengths(table, torch.tensor([[1, 0]]), torch.tensor([0.999])).tolist() == [7]
    # no clip has both labels of [1, 1] or [2, 1]: that of the first decides, else that of the second
    assert draw_lengths(table, torch.tensor([[1, 1]]), torch.tensor([0.1])).tolist() == [7]
    assert draw_lengths(table, torch.tensor([[2, 1]]).expand(300, 2), draws).tolist() == drawn.tolist()


def test_codes_that_stand_for_nothing_are_left_out():
    x = torch.zeros(3, 1, 64)
    batch = Batch(x, torch.zeros(3, 0, dtype=torch.int64), lengths=torch.tensor([64, 17, 16]))
    assert code_lengths(batch, 4).tolist() == [4, 2, 1]  # a code is real if any of its samples is
    assert real_codes(batch, 4).tolist() == [[True] * 4, [True, True, False, False], [True, False, False, False]]
    assert real_codes(batch._replace(lengths=None), 4) is None


def test_lengths_are_of_one_axis():
    audio, images = (Batch(torch.zeros(2, *shape), torch.zeros(2, 0), lengths=torch.tensor([100, 64]))
                     for shape in ((1, 128), (1, 8, 16)))
    assert code_lengths(audio, 4).tolist() == [4, 2]
    with pytest.raises(ValueError, match=r"^lengths: expected items \(channels, positions\), found shape \(1, 8, 16\)"):
        code_lengths(images, 4)
