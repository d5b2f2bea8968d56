"""A trained run, read back and checked: stage 1, the runs below a run on codes, and stage 2 where one was trained."""

from dataclasses import dataclass
from functools import cached_property

import torch

from pipelines.files.errors import InputError
from pipelines.runs.store import (
    Run,
    TrainedStage,
    check_same_codes,
    check_same_stage1,
    load_parents,
    load_stage1,
    load_stage2,
)


@dataclass(frozen=True)
class LoadedRun:
    """The trained stages of a run, on one device."""

    run: Run
    stage1: TrainedStage
    parents: list[TrainedStage]  # of a run on codes: the stages 1 down to pixels, the nearest first
    device: torch.device

    @cached_property
    def stage2(self) -> TrainedStage | None:
        """The prior, read when it is first asked for; None where none was trained. Raises InputError where it was
        fitted to the codes of another stage 1 or, for a run on codes, to those of another parent."""
        pointers = self.run.stage2 / "checkpoints"
        if not any((pointers / which).exists() for which in ("best", "latest")):  # the first may be being written
            return None
        stage2 = load_stage2(self.run, self.device)
        check_same_stage1(stage2.state.stage1_hash, self.stage1, self.run.stage2)
        check_same_codes(self.stage1, stage2)
        expected, found = stage2.state.parent_hash, self.stage1.example.facts.get("parent", {}).get("stage1_hash")
        if expected != found:
            raise InputError(f"{self.run.stage2}: parent_hash: expected {self.run.stage1} to be trained on codes of "
                             f"{expected}, found {found}")
        return stage2


def load_run(run: Run, device: torch.device, parent: Run | None = None) -> LoadedRun:
    """The trained stages of a run. parent: of a run on codes the run that made them, if it moved since training.

    Raises InputError for a run without a trained stage 1, and for a run on codes whose parent was trained anew."""
    stage1 = load_stage1(run, device)
    return LoadedRun(run, stage1, load_parents(run, stage1, device, parent), device)
