"""k-means, the initialisation of a codebook from encodings.

Seeds are drawn far from each other (Bahmani et al., "Scalable K-Means++", 2012, in rounds that double their number),
then moved by Lloyd's iterations. Axes: n encodings, d their dimension, k centres.
"""

import torch
from torch import Tensor

from stage1_vqvae.bottlenecks.nearest import nearest_codes
from stage1_vqvae.bottlenecks.sums import sums_by_code
from stage1_vqvae.codebook import usage


def kmeans(z: Tensor, k: int, iterations: int = 10) -> Tensor:
    """Encodings (n, d) -> centres (k, d); draws from the global generator; ValueError unless n >= k."""
    if len(z) < k:
        raise ValueError(f"initialisation from data: expected at least {k} encodings, found {len(z)}")
    centres = seeds(z, k)
    for _ in range(iterations):
        codes = _assign(z, centres)
        counts = usage(codes, k)
        sums = sums_by_code(z, codes, k)
        farthest = (z - centres[codes]).square().sum(1).topk(k).indices
        empty = counts == 0
        centres = torch.where(
            empty[:, None],
            z[farthest[empty.cumsum(0) - 1]],  # the j-th empty cluster restarts at the j-th farthest encoding
            sums / counts.clamp(min=1)[:, None],
        )
    return centres


def seeds(z: Tensor, k: int) -> Tensor:
    """k different encodings, in rounds of 1, 1, 2, 4, ...: each round draws without replacement, with probability
    proportional to the squared distance from the seeds of earlier rounds."""
    distances = z.new_ones(len(z))
    chosen = torch.empty(0, dtype=torch.int64, device=z.device)
    while len(chosen) < k:
        # The largest of log w + Gumbel noise are a draw without replacement with weights w.
        keys = distances.log() - torch.empty_like(distances).exponential_().log()
        keys[chosen] = -torch.inf
        new = keys.topk(min(k - len(chosen), max(1, len(chosen)))).indices
        to_new = (z - z[new][_assign(z, z[new])]).square().sum(1)
        distances = torch.minimum(distances, to_new) if len(chosen) else to_new
        chosen = torch.cat([chosen, new])
    return z[chosen]


def _assign(z: Tensor, centres: Tensor) -> Tensor:
    return nearest_codes(z[:, None], centres[None])[:, 0]
