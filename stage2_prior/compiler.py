"""Whether machine code can be made here: `compiled`, `compiled_transformer` and `training_kernels`, or None where numba
does not import.

A numba that is missing, or fails to import or to compile, costs speed only: the steppers draw the same codes, several
times slower, and PyTorch's own operations train the same network. NUMBA_DISABLE_JIT=1 chooses them.
"""

import logging

import torch

_failure: Exception | None = None
try:
    from stage2_prior import compiled as compiled
    from stage2_prior import compiled_transformer as compiled_transformer
    from stage2_prior import training_kernels as training_kernels
except Exception as error:  # a broken installation raises ImportError, OSError, AttributeError and others
    compiled, compiled_transformer, training_kernels, _failure = None, None, None, error  # type: ignore[assignment]
_reported = False
_ready: set[torch.dtype] = set()


def available() -> bool:
    """Whether there is machine code. The first time that there is not, one line on stderr says why."""
    global _reported
    if _failure is not None and not _reported:
        _reported = True
        reason = next(iter(str(_failure).strip().splitlines()), "")
        logging.getLogger(__name__).warning(
            "numba cannot compile (%s: %s): PyTorch's own operations sample and train, several times slower",
            type(_failure).__name__,
            reason,
        )
    return _failure is None


def give_up(error: Exception) -> None:
    """From now on there is no machine code, because of `error`."""
    global _failure
    _failure = error


def ready(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `training_kernels` serve tensors of this kind; the first time for a dtype, compiles all of them."""
    if device.type != "cpu" or torch.compiler.is_compiling() or not available() or not training_kernels.applies(dtype):
        return False
    if dtype not in _ready:
        try:
            training_kernels.prepare(dtype)
        except Exception as error:  # compilers have no common class of errors
            give_up(error)
            return available()
        _ready.add(dtype)
    return True
