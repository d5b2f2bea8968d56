"""TF32 on or off, for convolutions and products of float32 on CUDA."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """TF32 allowed or not within; afterwards as before. PyTorch's own default allows it for convolutions only.

    `torch.backends.cudnn.flags` would do it too, but turns cuDNN itself off unless it is asked not to."""
    kinds = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "tf32" if allowed else "ieee"
        yield
    finally:
        for kind, own in zip(kinds, before):
            kind.fp32_precision = own
