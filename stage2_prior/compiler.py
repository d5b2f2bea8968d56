"""Whether machine code can be made here: `compiled`, or None where numba does not import. Then the steppers draw.

A numba that is missing, or fails to import or to compile, costs speed only: the steppers draw the same codes,
several times slower. NUMBA_DISABLE_JIT=1 chooses them.
"""

import logging

_failure: Exception | None = None
try:
    from stage2_prior import compiled as compiled
except Exception as error:  # a broken installation raises ImportError, OSError, AttributeError and others
    compiled, _failure = None, error  # type: ignore[assignment]
_reported = False


def available() -> bool:
    """Whether there is machine code to sample with. The first time that there is not, one line on stderr says why."""
    global _reported
    if _failure is not None and not _reported:
        _reported = True
        reason = next(iter(str(_failure).strip().splitlines()), "")
        logging.getLogger(__name__).warning(
            "numba cannot compile the sampling loop (%s: %s): sampling step by step, several times slower",
            type(_failure).__name__,
            reason,
        )
    return _failure is None


def give_up(error: Exception) -> None:
    """From now on there is no machine code, because of `error`."""
    global _failure
    _failure = error
