"""The order of weights in memory: channels innermost where that is faster, the values as they were."""

import copy

import torch
from torch import nn

from pipelines.training.layout import channels_last


def test_kernels_of_images_and_video_have_their_channels_last():
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Conv1d(4, 3, 3), nn.Conv2d(4, 3, 3), nn.Conv3d(4, 3, 3), nn.ConvTranspose3d(4, 3, 3)])
    before = copy.deepcopy(model.state_dict())
    channels_last(model)
    formats = [None, torch.channels_last, torch.channels_last_3d, torch.channels_last_3d]
    for module, memory_format in zip(model, formats, strict=True):
        assert module.weight.is_contiguous() == (memory_format is None)
        assert memory_format is None or module.weight.is_contiguous(memory_format=memory_format)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
