"""SimVQ: a frozen codebook times a learned matrix, so that all codes move together.

Zhu et al., "Addressing Representation Collapse in Vector Quantized Models with One Linear Layer" (arXiv 2411.02038).

Axes: g codebooks, k codes, d dimension of one codebook.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_vqvae.bottlenecks.vq import VectorQuantizer


@dataclass(eq=False, repr=False, kw_only=True)
class SimVQ(VectorQuantizer):
    """e_k = C_k W with C (k, d) frozen and W (d, d) learned, of each codebook.

    A gradient that reaches the codes of one batch moves all codes, chosen or not, which keeps large codebooks in use.

    loss = codebook_weight |sg[z] - e|^2 + commitment_weight |z - sg[e]|^2, means over elements: the paper's, with its
    weight on the commitment term, as its code has it (`legacy: false`).

    W is the parameter `matrix` times `matrix_rate`, so that Adam, whose steps have one size, moves W by so many times
    its learning rate; 1 is the paper's. An encoder at a rate that is usual here still outruns W, and codes fall out of
    use, unless distance="cosine" leaves encodings no length to grow in.

    C starts at encodings, as other codebooks do, and W at the identity. initialise_from_data=False is the paper's
    start, Gaussian with deviation d^-1/2; there W starts as the weight of a linear layer, and lacks the bias of the
    paper's code. Above `revive_threshold` 0, which the paper does not have, the rows of C that belong to dead codes do
    change: onto the encoding times the inverse of W. `decay` is that of the moving counts of uses.
    """

    revive_threshold: float = 0.0
    codebook_weight: float = 1.0
    matrix_rate: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.matrix_rate > 0:
            raise ValueError(f"expected matrix_rate > 0, found {self.matrix_rate}")
        g, k, d = self.num_codebooks, self.num_codes, self.dim // self.num_codebooks
        self.register_buffer("codebook", torch.randn(g, k, d) * d**-0.5)
        eye = torch.eye(d).repeat(g, 1, 1)
        start = eye if self.initialise_from_data else torch.empty(g, d, d).uniform_(-1, 1) * d**-0.5
        self.matrix = nn.Parameter(start / self.matrix_rate)

    def vectors(self) -> Tensor:
        products = self.codebook @ (self.matrix * self.matrix_rate)
        return F.normalize(products, dim=-1) if self.cosine else products

    def codebooks(self) -> list[nn.Parameter]:
        """Weight decay of the matrix would shrink the codes."""
        return [self.matrix]

    def _codebook_loss(self, distance: Tensor) -> Tensor:
        return self.codebook_weight * distance

    def _update(self, count: Tensor, total: Tensor) -> None:
        self.counts.copy_(torch.where(self.counts == 0, self._average_count, self.counts))
        self.counts.lerp_(count, 1 - self.decay)

    def _revive(self, dead: Tensor, encodings: Tensor) -> None:
        w = self.matrix * self.matrix_rate
        rows, _ = torch.linalg.solve_ex(w, encodings, left=False)  # which does not wait for a GPU
        super()._revive(dead, rows)
