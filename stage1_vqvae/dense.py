"""One latent vector per example: any encoder and decoder, with a linear layer between grid and vector.

The vector is a grid of one position, so every bottleneck fits: (b, dim, 1, 1) for images.
Example: features 64 on a grid of 7x7, dim 2: (b, 1, 28, 28) -> (b, 64, 7, 7) -> (b, 2, 1, 1), and back.
"""

import math

import torch
from torch import Tensor, nn


class DenseEncoder(nn.Module):
    """x -> encoder -> (b, features, *grid) -> (b, dim, 1, ..); ValueError where encoder gives another grid."""

    def __init__(self, encoder: nn.Module, features: int, grid: list[int], dim: int):
        super().__init__()
        self.encoder = encoder
        self.shape = (features, *grid)
        self.linear = _linear(math.prod(self.shape), dim)

    def forward(self, x: Tensor) -> Tensor:
        found = self.encoder(x)
        if found.shape[1:] != self.shape:
            raise ValueError(f"expected features and grid {self.shape} of the encoder, found {tuple(found.shape[1:])}")
        return self.linear(found.flatten(1)).view(len(x), -1, *[1] * len(self.shape[1:]))


class DenseDecoder(nn.Module):
    """z_q (b, dim, 1, ..) -> (b, features, *grid) -> decoder."""

    def __init__(self, decoder: nn.Module, features: int, grid: list[int], dim: int):
        super().__init__()
        self.decoder = decoder
        self.shape = (features, *grid)
        self.linear = _linear(dim, math.prod(self.shape))

    def forward(self, z_q: Tensor) -> Tensor:
        return self.decoder(self.linear(z_q.flatten(1)).unflatten(1, self.shape))


@torch.no_grad()
def _linear(inputs: int, outputs: int) -> nn.Linear:
    """Keeps the variance of its input; the bias starts at zero."""
    layer = nn.Linear(inputs, outputs)
    layer.weight.normal_(std=1 / math.sqrt(inputs))
    layer.bias.zero_()
    return layer
