"""The first and last layers of networks over codes: embeddings, and heads that turn features into logits.

With several codes per position (product codebooks) their embeddings are summed, and the codes are predicted one after
another: the head of codebook j also reads embeddings of codes 0 .. j-1 at its position.
Axes: b batch, k codes of a codebook, g codebooks, c channels, *grid positions.
"""

from itertools import accumulate

import torch
from torch import Tensor, nn

from stage2_prior.initialise import initialise
from stage2_prior.layers import Layers
from stage2_prior.prior import Prior


class Head(nn.Sequential):
    """Features (..., c) -> logits (..., k): ReLU, 1x1, ReLU, 1x1."""

    def __init__(self, channels: int, hidden: int, num_codes: int) -> None:
        super().__init__(nn.ReLU(), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, num_codes))

    @property
    def products(self) -> tuple[nn.Linear, nn.Linear]:
        """The two 1x1 convolutions."""
        _, hidden, _, logits = self
        assert isinstance(hidden, nn.Linear) and isinstance(logits, nn.Linear)
        return hidden, logits


class CodebookPrior(Prior):
    """A prior with `embeddings` (g tables), `within` (g - 1 tables) and `heads` (g)."""

    embeddings: Layers[nn.Embedding]
    within: Layers[nn.Embedding]
    heads: Layers[Head]

    def embed(self, codes: Tensor) -> Tensor:
        """Codes (b, *grid, g) -> the sum of their embeddings (b, *grid, c)."""
        return sum(table(codes[..., j]) for j, table in enumerate(self.embeddings))

    def predict(self, features: Tensor, codes: Tensor) -> Tensor:
        """Features (b, *grid, c) and codes (b, *grid, g) -> logits (b, k, *grid[, g]).

        In memory k is innermost, the order in which the likelihood reads it."""
        if self.num_codebooks == 1:
            return self.heads[0](features).movedim(-1, 1)
        earlier = (table(codes[..., j]) for j, table in enumerate(self.within))
        logits = [head(seen) for head, seen in zip(self.heads, accumulate(earlier, initial=features), strict=True)]
        return torch.stack(logits, dim=-2).movedim(-1, 1)

    def _tables(self, count: int, channels: int) -> Layers[nn.Embedding]:
        return Layers(nn.Embedding(self.num_codes, channels) for _ in range(count))

    def _heads(self, channels: int, hidden: int) -> Layers[Head]:
        return Layers(Head(channels, hidden, self.num_codes) for _ in range(self.num_codebooks))

    def _initialise_embeddings(self) -> None:
        """The sum of a position's embeddings has unit variance."""
        for table in (*self.embeddings, *self.within):
            nn.init.normal_(table.weight, std=self.num_codebooks**-0.5)

    def _initialise_heads(self) -> None:
        """Logits near zero."""
        for head in self.heads:
            hidden, logits = head.products
            initialise(hidden, 2**0.5)  # He et al. (2015), for ReLU
            initialise(logits, 0.1)
