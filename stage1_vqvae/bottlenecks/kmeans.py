"""k-means, the initialisation of a codebook from encodings.

Seeds are drawn far from each other (Bahmani et al., "Scalable K-Means++", 2012, in rounds that double their number),
then moved by Lloyd's iterations. Many centres are found cell by cell of a coarse k-means, in a time that grows with
k^1.5 and not with k^2. Axes: n encodings, d their dimension, k centres.
"""

import math

import torch
from torch import Tensor

from stage1_vqvae.bottlenecks.nearest import nearest_codes
from stage1_vqvae.bottlenecks.sums import sums_by_code
from stage1_vqvae.codebook import usage

PER_CELL = 32  # encodings per cell that the cells are found from
UNDIVIDED = 0.9  # of the encodings in one cell: most are alike, and further cells would not divide them either


def kmeans_in_cells(z: Tensor, k: int, most: int, iterations: int = 10) -> Tensor:
    """Encodings (n, d) in random order -> centres (k, d), as `kmeans` where k <= `most`.

    Otherwise the encodings are divided into about k^0.5 cells, the nearest of as many centres, and each cell has a
    share of the k centres in proportion to its encodings. Raises ValueError unless n >= k."""
    if k <= most or len(z) < k:
        return kmeans(z, k, iterations)
    count = round(math.sqrt(k))
    cells = _assign(z, kmeans(z[: max(count, PER_CELL * count)], count, iterations))
    sizes = usage(cells, count)
    shares = k * sizes // len(z)
    left = (k * sizes % len(z)).argsort(descending=True, stable=True)[: k - int(shares.sum())]
    shares[left] += 1
    found = []
    in_cells = torch.split(z[cells.argsort(stable=True)], sizes.tolist())
    for own, share in zip(in_cells, shares.tolist(), strict=True):
        if share > most and len(own) > UNDIVIDED * len(z):
            found.append(own[:share])
        elif share:
            found.append(kmeans_in_cells(own, share, most, iterations))
    return torch.cat(found)


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
