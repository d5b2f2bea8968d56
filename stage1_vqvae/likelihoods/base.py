"""The interface of all likelihoods: scaling to and from network units, exact probabilities of the 256 levels.

Images are uint8, in network units x / 255 - 0.5, in [-0.5, 0.5].
Axes: b batch, c channels, *grid height and width, or samples.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

LEVELS = 256


class Likelihood(nn.Module, ABC):
    """p(x | decoder output). `params_per_value` decoder channels describe each channel of the data."""

    params_per_value: int
    num_levels: int = LEVELS
    exact: bool = True  # the levels are the data themselves: from_levels(levels(x)) is x
    scale: Tensor  # ()

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(1.0 / (LEVELS - 1)), persistent=False)  # carries the module's dtype

    def to_network(self, x: Tensor) -> Tensor:
        """Data (b, c, *grid), images: uint8 -> network units, in the module's floating type."""
        if x.dtype != torch.uint8:
            raise ValueError(f"expected images of type torch.uint8, found {x.dtype}")
        return x.to(self.scale.dtype) * self.scale - 0.5

    def levels(self, x: Tensor) -> Tensor:
        """Data (b, c, *grid) -> their levels int64, which an autoregressive decoder reads and draws."""
        return x.long()

    def from_levels(self, levels: Tensor) -> Tensor:
        """Levels (b, c, *grid) int64 -> data."""
        return levels.to(torch.uint8)

    def _precise(self, params: Tensor) -> Tensor:
        """In at least the module's precision: what autocast lowered is raised again."""
        return params.to(torch.promote_types(params.dtype, self.scale.dtype))

    @abstractmethod
    def objective(self, params: Tensor, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Decoder output (b, c * params_per_value, *grid), data (b, c, *grid) -> (b,), the training loss.

        lengths (b,) int64: how much of the first grid axis is data, for padded audio."""

    @abstractmethod
    def value_nats(self, params: Tensor, x: Tensor) -> Tensor:
        """-> (b, c, *grid) float64: exact -log p of each value's level, a probability mass over the levels."""

    def nll_nats(self, params: Tensor, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """-> (b,) float64: exact -log p(x) of the whole example, without padding."""
        return self.counted(self.value_nats(params, x), lengths)

    @abstractmethod
    def mean(self, params: Tensor) -> Tensor:
        """-> (b, c, *grid) in data units: the mean; for images rounded."""

    def expectation(self, params: Tensor) -> Tensor:
        """-> (b, c, *grid) the mean in data units, not rounded: the mean itself where that is not rounded."""
        return self.mean(params)

    @abstractmethod
    def level_logits(self, params: Tensor) -> Tensor:
        """-> (b, c, *grid, k) float64: log p of each level of each value, up to a constant, each value for itself.

        params may be a part of the grid."""

    @staticmethod
    def counted(values: Tensor, lengths: Tensor | None) -> Tensor:
        """Values (b, c, *grid) -> their sums (b,), padding excluded."""
        if lengths is not None:
            counts = torch.arange(values.shape[2], device=values.device) < lengths[:, None]
            values = values * counts.view(len(values), 1, -1, *[1] * (values.ndim - 3))
        return values.flatten(1).sum(1)


class ExactMass(Likelihood):
    """Training minimises the reported quantity, the exact -log mass in nats; reports are in float64."""

    @abstractmethod
    def log_mass(self, params: Tensor, x: Tensor) -> Tensor:
        """Params (b, c * params_per_value, *grid), uint8 x (b, c, *grid) -> log p (b, c, *grid), of params' dtype."""

    @abstractmethod
    def expectation(self, params: Tensor) -> Tensor:
        """-> (b, c, *grid): the mean level under this distribution, not rounded."""

    def objective(self, params: Tensor, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.counted(-self.log_mass(self._precise(params), x), lengths)

    def value_nats(self, params: Tensor, x: Tensor) -> Tensor:
        return -self.log_mass(params.double(), x)

    def mean(self, params: Tensor) -> Tensor:
        return self.expectation(self._precise(params)).round().to(torch.uint8)

    def level_logits(self, params: Tensor) -> Tensor:
        shape = (len(params), params.shape[1] // self.params_per_value, *params.shape[2:])
        return each_level(partial(self.log_mass, params.double()), shape, params.device)


def each_level(log_mass: Callable[[Tensor], Tensor], shape: Sequence[int], device: torch.device) -> Tensor:
    """log_mass (*shape) of uint8 levels (*shape) -> that of all levels, (*shape, 256)."""
    levels = torch.arange(LEVELS, dtype=torch.uint8, device=device)
    return torch.stack([log_mass(level.expand(tuple(shape))) for level in levels], -1)
