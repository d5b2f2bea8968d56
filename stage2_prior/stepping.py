"""A prior's logits code by code, by PyTorch: what reads codes from a stream, and sampling where it is not compiled.

Axes: b batch, k codes of a codebook, g codebooks.
"""

import torch
from torch import Tensor

from stage2_prior.prior import Prior, ReplayableStepper, Stepper


def each_step(
    prior: Prior, batch: int, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None
) -> Stepper:
    """The prior's cached evaluation, one step per code."""
    stepper = prior.stepper(batch, grid, labels, local)
    return _Stepwise(stepper, len(grid)) if isinstance(stepper, ReplayableStepper) else stepper


def naive_steps(prior: Prior, labels: Tensor | None, local: Tensor | None) -> Stepper:
    """One forward pass per code: slow, and obviously right."""
    return _Naive(prior, labels, local)


class _Stepwise(Stepper):
    """A stepper that could be replayed, called directly."""

    def __init__(self, stepper: ReplayableStepper, axes: int) -> None:
        self.stepper, self.axes = stepper, axes

    def step(self, codes: Tensor, position: tuple[int, ...]) -> Tensor:
        place, codebook = position[: self.axes], position[self.axes] if len(position) > self.axes else 0
        at = [torch.tensor([index], device=codes.device) for index in place]
        for axis in range(self.axes - 1):
            if codebook == 0 and not any(place[axis + 1 :]):
                self.stepper.begin_at(codes, at, axis)
        return self.stepper.step_at(codes, at, codebook)


class _Naive(Stepper):
    def __init__(self, prior: Prior, labels: Tensor | None, local: Tensor | None) -> None:
        self.prior, self.labels, self.local = prior, labels, local

    def step(self, codes: Tensor, position: tuple[int, ...]) -> Tensor:
        logits: Tensor = self.prior(codes, self.labels, self.local)[(slice(None), slice(None), *position)]
        return logits
