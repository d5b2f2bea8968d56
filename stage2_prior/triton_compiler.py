"""Whether Triton makes kernels for a GPU here: `available` says, and the modules with kernels are imported here alone.

Triton comes with PyTorch for CUDA. Where it is missing or fails, that costs speed only: recorded steps draw the same
codes, several times slower, and one line on stderr says why.
"""

import logging
from types import ModuleType

import torch

_failure: Exception | None = None


def pixelcnn(device: torch.device) -> ModuleType | None:
    """`triton_pixelcnn`, imported at the first call; None on other devices than CUDA, and where Triton has failed."""
    if not _usable(device):
        return None
    import stage2_prior.triton_pixelcnn as module

    return module


def wavenet(device: torch.device) -> ModuleType | None:
    """The same with `triton_wavenet`."""
    if not _usable(device):
        return None
    import stage2_prior.triton_wavenet as module

    return module


def _usable(device: torch.device) -> bool:
    if device.type == "cuda" and _failure is None:
        try:
            import stage2_prior.triton_draw  # noqa: F401
        except Exception as error:  # a broken installation raises ImportError, OSError, AttributeError and others
            give_up(error)
    return device.type == "cuda" and _failure is None


def give_up(error: Exception) -> None:
    """From now on there are no kernels, because of `error`. One line says so."""
    global _failure
    if _failure is None:
        reason = next(iter(str(error).strip().splitlines()), "")
        logging.getLogger(__name__).warning(
            "Triton cannot compile the sampling kernel (%s: %s): replaying recorded steps, several times slower",
            type(error).__name__,
            reason,
        )
    _failure = error
