"""An encoder and its decoder in one file: each patch of an image is mapped to a vector by a linear layer, and back."""

from torch import Tensor, nn


class PatchEncoder(nn.Module):
    """(b, in_channels, h, w) -> (b, dim, h / size, w / size)."""

    def __init__(self, in_channels: int, dim: int, size: int):
        super().__init__()
        self.size = size
        self.linear = nn.Conv2d(in_channels, dim, size, size)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] % self.size or x.shape[3] % self.size:
            raise ValueError(f"expected height and width divisible by {self.size}, found {tuple(x.shape[2:])}")
        return self.linear(x)


class PatchDecoder(nn.Module):
    """(b, dim, h / size, w / size) -> (b, out_channels, h, w)."""

    def __init__(self, out_channels: int, dim: int, size: int):
        super().__init__()
        self.linear = nn.ConvTranspose2d(dim, out_channels, size, size)

    def forward(self, z_q: Tensor) -> Tensor:
        return self.linear(z_q)
