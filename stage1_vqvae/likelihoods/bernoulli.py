"""The Bernoulli likelihood of grey values, often used for MNIST, normalised to a distribution over the 256 levels.

Axes: b batch, c channels, *grid height and width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_vqvae.likelihoods.base import LEVELS, ExactMass

BITS = 8


class Bernoulli(ExactMass):
    """The decoder gives logits l of p: level k has mass proportional to p^(k/255) (1 - p)^(1 - k/255), or e^(k l/255).

    The usual loss, the cross entropy of x / 255 and p, lacks the normalisation and is no code length (Loaiza-Ganem and
    Cunningham, "The continuous Bernoulli", arXiv 1907.06845, on densities). As 256 = 2^8, the geometric series factors:
    with t = l / 255, the sum over k of e^(k t) is the product over i < 8 of 1 + e^(2^i t). The bits of a level are thus
    independent, bit i with logit 2^i t. At l = 0 the distribution is uniform: mid greys cannot be predicted with
    confidence.
    """

    params_per_value = 1

    def log_mass(self, params: Tensor, x: Tensor) -> Tensor:
        t = params / (LEVELS - 1)
        bits = (F.logsigmoid(torch.where((x >> i) & 1 == 1, t, -t) * 2**i) for i in range(BITS))
        return sum(bits, start=torch.zeros_like(t))

    def expectation(self, params: Tensor) -> Tensor:
        t = params / (LEVELS - 1)
        return sum(2**i * torch.sigmoid(2**i * t) for i in range(BITS))
