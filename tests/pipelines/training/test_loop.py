"""The schedule of the rate of learning, and settings that make no sense."""

import math

import pytest

from pipelines.files.errors import InputError
from pipelines.training import distributed
from pipelines.training.loop import check_batches, learning_rate
from pipelines.training.settings import Settings


def rates(**settings):
    own = Settings(steps=100, lr=2.0, **settings)
    return [learning_rate(own, step) for step in range(1, 101)]


def test_it_rises_linearly_then_falls_along_a_cosine():
    found = rates(warmup_steps=10, final_lr_fraction=0.1)
    assert found[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert found[54] == pytest.approx(2.0 * (1 - 0.5 * 0.9))  # half way down at step 55
    assert found[-1] == pytest.approx(0.2)
    assert all(later <= earlier for earlier, later in zip(found[9:], found[10:]))


def test_it_is_held_until_its_last_share():
    found = rates(final_lr_fraction=0.0, decay_share=0.2)
    assert found[:80] == [2.0] * 80
    assert found[89] == pytest.approx(1.0) and found[-1] == pytest.approx(0.0)
    assert found[84] == pytest.approx(2.0 * 0.5 * (1 + math.cos(math.pi / 4)))


def test_it_is_constant_where_it_does_not_fall():
    assert rates(final_lr_fraction=1.0, decay_share=0.5) == [2.0] * 100


def test_a_warm_up_longer_than_the_held_part_is_finished_first():
    found = rates(warmup_steps=60, decay_share=1.0, final_lr_fraction=0.0)
    assert found[59] == 2.0 and found[60] < 2.0 and found[-1] == pytest.approx(0.0)


@pytest.mark.parametrize("name, value", [("steps", 0), ("lr", -1.0), ("lr", math.nan), ("decay_share", 0.0),
                                         ("decay_share", 1.1), ("beta2", 1.0), ("ema_decay", -0.1), ("patience", -1)])
def test_settings_that_make_no_sense_are_named(name, value):
    with pytest.raises(InputError, match=f"^{name}: expected"):
        Settings(**{name: value})


def test_a_rank_without_anything_to_validate_is_refused_before_the_first_step(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    check_batches(17, 8)
    with pytest.raises(InputError, match="^validation: expected at least one batch for each of 3 processes, found 2"):
        check_batches(16, 8)
