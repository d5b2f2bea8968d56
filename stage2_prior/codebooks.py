"""What networks over codes begin and end with: embeddings of the codes, and heads that turn features into logits.

Where a position holds several codes (product codebooks) their embeddings are summed, and they are predicted one after
another: the head of codebook j also reads embeddings of codes 0 .. j-1 of its position.
Axes: b batch, k codes of a codebook, g codebooks, c channels, *grid positions.
"""

from itertools import accumulate

import torch
from torch import Tensor, nn

from stage2_prior.initialise import initialise
from stage2_prior.prior import Prior


class CodebookPrior(Prior):
    """A prior with `embeddings` (g of them), `within` (g - 1) and `heads` (g): ReLU, 1x1, ReLU, 1x1."""

    embeddings: nn.ModuleList
    within: nn.ModuleList
    heads: nn.ModuleList

    def embed(self, codes: Tensor) -> Tensor:
        """Codes (b, *grid, g) -> the sum of their embeddings (b, *grid, c)."""
        return sum(table(codes[..., j]) for j, table in enumerate(self.embeddings))

    def predict(self, features: Tensor, codes: Tensor) -> Tensor:
        """Features (b, *grid, c) and codes (b, *grid, g) -> logits (b, k, *grid[, g]).

        In memory k is innermost: the likelihood reads it as it lies."""
        if self.num_codebooks == 1:
            return self.heads[0](features).movedim(-1, 1)
        earlier = (table(codes[..., j]) for j, table in enumerate(self.within))
        logits = [head(seen) for head, seen in zip(self.heads, accumulate(earlier, initial=features), strict=True)]
        return torch.stack(logits, dim=-2).movedim(-1, 1)

    def _tables(self, count: int, channels: int) -> nn.ModuleList:
        return nn.ModuleList(nn.Embedding(self.num_codes, channels) for _ in range(count))

    def _heads(self, channels: int, hidden: int) -> nn.ModuleList:
        return nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, self.num_codes))
            for _ in range(self.num_codebooks)
        )

    def _initialise_embeddings(self) -> None:
        """A position's sum of embeddings has unit variance."""
        for table in (*self.embeddings, *self.within):
            nn.init.normal_(table.weight, std=self.num_codebooks**-0.5)

    def _initialise_heads(self) -> None:
        """Logits near zero."""
        for head in self.heads:
            initialise(head[1], 2**0.5)  # He et al. (2015), for ReLU
            initialise(head[3], 0.1)
