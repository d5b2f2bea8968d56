"""Likelihoods: scaling to and from the network's units, and exact probabilities of the data's 256 levels.

Images are uint8, in network units x / 255 - 0.5, in [-0.5, 0.5]. Sound is a float wave in [-1, 1], described by its
mu-law symbol; its network units are those of the compressed wave, in [-1, 1].
Axes: b batch, c channels, *grid height and width, or samples, k levels.
"""

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stage1_vqvae.collectives import all_sum, rank_and_world

LEVELS = 256


class Likelihood(nn.Module, ABC):
    """p(x | decoder output). `params_per_value` decoder channels describe each channel of the data."""

    params_per_value: int

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor(1.0 / (LEVELS - 1)), persistent=False)  # carries the module's dtype

    def to_network(self, x: Tensor) -> Tensor:
        """Data (b, c, *grid), images: uint8 -> network units, in the module's floating type."""
        if x.dtype != torch.uint8:
            raise ValueError(f"expected images of type torch.uint8, found {x.dtype}")
        return x.to(self.scale.dtype) * self.scale - 0.5

    def levels(self, x: Tensor) -> Tensor:
        """Data (b, c, *grid) -> their levels int64, what an autoregressive decoder reads and draws."""
        return x.long()

    def from_levels(self, levels: Tensor) -> Tensor:
        """Levels (b, c, *grid) int64 -> data."""
        return levels.to(torch.uint8)

    def _precise(self, params: Tensor) -> Tensor:
        """Never below the module's type: what autocast lowered is raised again."""
        return params.to(torch.promote_types(params.dtype, self.scale.dtype))

    @abstractmethod
    def objective(self, params: Tensor, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Decoder output (b, c * params_per_value, *grid), data (b, c, *grid) -> (b,), what training minimises.

        lengths (b,) int64: how much of the first grid axis counts, of sound that is padded."""

    @abstractmethod
    def nll_nats(self, params: Tensor, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """-> (b,) float64: exact -log p(x) of the whole example, a probability mass over the 256 levels."""

    @abstractmethod
    def mean(self, params: Tensor) -> Tensor:
        """-> (b, c, *grid) in data units: the mean, of images rounded."""

    @staticmethod
    def _counted(values: Tensor, lengths: Tensor | None) -> Tensor:
        """Values (b, c, *grid) -> their sums (b,) over what counts."""
        if lengths is not None:
            counts = torch.arange(values.shape[2], device=values.device) < lengths[:, None]
            values = values * counts.view(len(values), 1, -1, *[1] * (values.ndim - 3))
        return values.flatten(1).sum(1)


class Gaussian(Likelihood):
    """The decoder gives the mean; one standard deviation for all values.

    With sigma="training_mse" training minimises squared error / `variance`, both in data units: where `variance` is
    that of all training pixels and channels, and after division by the data's dimensions, this is the normalised
    squared error of Sonnet's example. sigma^2 is then the training error itself (the maximum-likelihood estimate), a
    moving average over training batches. With sigma="learned" it is a parameter and training minimises the density's
    -log in nats.

    The mass of a level is the Gaussian's over [x - 1/2, x + 1/2]; levels 0 and 255 take the tails.
    """

    params_per_value = 1

    def __init__(
        self, variance: float, sigma: Literal["training_mse", "learned"] = "training_mse", decay: float = 0.99
    ):
        super().__init__()
        if not variance > 0:
            raise ValueError(f"expected a variance of the training data above 0, found {variance}")
        if sigma not in ("training_mse", "learned"):
            raise ValueError(f"expected sigma=training_mse or sigma=learned, found {sigma}")
        self.variance = float(variance)
        self.decay = decay
        self.learned = sigma == "learned"
        if self.learned:
            self.log_sigma = nn.Parameter(torch.tensor(math.log(variance) / 2))
        else:
            # The average and its weight both start at 0: their quotient is free of the start's bias at once.
            self.register_buffer("mse_average", torch.tensor(0.0))
            self.register_buffer("mse_weight", torch.tensor(0.0))

    def _mean(self, params: Tensor) -> Tensor:
        """The mean in data units, not rounded."""
        return (self._precise(params) + 0.5) * (LEVELS - 1)

    def sigma_squared(self) -> Tensor:
        """() float64, in data units; never below 1e-4, where a level's mass would be 1 in any case."""
        if self.learned:
            value = (2 * self.log_sigma.double()).exp()
        else:
            average, weight = self.mse_average.double(), self.mse_weight.double()
            value = torch.where(weight > 0, average / weight, self.variance)
        return value.clamp(min=1e-4)

    def objective(self, params: Tensor, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if lengths is not None:
            raise ValueError("likelihood: expected MuLaw for items with lengths, found Gaussian")
        squared_error = (self._mean(params) - x).square().flatten(1).sum(1)
        dimensions = x[0].numel()
        if self.learned:
            log_sigma = self.log_sigma.clamp(min=math.log(1e-2))
            constant = dimensions * (log_sigma + math.log(2 * math.pi) / 2)
            return squared_error / (2 * (2 * log_sigma).exp()) + constant
        if self.training:
            mse = all_sum(squared_error.detach().mean() / dimensions) / rank_and_world()[1]
            self.mse_average.lerp_(mse, 1 - self.decay)
            self.mse_weight.lerp_(torch.ones_like(mse), 1 - self.decay)
        return squared_error / self.variance

    def nll_nats(self, params: Tensor, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self._counted(-self.log_mass(self._mean(params.double()), x), lengths)

    def log_mass(self, mean: Tensor, x: Tensor) -> Tensor:
        """log p of each level x (float64, elementwise), accurate in the far tails.

        Both edges are mirrored to the side on which their normal distribution functions are small, where
        log(F(b) - F(a)) = log F(b) + log(1 - exp(log F(a) - log F(b))) loses nothing.
        """
        distance, sigma = x.double() - mean.double(), self.sigma_squared().sqrt()
        lower = torch.where(x == 0, -math.inf, (distance - 0.5) / sigma)
        upper = torch.where(x == LEVELS - 1, math.inf, (distance + 0.5) / sigma)
        mirrored = lower + upper > 0
        a = torch.special.log_ndtr(torch.where(mirrored, -upper, lower))
        b = torch.special.log_ndtr(torch.where(mirrored, -lower, upper))
        return b + torch.log(-torch.expm1(a - b))

    def mean(self, params: Tensor) -> Tensor:
        return self._mean(params).round().clamp(0, LEVELS - 1).to(torch.uint8)


class Categorical(Likelihood):
    """A softmax over the 256 levels of every value: decoder channels (c k), k fastest."""

    params_per_value = LEVELS

    def _nll(self, params: Tensor, x: Tensor) -> Tensor:
        """-> (b, c, *grid), never below float32. In channels-last memory the logits of a value lie side by side: read as
        rows they are neither copied nor strided, five times faster than over the second axis."""
        params, levels = self._precise(params), self.levels(x)
        if params.stride(1) == 1:
            logits = rearrange(params, "b (c k) ... -> (b ... c) k", k=LEVELS)
            nll = F.cross_entropy(logits, rearrange(levels, "b c ... -> (b ... c)"), reduction="none")
            return nll.view(len(x), *x.shape[2:], x.shape[1]).movedim(-1, 1)
        logits = rearrange(params, "b (c k) ... -> b k c ...", k=LEVELS)
        return F.cross_entropy(logits, levels, reduction="none")

    def objective(self, params: Tensor, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self._counted(self._nll(params, x), lengths)

    def nll_nats(self, params: Tensor, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self._counted(self._nll(params, x).double(), lengths)

    def mean(self, params: Tensor) -> Tensor:
        return self._expected(params, torch.arange(LEVELS, device=params.device)).round().to(torch.uint8)

    def _expected(self, params: Tensor, values: Tensor) -> Tensor:
        """(b, c, *grid): the mean of `values` (k,), one for each level."""
        p = rearrange(self._precise(params), "b (c k) ... -> b c ... k", k=LEVELS).softmax(-1)
        return (p * values.to(p.dtype)).sum(-1)


class MuLaw(Categorical):
    """Sound in [-1, 1] as one of 256 mu-law symbols (ITU-T G.711's curve, torchaudio's rounding), each with its logit.

    The mass is that of the symbols: figures are bits a symbol. Symbol 128 is silence, 0 and 255 are -1 and 1.
    """

    MU = LEVELS - 1

    def to_network(self, x: Tensor) -> Tensor:
        """Waves (b, c, t) -> the compressed waves: sign(x) log(1 + 255 |x|) / log(256)."""
        if not x.is_floating_point():
            raise ValueError(f"expected waves of floating type in [-1, 1], found {x.dtype}")
        return self._compressed(x.to(self.scale.dtype))

    def levels(self, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        return ((self._compressed(wide) + 1) / 2 * self.MU + 0.5).long().clamp(0, self.MU)

    def from_levels(self, levels: Tensor) -> Tensor:
        return expand(levels.to(self.scale.dtype) / self.MU * 2 - 1)

    def mean(self, params: Tensor) -> Tensor:
        return self._expected(params, self.from_levels(torch.arange(LEVELS, device=params.device)))

    def _compressed(self, x: Tensor) -> Tensor:
        return x.sign() * torch.log1p(self.MU * x.abs()) / math.log1p(self.MU)


def expand(compressed: Tensor) -> Tensor:
    """The wave of a mu-law compressed wave: sign(y) ((256^|y|) - 1) / 255."""
    return compressed.sign() * torch.expm1(compressed.abs() * math.log(LEVELS)) / (LEVELS - 1)
