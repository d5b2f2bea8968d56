"""The discretised logistic and mixtures of it (Salimans et al., "PixelCNN++", arXiv 1701.05517, section 2.1).

Axes: b batch, c channels, *grid height and width, n kinds of parameters, j components.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from stage1_vqvae.likelihoods.base import LEVELS
from stage1_vqvae.likelihoods.binned import Binned


class Logistic(Binned):
    """One logistic per value, location and scale in network units."""

    def coordinate(self, x: Tensor) -> Tensor:
        return x / (LEVELS - 1) - 0.5

    def cdf(self, t: Tensor) -> Tensor:
        return torch.sigmoid(t)

    def log_interval(self, a: Tensor, b: Tensor, width: Tensor) -> Tensor:
        return log_interval(a, b, width)


def log_interval(a: Tensor, b: Tensor, width: Tensor) -> Tensor:
    """Of the logistic with location 0 and scale 1, see `Binned.log_interval`:
    F(b) - F(a) = F(b) F(-a) (1 - e^(a - b)), a product, so nothing cancels."""
    return F.logsigmoid(b) + F.logsigmoid(-a) + torch.log(-torch.expm1(-width))


class LogisticMixture(Logistic):
    """`num_components` logistics per value: decoder channels (c n j), n = softmax's logit, location, log scale.

    The channels of a value are independent given the decoder's output: unlike here, PixelCNN++ shares the
    component between red, green and blue, and each channel shifts the location of the next.
    """

    def __init__(self, num_components: int):
        super().__init__()
        if num_components < 1:
            raise ValueError(f"expected at least one component, found num_components={num_components}")
        self.num_components = num_components
        self.params_per_value = 3 * num_components

    def log_mass(self, params: Tensor, x: Tensor) -> Tensor:
        logits, locations, log_scales = self._components(params)
        return torch.logsumexp(logits.log_softmax(0) + self._log_bin(locations, log_scales, x), dim=0)

    def expectation(self, params: Tensor) -> Tensor:
        logits, locations, log_scales = self._components(params)
        return (logits.softmax(0) * self._expected_level(locations, log_scales)).sum(0)

    def _components(self, params: Tensor) -> Tensor:
        """-> (n, j, b, c, *grid)."""
        return rearrange(params, "b (c n j) ... -> n j b c ...", n=3, j=self.num_components)
