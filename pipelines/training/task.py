"""What differs between the stages in training."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.health.evidence import Facts
from pipelines.splits.base import Batch
from pipelines.training.log import RunLog

Figures = Callable[[], dict[str, Tensor]]  # scalar figures of a step, and counts, computed where they are logged


class Task(ABC):
    """What differs between the stages. `model` is the plain module; `network` in `loss` may be its DDP wrapper."""

    title: str
    criterion: str  # the validation figure that `best` and early stopping minimise
    settled_from: int = 0  # earlier steps are not comparable with later ones, and are never `best`
    model: nn.Module
    settings: Mapping[str, Any] = MappingProxyType({})  # of the run, by keys as they are typed: what warnings name
    needs_whole_batch: bool = False  # accumulated gradients take a pass without gradients before: `Bottleneck`

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch, step: Tensor | int) -> tuple[Tensor, Figures]:
        """The loss of this rank's rows, a mean over them, and figures for `merged`. `step` is a number on a
        CPU, int64 () on a GPU. Waits for no GPU: nothing here reads a value of a tensor. Figures are asked for at the
        steps that are logged, after the update, or after each micro-batch."""

    def merged(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Scalar figures to log, of the micro-batches of a step, or of its one batch. Default: their means."""
        return {name: torch.stack([part[name].detach().double() for part in parts]).mean(0) for name in parts[0]}

    @abstractmethod
    def figures(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Validation figures (b,), one value per example; the model is in eval mode."""

    def summary(self) -> dict[str, float]:
        """Figures of the whole split, requested once after its batches. Default: none."""
        return {}

    def facts(self) -> Facts:
        """What the rules of pipelines/health need beside the figures, as of the last validation."""
        return Facts(self.title.replace(" ", ""), self.criterion, self.settled_from)

    def before_first_step(self, batches, parts: int = 1) -> None:
        """`batches`: an iterator over the batches of steps 1, 2, ..., this rank's rows, each of which passes in so many
        parts. Default: nothing."""

    def before_step(self, step: int) -> bool:
        """Runs before each step. Returns whether other parameters learn from it on: a recorded step is recorded anew
        then. Default: nothing, and False."""
        return False

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Runs after the optimiser's step. Default: nothing."""

    def undecayed(self) -> list[nn.Parameter]:
        """Matrices that weight decay spares, as it does biases. Default: none."""
        return []

    def show(self, model: nn.Module, batch: Batch, log: RunLog, step: int) -> None:
        """Writes an example of the model's output, an image or audio, to the log. Default: nothing."""
