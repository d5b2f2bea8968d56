"""Sums of the vectors of each code, the same bits at every run.

Axes: n vectors, k codes, d dimension.
"""

from torch import Tensor


def sums_by_code(vectors: Tensor, codes: Tensor, num_codes: int) -> Tensor:
    """Vectors (n, d) and their codes (n,) int64 -> (num_codes, d): the sum of each code's vectors, in their order.

    On CUDA `index_add_` adds in whatever order its threads arrive, and a codebook would differ from run to run;
    `index_put_` sorts by code first, with memory for n indices and no (n, k) matrix. On a CPU
    `index_add_` adds in order, and is faster.
    """
    sums = vectors.new_zeros(num_codes, vectors.shape[1])
    if vectors.device.type == "cpu":
        return sums.index_add_(0, codes, vectors)
    return sums.index_put_((codes,), vectors, accumulate=True)
