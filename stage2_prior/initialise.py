"""Initial weights of the gated networks: every layer preserves the variance of its input."""

import math

import torch
from torch import nn

# For a, b ~ N(0, 1): Var[tanh(a) sigmoid(b)] = E[tanh(a)^2] E[sigmoid(b)^2] = 0.394 * 0.293 = 1 / 8.66. A layer that
# reads gated features and has this gain therefore yields unit variance again, at any depth.
GATE_GAIN = math.sqrt(8.66)


@torch.no_grad()
def initialise(module: nn.Conv2d | nn.Conv3d | nn.Linear, gain: float) -> None:
    """Normal weights that map inputs of unit variance to outputs of variance gain^2; bias 0."""
    nn.init.normal_(module.weight, std=gain / math.sqrt(module.weight[0].numel()))
    if module.bias is not None:
        nn.init.zeros_(module.bias)
