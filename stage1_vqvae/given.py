"""Codes that were made elsewhere: an autoencoder whose data are the codes themselves.

    Autoencoder(encoder=nn.Identity(), bottleneck=GivenCodes(K, g), decoder=nn.Identity(), likelihood=Itself(K))

Nothing is learned: encode and decode are the identity, -log p(x | z_q) is 0, and the rate is that of the codes. So all
that works on the codes of a learned autoencoder works on codes of which only the numbers are known.

Axes: b batch, g codebooks, *grid positions, k codes.
"""

import torch
from torch import Tensor, nn

from stage1_vqvae.bottlenecks.base import Latent, Quantizer
from stage1_vqvae.likelihoods.base import Likelihood

ORIGIN = 32  # bytes of a SHA-256


class GivenCodes(Quantizer):
    """z (b, g, *grid) are the codes as floating-point numbers, exact below 2^24; z_q is z.

    `origin` holds the SHA-256 of the codes that a model of them is fitted to, as a weight that is never trained: so the
    hash of this stage 1 tells them from all other codes of the same sizes."""

    def __init__(self, num_codes: int, num_codebooks: int = 1):
        super().__init__(num_codes, num_codebooks, num_codebooks)
        self.origin = nn.Parameter(torch.zeros(ORIGIN, dtype=torch.uint8), requires_grad=False)

    def forward(self, z: Tensor, step: Tensor | int | None = None, uniforms: Tensor | None = None) -> Latent:
        self._check(z)
        rows, batch, grid = self._to_rows(z.long()[:, 0] if self.num_codebooks == 1 else z.long().movedim(1, -1))
        return self._latent(rows.to(z.dtype), rows, batch, grid, loss=z.new_zeros(()))

    def lookup(self, codes: Tensor) -> Tensor:
        rows, batch, grid = self._to_rows(codes)
        return self._to_grid(rows.float(), batch, grid)


class Itself(Likelihood):
    """All mass on the decoder's output: data int64 (b, g, *grid) below `num_codes`, one channel of it for each."""

    params_per_value = 1

    def __init__(self, num_codes: int):
        super().__init__()
        self.num_levels = num_codes

    def to_network(self, x: Tensor) -> Tensor:
        if x.dtype != torch.int64:
            raise ValueError(f"expected codes of type torch.int64, found {x.dtype}")
        return x.to(self.scale.dtype)

    def from_levels(self, levels: Tensor) -> Tensor:
        return levels

    def objective(self, params: Tensor, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.nll_nats(params, x, lengths)

    def value_nats(self, params: Tensor, x: Tensor) -> Tensor:
        return torch.where(params.long() == x, 0.0, torch.inf).double()

    def mean(self, params: Tensor) -> Tensor:
        return params.long()

    def level_logits(self, params: Tensor) -> Tensor:
        levels = torch.arange(self.num_levels, device=params.device)
        return torch.where(params.long()[..., None] == levels, 0.0, -torch.inf).double()
