"""How the gated networks start: every layer keeps the variance of what it reads."""

import math

import torch
from torch import nn

# For a, b ~ N(0, 1): Var[tanh(a) sigmoid(b)] = E[tanh(a)^2] E[sigmoid(b)^2] = 0.394 * 0.293 = 1 / 8.66. A product that
# reads gated features and has this gain therefore yields unit variance again, however deep the stack.
GATE_GAIN = math.sqrt(8.66)


@torch.no_grad()
def initialise(module: nn.Conv2d | nn.Conv3d | nn.Linear, gain: float) -> None:
    """Normal weights that turn inputs of unit variance into outputs of variance gain^2; bias 0."""
    nn.init.normal_(module.weight, std=gain / math.sqrt(module.weight[0].numel()))
    if module.bias is not None:
        nn.init.zeros_(module.bias)
