"""Schedules over training steps."""

from torch import Tensor


def progress(step: Tensor | int | None, steps: int) -> Tensor | float:
    """How much of the first `steps` steps has passed, from 0 to 1; without a step or without steps 1.

    A step int64 () on a device gives float64 () there, which nothing waits for."""
    if step is None or not steps:
        return 1.0
    if isinstance(step, Tensor):
        return (step.double() / steps).clamp(max=1.0)
    return min(1.0, step / steps)
