"""Shifts from frame to frame, on images that were shifted by a known number of columns."""

import pytest
import torch

from pipelines.data.room import Room
from pipelines.metrics.motion import horizontal_shifts


@pytest.mark.parametrize("shift", [-7, -3, -1, 0, 1, 4, 8])
def test_a_shift_is_found_under_noise_with_new_columns_coming_in(shift):
    torch.manual_seed(0)
    wide = torch.rand(6, 3, 5, 40)
    noise = 0.2 * torch.rand(2, 6, 3, 5, 17)
    before, after = wide[..., 12:29], wide[..., 12 - shift : 29 - shift]
    found = horizontal_shifts(*((255 * (x + own) / 1.2).to(torch.uint8) for x, own in zip((before, after), noise)))
    assert found.tolist() == [shift] * 6  # to the right is positive


def test_flat_pictures_have_not_moved():
    flat = torch.full((2, 3, 4, 10), 100, dtype=torch.uint8)
    busy = torch.randint(0, 256, (2, 3, 4, 10), dtype=torch.uint8)
    assert horizontal_shifts(flat, flat).tolist() == horizontal_shifts(flat, busy).tolist() == [0, 0]


def test_among_shifts_that_fit_equally_the_smallest_counts():
    stripes = torch.tensor([0, 200]).repeat(6).to(torch.uint8).expand(1, 1, 3, 12)
    assert horizontal_shifts(stripes, stripes).tolist() == [0]
    assert abs(horizontal_shifts(stripes, 200 - stripes).item()) == 1


def test_turning_right_in_the_room_moves_the_picture_to_the_left():
    """By a quarter of a width, exactly; walking ahead moves it to no side on average."""
    data = Room(episodes=8, frames=40, size=32, clip_length=20, validation_fraction=0.5)
    batch = data.split("train").batch(torch.arange(8))
    frames, actions = batch.x.movedim(2, 1), batch.actions
    found = horizontal_shifts(frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1)).reshape(8, 19).double()
    mean = {name: found[actions[:, 1:] == number] for number, name in enumerate(data.action_names)}
    # Room is drawn from its seed: here all 99 turns are found, and walking ahead shifts by -0.4 on average. Flat walls,
    # or stripes one shift apart, may deceive a few of them in a room that is drawn in another way.
    assert len(mean["right"]) + len(mean["left"]) > 90
    assert (mean["right"] == -8).double().mean() > 0.9 and (mean["left"] == 8).double().mean() > 0.9
    assert mean["forward"].mean().abs() < 1  # an eighth of a turn
