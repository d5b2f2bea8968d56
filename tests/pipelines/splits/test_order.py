"""Order and noise are functions of counters."""

import numpy as np

from pipelines.splits.noise import step_seed
from pipelines.splits.order import epoch_order, step_items


def test_every_item_comes_once_an_epoch_and_batches_leave_no_gap():
    indices, epochs = map(np.concatenate, zip(*(step_items(3, step, 4, 10) for step in range(1, 11))))
    assert len(indices) == 40
    for epoch in range(4):
        assert sorted(indices[epochs == epoch]) == list(range(10))
    assert (np.diff(epochs) >= 0).all()


def test_a_batch_larger_than_an_epoch():
    indices, epochs = step_items(0, 1, 25, 10)
    assert sorted(indices[:10]) == list(range(10)) and sorted(indices[10:20]) == list(range(10))
    assert epochs.tolist() == [0] * 10 + [1] * 10 + [2] * 5


def test_order_depends_on_seed_and_epoch_only():
    assert (epoch_order(1, 2, 100) == epoch_order(1, 2, 100)).all()
    assert (epoch_order(1, 2, 100) != epoch_order(1, 3, 100)).any()
    assert (epoch_order(1, 2, 100) != epoch_order(2, 2, 100)).any()


def test_step_seeds_differ():
    seeds = {step_seed(seed, step) for seed in range(20) for step in range(50)}
    assert len(seeds) == 1000 and all(0 <= seed < 2**63 for seed in seeds)
