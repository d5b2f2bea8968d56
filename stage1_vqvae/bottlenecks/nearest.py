"""Nearest codebook vector by squared Euclidean distance, without holding all n x K distances at once; and distances.

Axes: n vectors, g codebooks, k codes, d dimension of one codebook.
"""

import torch
from torch import Tensor

# scores held at once: few enough to stay in a core's caches; on a GPU many enough to fill it, since a batch in small
# blocks would wait for the launch of each
BLOCK_BYTES = {"cpu": 2**21, "cuda": 2**28}
FEWEST_ROWS = 1024  # of a block: of large codebooks it has some of the codes, so that each is read for many vectors


def nearest_codes(z: Tensor, codebooks: Tensor, costs: Tensor | None = None) -> Tensor:
    """z (n, g, d), codebooks (g, k, d), of one floating type -> codes (n, g) int64; ties go to the lower code.

    argmin_k |z - e_k|^2 + cost_k = argmax_k z.e_k - (|e_k|^2 + cost_k) / 2: one matrix product per block, with or
    without costs (g, k). A graph that is traced, by torch.export or torch.compile, holds all distances: it has no loop
    over a number of vectors that it does not know.
    """
    n, g, _ = z.shape
    k = codebooks.shape[1]
    if torch.compiler.is_compiling():
        offsets = (codebooks.square().sum(-1) + (0 if costs is None else costs)) / -2
        return torch.baddbmm(offsets[:, None], z.movedim(1, 0), codebooks.mT).argmax(-1).T
    codes = torch.empty(n, g, dtype=torch.int64, device=z.device)
    size = BLOCK_BYTES.get(z.device.type, BLOCK_BYTES["cuda"]) // z.element_size()
    columns = min(k, max(1, size // FEWEST_ROWS))
    rows = max(1, size // columns)
    offsets = (codebooks.square().sum(-1) + (0 if costs is None else costs)) / -2
    scores = z.new_empty(min(rows, n) * columns)
    for group in range(g):
        for start in range(0, n, rows):
            block = z[start : start + rows, group]
            best, found = None, codes[start : start + rows, group]
            for first in range(0, k, columns):
                some = codebooks[group, first : first + columns]
                out = scores[: len(block) * len(some)].view(len(block), len(some))
                torch.addmm(offsets[group, first : first + columns], block, some.T, out=out)
                if best is None:
                    best, index = out.max(1)
                    found.copy_(index)
                else:
                    _improve(best, found, out, first)
    return codes


def _improve(best: Tensor, found: Tensor, scores: Tensor, first: int) -> None:
    """Updates the highest score (n,) and its code (n,) by scores (n, k) of the codes from `first` on.

    A maximum without its place takes a few times less on a CPU. The place is looked for only where the maximum is
    higher than before: in the j-th of blocks in no order, for a share 1 / j of the vectors. On a GPU this would wait
    for it."""
    if scores.device.type == "cpu":
        top = scores.amax(1)
        rows = (top > best).nonzero()[:, 0]
        best[rows] = top[rows]
        found[rows] = scores[rows].argmax(1) + first
    else:
        top, index = scores.max(1)
        found.copy_(torch.where(top > best, index + first, found))
        torch.maximum(best, top, out=best)


def squared_distances(z: Tensor, codebook: Tensor) -> Tensor:
    """z (n, d), codebook (k, d) -> |z - e|^2 (n, k)."""
    return z.square().sum(1, keepdim=True) - 2 * z @ codebook.T + codebook.square().sum(1)
