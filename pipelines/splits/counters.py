"""Random numbers as functions of counters: without a generator or state, the same in any order and any batch.

SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): its finaliser is applied
after each counter has been added to the state, so that neighbouring counters give unrelated 64-bit words.
"""

import numpy as np

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # odd, 2^64 / golden ratio: SplitMix64's increment


def words(*counters: np.ndarray | int) -> np.ndarray:
    """64 random bits (uint64) for each tuple of counters; the counters are integers that broadcast, negative ones too.

    words(seed, epoch, index[:, None], np.arange(3)) -> (len(index), 3)
    """
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for counter in counters:
            state = _finalise(state + GOLDEN_GAMMA * (np.asarray(counter, np.int64).astype(np.uint64) + np.uint64(1)))
    return state


def below(bits: np.ndarray, limit: np.ndarray | int) -> np.ndarray:
    """Integers (int64) uniform in [0, limit) from random words; 0 < limit < 2^31, the bias is below 2^-32 * limit.

    One limit for all words, or one per word."""
    limit = np.asarray(limit)
    assert (limit > 0).all() and (limit < 2**31).all(), limit
    return ((bits >> np.uint64(32)) * limit.astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def permutation(count: int, *counters: int) -> np.ndarray:
    """A permutation (int64) of range(count), a function of the counters."""
    return np.argsort(words(*counters, np.arange(count)), kind="stable")


def _finalise(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
