"""The order of a model's weights in memory: that which its convolutions are fastest in."""

import torch
from torch import nn


def channels_last(model: nn.Module) -> None:
    """Kernels of convolutions with the channels innermost, in place: values and bits of the weights stay.

    In two dimensions that is twice as fast with bfloat16, on CPUs too; in three on GPUs."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
        elif parameter.ndim == 5 and parameter.device.type == "cuda":
            parameter.data = parameter.data.to(memory_format=torch.channels_last_3d)
