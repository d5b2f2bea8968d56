"""Float32 that is float32 on every device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Convolutions and matrix products of float32 without TF32 within; afterwards the settings are as before.

    TF32 rounds the factors to 11 significant bits, and PyTorch allows it for convolutions on CUDA: an encoding near the
    border of two codes would get another code than on a CPU. It applies to no other device and to no other type.
    """
    kinds = torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, own in zip(kinds, before, strict=True):
            kind.fp32_precision = own
