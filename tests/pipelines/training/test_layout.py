"""The order of weights in memory: channels innermost where that is faster, the values as they were."""

import copy

import torch
from torch import nn

from pipelines.training.layout import channels_last


def network():
    torch.manual_seed(0)
    return nn.ModuleList([nn.Conv1d(4, 3, 3), nn.Conv2d(4, 3, 3), nn.Conv3d(4, 3, 3), nn.ConvTranspose3d(4, 3, 3)])


def test_on_a_cpu_images_have_their_channels_last():
    model = network()
    before = copy.deepcopy(model.state_dict())
    channels_last(model)
    one, two, three, _ = model
    assert two.weight.is_contiguous(memory_format=torch.channels_last) and not two.weight.is_contiguous()
    assert one.weight.is_contiguous() and three.weight.is_contiguous()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_on_a_gpu_video_has_its_too(monkeypatch):
    model = network()

    class OnGPU(nn.Parameter):
        device = torch.device("cuda:0")

    for module in model:
        module.weight = OnGPU(module.weight.data)
    channels_last(model)
    for module in list(model)[2:]:
        assert module.weight.data.is_contiguous(memory_format=torch.channels_last_3d)
        assert not module.weight.data.is_contiguous()
