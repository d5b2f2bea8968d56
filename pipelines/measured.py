"""What evaluation finds out about every item of a split with stage 1 alone."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Measured:
    """Over a whole split of n items, on the CPU."""

    nll_nats: Tensor  # (n,) float64, -log p(x | z_q)
    rate_nats: Tensor  # (n,) float64, under the prior of training
    codes: Tensor  # (n, t, g) int64, t positions of a grid in raster order
    real: Tensor  # (n, t) bool: which positions are no padding
    reconstructions: Tensor  # (n, *shape) in data units
    sizes: Tensor  # (n,) int64: data dimensions of each item, padding apart
