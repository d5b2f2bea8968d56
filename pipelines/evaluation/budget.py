"""Equal time for all systems of a comparison: how many training steps fit into so many minutes.

On a CPU these are minutes of processor time, of all threads together, so that other programs on the machine change
little; on a GPU minutes of the clock. The time of a step is measured over a few steps of the training loop itself, in a
folder that is thrown away; where a system freezes its encoder, before and after. Initialisation from data counts;
imports, compilation, validation and checkpoints do not.

    RUN/budget.yaml    by stage: `minutes`, what was measured, and `steps`, which a comparison that goes on takes again
"""

import io
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from pipelines.data.codes import CodeData
from pipelines.files.atomic import write_atomically
from pipelines.files.checks import expect, is_integer
from pipelines.files.errors import InputError
from pipelines.files.reading import yaml_bytes
from pipelines.runs.config import build, composed, plain, read_config
from pipelines.runs.facts import complete, complete_prior
from pipelines.runs.store import Run, run_of
from pipelines.splits.base import Batch, Data, Split, label_columns
from pipelines.splits.lengths import CLOCK_CHANNELS
from pipelines.splits.noise import seed_weights
from pipelines.training import distributed
from pipelines.training.autoencoder import AutoencoderTask
from pipelines.training.loop import train
from pipelines.training.prior import PriorTask, mean_codes
from pipelines.training.settings import Settings, Stage1Settings
from pipelines.training.task import Task

FILE = "budget.yaml"
SKIPPED = 5  # steps before the measured ones: kernels are compiled, memory is taken
FEWEST, MOST, ENOUGH_SECONDS = 4, 40, 3.0  # measured steps; no more than FEWEST once they took so long
UNENDING = 10**6  # steps of a training that is stopped after a few


@dataclass(frozen=True)
class Cost:
    """Seconds."""

    initialisation: float
    step: float
    frozen_step: float  # with a frozen encoder; as `step` where there is none

    def steps(self, minutes: float, frozen_share: float) -> int:
        """How many steps last so long. Raises ValueError if not even one does."""
        left = 60 * minutes - self.initialisation
        found = int(left / ((1 - frozen_share) * self.step + frozen_share * self.frozen_step))
        if found < 1:
            raise ValueError(f"expected more than {(self.initialisation + self.step) / 60:.2g}, the time of "
                             f"initialisation and one step, found {minutes}")
        return found


class _Measured(Exception):
    """Ends a training whose steps have been measured."""


def steps_within(minutes: float, stage: str, overrides: list[str], data: Callable[[], Data]) -> int:
    """The steps of a stage ("stage1", "stage2") of the run that `overrides` describe, as its budget.yaml states them;
    for other minutes than there, or without it, measured and written there. stage2: of the codes that are there.

    Raises InputError for a time that is too short."""
    cfg = composed(overrides)
    run = run_of(cfg)
    known = read_config(run.root / FILE) if (run.root / FILE).exists() else {}
    own = known.get(stage) or {}
    share = cfg.stage1.freeze_encoder_at if stage == "stage1" else 0.0
    if own.get("minutes") == minutes:
        steps = own.get("steps")
        expect(run.root / FILE, f"{stage}.steps", steps, is_integer(steps, 1), "a number of steps")
        return steps
    cost = measure_stage1(cfg, data()) if stage == "stage1" else measure_stage2(cfg, run)
    try:
        steps = cost.steps(minutes, share)
    except ValueError as error:
        raise InputError(f"minutes: {run.root.name}: {stage}: {error}") from None
    seconds = {f"{name}_seconds": round(value, 5) for name, value in asdict(cost).items()}
    run.root.mkdir(parents=True, exist_ok=True)
    write_atomically(run.root / FILE, yaml_bytes(known | {stage: {"minutes": minutes, "steps": steps} | seconds}))
    return steps


