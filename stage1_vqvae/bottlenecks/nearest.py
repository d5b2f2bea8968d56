"""Nearest codebook vector by squared Euclidean distance, without holding all n x K distances at once.

Axes: n vectors, g codebooks, k codes, d dimension of one codebook.
"""

import torch
from torch import Tensor

# scores held at once: few enough to stay in a core's second-level cache; on a GPU many enough to fill it, since a batch
# in small blocks would wait for the launch of each
BLOCK_BYTES = {"cpu": 2**21, "cuda": 2**28}


def nearest_codes(z: Tensor, codebooks: Tensor, costs: Tensor | None = None) -> Tensor:
    """z (n, g, d), codebooks (g, k, d), of one floating type -> codes (n, g) int64; ties go to the lower code.

    argmin_k |z - e_k|^2 + cost_k = argmax_k z.e_k - (|e_k|^2 + cost_k) / 2: one matrix product per block, with or
    without costs (g, k).
    """
    n, g, _ = z.shape
    k = codebooks.shape[1]
    codes = torch.empty(n, g, dtype=torch.int64, device=z.device)
    rows = max(1, BLOCK_BYTES.get(z.device.type, BLOCK_BYTES["cuda"]) // (k * z.element_size()))
    offsets = (codebooks.square().sum(-1) + (0 if costs is None else costs)) / -2
    scores = z.new_empty(min(rows, n), k)
    for group in range(g):
        transposed = codebooks[group].T
        for start in range(0, n, rows):
            block = z[start : start + rows, group]
            out = scores[: len(block)]
            torch.addmm(offsets[group], block, transposed, out=out)
            codes[start : start + rows, group] = out.max(1).indices
    return codes
