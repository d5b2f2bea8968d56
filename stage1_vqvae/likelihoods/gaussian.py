"""A Gaussian with one standard deviation for all values, integrated over each level.

Axes: b batch, c channels, *grid height and width.
"""

import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from stage1_vqvae.collectives import learn_from_sum, rank_and_world
from stage1_vqvae.likelihoods.base import LEVELS, Likelihood, each_level


class Gaussian(Likelihood):
    """The decoder gives the mean; one standard deviation for all values.

    With sigma="training_mse" training minimises squared error / `variance`, both in data units: if `variance` is
    that of all training pixels and channels, then per data dimension this is the normalised squared error of Sonnet's
    example. sigma^2 is then the training error itself (the maximum-likelihood estimate), a moving average over training
    batches. With sigma="learned" it is a parameter, and training minimises -log of the density, in nats.

    The mass of a level is the Gaussian's over [x - 1/2, x + 1/2]; levels 0 and 255 take the tails.
    """

    params_per_value = 1
    mse_average: Tensor  # (), as long as sigma is not learned
    mse_weight: Tensor  # ()

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
            # The average and its weight both start at 0: their quotient has no bias towards the start.
            self.register_buffer("mse_average", torch.tensor(0.0))
            self.register_buffer("mse_weight", torch.tensor(0.0))

    def expectation(self, params: Tensor) -> Tensor:
        return (self._precise(params) + 0.5) * (LEVELS - 1)

    def sigma_squared(self) -> Tensor:
        """() float64, in data units; at least 1e-4, where the mass of a level is 1 in any case."""
        if self.learned:
            value = (2 * self.log_sigma.double()).exp()
        else:
            average, weight = self.mse_average.double(), self.mse_weight.double()
            value = torch.where(weight > 0, average / weight, self.variance)
        return value.clamp(min=1e-4)

    def objective(self, params: Tensor, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if lengths is not None:
            raise ValueError("likelihood: expected MuLaw for items with lengths, found Gaussian")
        squared_error = (self.expectation(params) - x).square().flatten(1).sum(1)
        dimensions = x[0].numel()
        if self.learned:
            log_sigma = self.log_sigma.clamp(min=math.log(1e-2))
            constant = dimensions * (log_sigma + math.log(2 * math.pi) / 2)
            return squared_error / (2 * (2 * log_sigma).exp()) + constant
        if self.training:
            world = rank_and_world()[1]

            def learn(total: Tensor) -> None:
                self.mse_average.lerp_(total / world, 1 - self.decay)
                self.mse_weight.lerp_(torch.ones_like(total), 1 - self.decay)

            learn_from_sum(squared_error.detach().mean() / dimensions, learn)
        return squared_error / self.variance

    def value_nats(self, params: Tensor, x: Tensor) -> Tensor:
        return -self.log_mass(self.expectation(params.double()), x)

    def log_mass(self, mean: Tensor, x: Tensor) -> Tensor:
        """log p of each level x (float64, elementwise), accurate in the far tails.

        Both edges are mirrored to the side on which the normal distribution function is small, where
        log(F(b) - F(a)) = log F(b) + log(1 - exp(log F(a) - log F(b))) loses no precision.
        """
        distance, sigma = x.double() - mean.double(), self.sigma_squared().sqrt()
        lower = torch.where(x == 0, -math.inf, (distance - 0.5) / sigma)
        upper = torch.where(x == LEVELS - 1, math.inf, (distance + 0.5) / sigma)
        mirrored = lower + upper > 0
        a = torch.special.log_ndtr(torch.where(mirrored, -upper, lower))
        b = torch.special.log_ndtr(torch.where(mirrored, -lower, upper))
        return b + torch.log(-torch.expm1(a - b))

    def level_logits(self, params: Tensor) -> Tensor:
        return each_level(partial(self.log_mass, self.expectation(params.double())), params.shape, params.device)

    def mean(self, params: Tensor) -> Tensor:
        return self.expectation(params).round().clamp(0, LEVELS - 1).to(torch.uint8)
