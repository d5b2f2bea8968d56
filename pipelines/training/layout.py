"""The order of a model's weights in memory: that which its convolutions are fastest in."""

import torch
from torch import nn

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the axes of a kernel


def channels_last(model: nn.Module) -> None:
    """Kernels of convolutions with the channels innermost, in place; the values stay.

    In two dimensions that is twice as fast with bfloat16, on CPUs too. In three a step of the video autoencoder takes
    0.64 s instead of 1.82 s with bfloat16, 0.87 s instead of 2.32 s with float32 (4 clips of 16 frames of 32x32, 64
    units, two CPU cores)."""
    for parameter in model.parameters():
        if parameter.ndim in FORMATS:
            parameter.data = parameter.data.to(memory_format=FORMATS[parameter.ndim])
