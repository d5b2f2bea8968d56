"""The logit-Laplace distribution of the dVAE (Ramesh et al., "Zero-Shot Text-to-Image Generation", arXiv 2102.12092,
appendix A.3).

Axes: b batch, c channels, *grid height and width.
"""

import math

import torch
from torch import Tensor

from stage1_vqvae.likelihoods.base import LEVELS
from stage1_vqvae.likelihoods.binned import Binned

EPSILON = 0.1


class LogitLaplace(Binned):
    """Values are mapped to y = 0.8 x / 255 + 0.1, within (0.1, 0.9), and logit(y) is Laplace: location, log scale.

    The paper minimises -log of the density of y, which is unbounded as scales shrink and is no code length. Here both
    training and evaluation use the mass, the integral of the density over the bin of each level. Where a scale spans
    several bins it is the density times the bin width of 0.8 / 255, so gradients agree. The encoder reads y, as in the
    paper.
    """

    def to_network(self, x: Tensor) -> Tensor:
        return (1 - 2 * EPSILON) * (super().to_network(x) + 0.5) + EPSILON

    def coordinate(self, x: Tensor) -> Tensor:
        return torch.logit((1 - 2 * EPSILON) / (LEVELS - 1) * x + EPSILON)

    def cdf(self, t: Tensor) -> Tensor:
        return 0.5 - 0.5 * t.sign() * torch.expm1(-t.abs())

    def log_interval(self, a: Tensor, b: Tensor, width: Tensor) -> Tensor:
        """Mirrored, so that the middle of the interval is not above 0. The interval then lies below 0, with mass
        e^b (1 - e^(a - b)) / 2, or contains 0, with mass ((1 - e^a) + (1 - e^-b)) / 2: nothing cancels."""
        mirrored = a + b > 0
        a, b = torch.where(mirrored, -b, a), torch.where(mirrored, -a, b)
        below = b + torch.log(-torch.expm1(-width))
        about = torch.log(-torch.expm1(a) - torch.expm1(-b.clamp(min=0)))  # unclamped it overflows where unused
        return torch.where(b <= 0, below, about) - math.log(2)
