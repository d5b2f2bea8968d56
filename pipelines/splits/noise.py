"""All random numbers of the pipelines, but for those that counters give.

Samples have a generator each, a function of the seed and the sample's number. Training, initial weights and dropout
draw from torch's global generator, which is seeded anew at each step: nothing depends on what was drawn before.
"""

import numpy as np
import torch
from torch import Tensor

from pipelines.splits.order import STEP_STREAM
from pipelines.splits.seeds import check_seed


def generator(seed: int, number: int) -> np.random.Generator:
    """The generator of the sample, or file, with this number. Raises InputError for a seed out of range."""
    check_seed("seed", seed)
    return np.random.Generator(np.random.Philox(key=[seed, number]))


def draws(generators: list[np.random.Generator], *shape: int) -> Tensor:
    """The next random numbers of each generator: float64 (n, *shape)."""
    return torch.stack([torch.from_numpy(own.random(shape)) for own in generators])


def seed_weights(seed: int) -> None:
    """Before a model is made: its initial weights are a function of `seed`."""
    torch.manual_seed(seed)


def seed_step(seed: int, step: int) -> None:
    """Before a training step, or step 0, what precedes the first: its random numbers are a function of (seed, step)."""
    torch.manual_seed(step_seed(seed, step))


def step_seed(seed: int, step: int) -> int:
    """The seed of torch's global generator for one training step: a 63-bit mix of both numbers."""
    return int(np.random.SeedSequence([STEP_STREAM, seed, step]).generate_state(1, np.uint64)[0] >> 1)


def step_permutation(count: int) -> Tensor:
    """A permutation of range(count), int64, from the present step's random numbers."""
    return torch.randperm(count)


def step_integers(limit: int, *shape: int) -> Tensor:
    """Integers int64 in [0, limit) from the present step's random numbers."""
    return torch.randint(0, limit, shape)


def step_uniforms(*shape: int) -> Tensor:
    """float32 in [0, 1) from the present step's random numbers."""
    return torch.rand(*shape)


def step_uniforms_between(low: float, high: float, *shape: int) -> Tensor:
    """float32 in [low, high) from the present step's random numbers."""
    return torch.empty(shape).uniform_(low, high)


def step_normals(*shape: int, device: torch.device | str = "cpu") -> Tensor:
    """float32 from N(0, 1) from the present step's random numbers, of the device's own generator."""
    return torch.randn(*shape, device=device)
