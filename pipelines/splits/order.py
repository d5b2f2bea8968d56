"""The examples and random numbers of each training step: functions of counters, never of history.

A killed run therefore needs no stored random state: seed and step determine everything.

    order of the data    f(seed, epoch)
    noise of a step      f(seed, step), drawn for the global batch, each rank taking its rows
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

ORDER_STREAM, STEP_STREAM = 1, 2  # keeps the random numbers of the two uses apart


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, num_items: int) -> np.ndarray:
    """The order of the items in epoch `epoch`, a permutation of `range(num_items)`: int64 (num_items,)."""
    return np.random.default_rng([ORDER_STREAM, seed, epoch]).permutation(num_items)


def step_items(seed: int, step: int, batch_size: int, num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and epochs, int64 (batch_size,) each, of the global batch of step `step` (the first step is 1).

    Epochs follow one another without a gap, so that no example is dropped: a batch may end one and begin the next.
    With 10 items, batches of 4 and step 3: positions 8..11, that is epoch 0's last two and epoch 1's first two.
    """
    positions = np.arange((step - 1) * batch_size, step * batch_size, dtype=np.int64)
    epochs, offsets = np.divmod(positions, num_items)
    indices = np.empty_like(positions)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        indices[chosen] = epoch_order(seed, int(epoch), num_items)[offsets[chosen]]
    return indices, epochs


def spread(number: int, total: int) -> Tensor:
    """`number` of `total` items, or all if there are fewer, evenly spaced: int64, ascending."""
    number = min(number, total)
    return torch.arange(number) * total // number
