"""Codes of another model as data: as many unordered categories as that model has codes.

Axes: b batch, g codebooks of the other model, *grid its positions, k its codes.
"""

import torch
from einops import rearrange
from torch import Tensor

from stage1_vqvae.likelihoods.categorical import Categorical


class Codes(Categorical):
    """A softmax over `num_codes` codes, int64 (b, g, *grid): decoder channels (g k), k fastest.

    Network units are the codes themselves: the encoder begins with an embedding.
    """

    def __init__(self, num_codes: int):
        super().__init__()
        if num_codes < 2:
            raise ValueError(f"num_codes: expected 2 or more, found {num_codes}")
        self.params_per_value = self.num_levels = num_codes

    def to_network(self, x: Tensor) -> Tensor:
        if x.dtype != torch.int64:
            raise ValueError(f"expected codes of type torch.int64, found {x.dtype}")
        return x

    def from_levels(self, levels: Tensor) -> Tensor:
        return levels

    def mean(self, params: Tensor) -> Tensor:
        """The most likely code: categories have no mean."""
        return rearrange(params, "b (c k) ... -> b c ... k", k=self.params_per_value).argmax(-1)

    def expectation(self, params: Tensor) -> Tensor:
        return self.mean(params)
