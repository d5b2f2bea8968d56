"""Lloyd's k-means, to start a codebook where the encodings are."""

import torch
from torch import Tensor

from stage1_vqvae.bottlenecks.nearest import nearest_codes


def kmeans(z: Tensor, k: int, iterations: int = 10) -> Tensor:
    """Encodings (n, d) -> (k, d) centres; draws from the global generator; n >= k, else ValueError.

    Starts at k encodings, then alternates assignment and mean. A cluster that lost its last member restarts at one of
    the encodings that are farthest from their centres.
    """
    n = len(z)
    if n < k:
        raise ValueError(f"initialisation from data: expected at least {k} encodings, found {n}")
    centres = z[torch.randperm(n, device=z.device)[:k]]
    for _ in range(iterations):
        codes = nearest_codes(z[:, None], centres[None])[:, 0]
        counts = torch.bincount(codes, minlength=k)
        sums = torch.zeros_like(centres).index_add_(0, codes, z)
        farthest = (z - centres[codes]).square().sum(1).topk(k).indices
        empty = counts == 0
        centres = torch.where(
            empty[:, None],
            z[farthest[empty.cumsum(0) - 1]],  # the j-th empty cluster takes the j-th farthest encoding
            sums / counts.clamp(min=1)[:, None],
        )
    return centres
