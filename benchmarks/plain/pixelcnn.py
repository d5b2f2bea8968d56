"""The gated PixelCNN of most public repositories: arXiv 1606.05328, figure 2, by convolutions with masked kernels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaskedConv2d(nn.Conv2d):
    """Its kernel is multiplied by a mask before each use; `padding` keeps the grid."""

    mask: Tensor

    def __init__(self, channels_in: int, channels_out: int, mask: Tensor) -> None:
        height, width = mask.shape
        super().__init__(channels_in, channels_out, (height, width), padding=(height // 2, width // 2))
        self.register_buffer("mask", mask[None, None])

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


def vertical_mask(n: int, sees_own_row: bool) -> Tensor:
    mask = torch.zeros(n, n)
    mask[: n // 2 + sees_own_row] = 1
    return mask


def horizontal_mask(n: int, sees_itself: bool) -> Tensor:
    mask = torch.zeros(1, n)
    mask[:, : n // 2 + sees_itself] = 1
    return mask


class PlainGatedLayer(nn.Module):
    """(v, h) -> (v, h), each (b, p, height, width). Mask A in the first layer, without a residual connection there."""

    def __init__(self, p: int, n: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.vertical = MaskedConv2d(p, 2 * p, vertical_mask(n, not first))
        self.horizontal = MaskedConv2d(p, 2 * p, horizontal_mask(n, not first))
        self.vertical_to_horizontal = nn.Conv2d(2 * p, 2 * p, 1)
        self.out = nn.Conv2d(p, p, 1)

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        v_features = self.vertical(v)
        f, g = v_features.chunk(2, dim=1)
        v_out = torch.tanh(f) * torch.sigmoid(g)
        h_features = self.horizontal(h) + self.vertical_to_horizontal(v_features)
        f, g = h_features.chunk(2, dim=1)
        update = self.out(torch.tanh(f) * torch.sigmoid(g))
        return v_out, update if self.first else h + update


class PlainGatedPixelCNN(nn.Module):
    """Codes int64 (b, h, w) -> logits (b, K, h, w)."""

    def __init__(self, num_codes: int, channels: int, num_layers: int, head_channels: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_codes, channels)
        self.layers = nn.ModuleList(PlainGatedLayer(channels, 7 if i == 0 else 3, i == 0) for i in range(num_layers))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(channels, head_channels, 1), nn.ReLU(),
                                  nn.Conv2d(head_channels, num_codes, 1))

    def forward(self, codes: Tensor) -> Tensor:
        v = h = self.embedding(codes).permute(0, 3, 1, 2)
        for layer in self.layers:
            v, h = layer(v, h)
        return self.head(h)


def cross_entropy(model: nn.Module, codes: Tensor) -> Tensor:
    return F.cross_entropy(model(codes), codes)
