"""A prior in one file: a mixture of all earlier codes, with weights that depend on both positions, then two layers.

Axes: b batch, t codes in raster order, k codes of a codebook, c channels.
"""

from collections.abc import Sequence

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from stage2_prior.prior import Prior, Stepper


class Mixture(Prior):
    """For one size of grid, that of the codes."""

    grid_axes = 2

    def __init__(self, num_codes: int, num_codebooks: int, num_classes: Sequence[int], local_channels: int,
                 grid: Sequence[int], channels: int):
        super().__init__(num_codes, num_codebooks, num_classes, local_channels)
        self.size = tuple(grid)
        count = self.size[0] * self.size[1] * num_codebooks
        self.embedding = nn.Embedding(num_codes, channels)
        self.weights = nn.Parameter(torch.randn(count, count) / count**0.5)
        self.place = nn.Parameter(torch.randn(count, channels))
        self.tables = nn.ModuleList(nn.Embedding(classes, channels) for classes in num_classes)
        self.local = nn.Linear(local_channels, channels) if local_channels else None
        self.head = nn.Sequential(nn.Tanh(), nn.Linear(channels, channels), nn.Tanh(), nn.Linear(channels, num_codes))

    def forward(self, codes: Tensor, labels: Tensor | None = None, local: Tensor | None = None) -> Tensor:
        self.check(codes, labels, local)
        if self.grid(codes.shape) != self.size:
            raise ValueError(f"codes: expected a grid {self.size}, found {self.grid(codes.shape)}")
        features = self.weights.tril(-1) @ self.embedding(codes.flatten(1)) + self.place
        for column, table in enumerate(self.tables):
            features = features + rearrange(table(labels[:, column]), "b c -> b 1 c")
        if self.local is not None:
            conditions = self.local(rearrange(local, "b c h w -> b (h w) c"))
            features = features + repeat(conditions, "b t c -> b (t g) c", g=self.num_codebooks)
        return self.head(features).unflatten(1, codes.shape[1:]).movedim(-1, 1)

    def stepper(self, batch: int, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None) -> Stepper:
        return WholeSteps(self, labels, local)


class WholeSteps(Stepper):
    """A whole forward pass per code."""

    def __init__(self, prior: Prior, labels: Tensor | None, local: Tensor | None):
        self.prior, self.labels, self.local = prior, labels, local

    def step(self, codes: Tensor, position: tuple[int, ...]) -> Tensor:
        return self.prior(codes.clamp(min=0), self.labels, self.local)[(slice(None), slice(None), *position)]
