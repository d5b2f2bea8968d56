"""Training steps: the project's own loop, one step at a time, and the plain loop of public code."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from benchmarks.work import Driven, Work
from pipelines.data.codes import CodeSplit
from pipelines.files.places import configs
from pipelines.splits.base import Split
from pipelines.training.loop import Task, choose_precision, train
from pipelines.training.prior import PriorTask, mean_codes
from pipelines.training.settings import Settings, Stage1Settings

NEVER = 1 << 30  # steps


def settings(stage: str, batch_size: int, precision: str = "auto") -> Settings:
    """Those of configs/train/STAGE.yaml, without validation, logs and checkpoints between the steps."""
    values = yaml.safe_load((configs() / "train" / f"{stage}.yaml").read_text())
    values["lr"] = float(values["lr"])
    often = dict.fromkeys(("steps", "validate_every", "checkpoint_every", "log_every"), NEVER)
    return {"stage1": Stage1Settings, "stage2": Settings}[stage](
        **values | often | {"batch_size": batch_size, "precision": precision})


def product_dtype(device: torch.device) -> torch.dtype:
    """What the loop multiplies in: the floor of its steps is at this type's rate."""
    return choose_precision("auto", device)


class TrainingStep(Work):
    """A work whose runs are steps of the loop."""

    settles = 6  # steps until a process of the loop has the memory that it reuses from then on
    in_a_row = 0.5


class OwnSteps(Driven):
    """`pipelines.training.loop.train`, held before each step, where the loop asks its task for a loss.

    So one turn is one step of the loop as users run it: forward and backward, clipping, optimiser, codebook, moving
    average, and the next step's items and augmentation."""

    def __init__(self, task: Task, splits: dict[str, Split], chosen: Settings, device: torch.device):
        self._task, self._splits, self._settings, self._device = task, splits, chosen, device

    def drive(self, next_turn: Callable[[], None]) -> None:
        loss = self._task.loss

        def held(*arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
            next_turn()
            return loss(*arguments)

        self._task.loss = held  # type: ignore[method-assign, assignment]
        train(self._task, self._splits, self._settings, Path(tempfile.mkdtemp()), 0, self._device, facts={})


def code_split(k: int, shape: tuple[int, ...], local: Tensor | None = None) -> CodeSplit:
    """Random codes (n, *grid), as the code data set keeps them: below 256 codes in 8 bits, else in 16."""
    codes = torch.randint(k, shape, generator=torch.Generator().manual_seed(0))
    return CodeSplit(codes.to(torch.uint8 if k <= 256 else torch.int16), torch.zeros(len(codes), 0, dtype=torch.int64),
                     local=local, num_codebooks=1)


def prior_steps(prior: Any, split: CodeSplit, batch: int, precision: str, device: torch.device) -> OwnSteps:
    means = dict.fromkeys(("train", "validation"), mean_codes(split))
    return OwnSteps(PriorTask(prior, [], means, False), {"train": split, "validation": split},
                    settings("stage2", batch, precision), device)


def plain_steps(model: nn.Module, loss: Callable[[nn.Module, Tensor], Tensor], items: Tensor, batch_size: int,
                lr: float) -> Callable[[], None]:
    """Steps of public code: a shuffled batch, loss(model, batch), Adam, float32."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()

    def step() -> None:
        batch = items[torch.randint(len(items), (batch_size,), device=items.device)]
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()

    return step
