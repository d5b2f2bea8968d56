"""The WaveNet of most public repositories: arXiv 1609.03499, figure 4, by padded and cropped dilated convolutions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainWaveNet(nn.Module):
    """Codes int64 (b, t) -> logits (b, K, t); position t sees codes before t."""

    def __init__(self, num_codes: int, residual: int, gate: int, skip: int, num_layers: int, cycle: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_codes, residual)
        dilations = [2 ** (i % cycle) for i in range(num_layers)]
        self.dilated = nn.ModuleList(nn.Conv1d(residual, gate, 2, dilation=d, padding=d) for d in dilations)
        self.residuals = nn.ModuleList(nn.Conv1d(gate // 2, residual, 1) for _ in dilations)
        self.skips = nn.ModuleList(nn.Conv1d(gate // 2, skip, 1) for _ in dilations)
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(skip, skip, 1), nn.ReLU(), nn.Conv1d(skip, num_codes, 1))

    def forward(self, codes: Tensor) -> Tensor:
        x = F.pad(self.embedding(codes[:, :-1]).transpose(1, 2), (1, 0))
        total: Tensor | int = 0
        for dilated, residual, skip in zip(self.dilated, self.residuals, self.skips):
            f, g = dilated(x)[..., : x.shape[-1]].chunk(2, dim=1)
            units = torch.tanh(f) * torch.sigmoid(g)
            total = total + skip(units)
            x = x + residual(units)
        return self.head(total)
