"""Random numbers of samples: one generator per sample, a function of the seed and the number of the sample."""

import numpy as np
import torch
from torch import Tensor


def generator(seed: int, number: int) -> np.random.Generator:
    """The generator of the sample, or file, with this number."""
    return np.random.Generator(np.random.Philox(key=[seed, number]))


def draws(generators: list[np.random.Generator], *shape: int) -> Tensor:
    """The next random numbers of each generator: float64 (n, *shape)."""
    return torch.stack([torch.from_numpy(own.random(shape)) for own in generators])