def measure_stage1(cfg: DictConfig, data: Data) -> Cost:
    columns = label_columns("decoder_condition_on", plain(cfg.decoder_condition_on), data.label_names)
    seed_weights(cfg.seed)
    task = AutoencoderTask(build(complete(cfg, data)), columns, show=lambda *_, **__: None)
    settings = Stage1Settings(**plain(cfg.stage1))
    return cost_of(task, data.split("train"), settings, cfg.seed, freezes=settings.freeze_encoder_at > 0)


def measure_stage2(cfg: DictConfig, run: Run) -> Cost:
    codes = CodeData(run.codes)
    split = codes.split("train")
    wanted = codes.label_names if cfg.condition_on is None else plain(cfg.condition_on)
    columns = label_columns("condition_on", wanted, codes.label_names)
    with_length = bool(cfg.condition_on_length) and split.lengths is not None
    sizes = {"grid": list(codes.grid), "num_codes": codes.num_codes, "num_codebooks": codes.num_codebooks,
             "num_classes": [len(codes.classes[column]) for column in columns],
             "local_channels": (0 if split.local is None else split.local.shape[1]) + CLOCK_CHANNELS * with_length}
    seed_weights(cfg.seed)
    prior = build(complete_prior(cfg, sizes))
    task = PriorTask(prior, columns, {"train": mean_codes(split), "validation": 1.0}, with_length)
    return cost_of(task, split, Settings(**plain(cfg.stage2)), cfg.seed)


def cost_of(task: Task, split: Split, settings: Settings, seed: int, freezes: bool = False) -> Cost:
    """Runs the training loop for some steps, and if the encoder freezes for as many more with a frozen one."""
    device = distributed.choose_device(settings.device)
    own_first, own_step = task.before_first_step, task.before_step
    initialisation, phases = 0.0, [list[float]() for _ in range(1 + freezes)]

    def clock() -> float:
        if device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(device)
        return time.monotonic()

    def before_first_step(batches: Iterator[Batch], parts: int = 1) -> None:
        nonlocal initialisation
        start = clock()
        own_first(batches, parts)
        initialisation = clock() - start

    def before_step(step: int) -> bool:
        phase = next(marks for marks in phases if not _enough(marks))
        if phase or step > SKIPPED:
            phase.append(clock())
        if not _enough(phase):
            return own_step(step)
        if phase is phases[-1]:
            raise _Measured
        assert isinstance(task, AutoencoderTask)
        task.frozen_from = step
        return own_step(step)

    vars(task).update(before_first_step=before_first_step, before_step=before_step)
    rare = {name: UNENDING for name in ("steps", "validate_every", "checkpoint_every", "log_every")}
    splits = {"train": split, "validation": split}
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()), suppress(_Measured):
        train(task, splits, replace(settings, **rare), Path(folder), seed, device, {})
    first, last = (_seconds_per_step(marks) for marks in (phases[0], phases[-1]))
    return Cost(initialisation, first, last)


def _enough(marks: list[float]) -> bool:
    """Moments before steps, one after another."""
    steps = len(marks) - 1
    return steps >= MOST or steps >= FEWEST and marks[-1] - marks[0] >= ENOUGH_SECONDS


def _seconds_per_step(marks: list[float]) -> float:
    """The median, which other programs on the machine change less than the mean."""
    return statistics.median(later - earlier for earlier, later in zip(marks, marks[1:]))


def describe_budget(run: Run, stage: str) -> str:
    """What budget.yaml says of a stage, in one line."""
    own: dict[str, Any] = read_config(run.root / FILE)[stage]
    return (f"{stage}: {own['steps']} steps of {own['step_seconds']:.3g} s in {own['minutes']:g} min, of which "
            f"{own['initialisation_seconds']:.3g} s initialise")


def planned_minutes(run: Run) -> float | None:
    """Of both stages together; None for a run without a budget."""
    if not (run.root / FILE).exists():
        return None
    return math.fsum(stage["minutes"] for stage in read_config(run.root / FILE).values())
