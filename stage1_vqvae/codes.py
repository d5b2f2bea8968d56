"""Encoder and decoder of codes (b, g, h, w), the second level of a hierarchy: networks of images, fitted to any grid.

Networks of images halve and double the grid, while a grid of codes has any size. Example with two halvings: 21x21 codes
are embedded, padded to 24x24 and encoded to 6x6; decoding gives 24x24, of which the first 21x21 are kept.
Axes: b batch, g codebooks of the first level, c channels, h rows, w columns.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CodeEncoder(nn.Module):
    """Codes int64 (b, in_channels, h, w) -> the sum of their embeddings (b, channels, h, w) -> encoder.

    Rows and columns of zeros are appended up to a multiple of `encoder.stride`.
    """

    def __init__(self, encoder: nn.Module, num_codes: int, in_channels: int, channels: int):
        super().__init__()
        self.encoder = encoder
        self.embeddings = nn.ModuleList(nn.Embedding(num_codes, channels) for _ in range(in_channels))
        for table in self.embeddings:
            nn.init.normal_(table.get_parameter("weight"), std=in_channels**-0.5)  # the sum has unit variance

    def forward(self, x: Tensor) -> Tensor:
        embedded = sum(table(codes) for table, codes in zip(self.embeddings, x.unbind(1), strict=True)).movedim(-1, 1)
        stride: int = self.encoder.stride  # type: ignore[assignment]
        bottom, right = (-size % stride for size in x.shape[2:])
        return self.encoder(F.pad(embedded, (0, right, 0, bottom)))


class CroppedDecoder(nn.Module):
    """The first `data_grid` rows and columns of a decoder's output; ValueError where there are fewer."""

    def __init__(self, decoder: nn.Module, data_grid: list[int]):
        super().__init__()
        self.decoder = decoder
        self.data_grid = torch.Size(data_grid)

    def forward(self, z_q: Tensor) -> Tensor:
        whole = self.decoder(z_q)
        cropped = whole[:, :, : self.data_grid[0], : self.data_grid[1]]
        if cropped.shape[2:] != self.data_grid:
            raise ValueError(f"expected a decoder to {tuple(self.data_grid)} or more, found {tuple(whole.shape[2:])}")
        return cropped
