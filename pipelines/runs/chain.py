"""All that a run has, loaded and found to belong together: its stages, and those of the runs below a run on codes."""

from dataclasses import dataclass

import torch

from pipelines.files.errors import InputError
from pipelines.runs.store import Run, TrainedStage, check_same_stage1, load_parents, load_stage1, load_stage2


@dataclass(frozen=True)
class LoadedRun:
    """A run's trained stages, in eval mode on one device."""

    run: Run
    stage1: TrainedStage
    stage2: TrainedStage | None  # None where no prior was trained: stage 1 alone, or latents without codes (AE, VAE)
    parents: list[TrainedStage]  # of a run on codes, `load_parents`; [] for any other run


def load_run(run: Run, device: torch.device, parent: Run | None = None) -> LoadedRun:
    """Loads each stage that a run has, once. `parent`: as `load_parents` has it.

    Raises InputError where stage 1 is not trained, where the prior was fitted to the codes of another stage 1, or where
    it, or stage 1, was trained on the codes of another parent."""
    stage1 = load_stage1(run, device)
    stage2 = load_stage2(run, device) if (run.stage2 / "checkpoints").is_dir() else None
    if stage2 is not None:
        check_same_stage1(stage2.state.stage1_hash, stage1, run.stage2)
        expected, found = stage2.state.parent_hash, stage1.example.facts.get("parent", {}).get("stage1_hash")
        if expected != found:
            raise InputError(f"{run.stage2}: parent_hash: expected {run.stage1} to be trained on codes of {expected}, "
                             f"found {found}")
    return LoadedRun(run, stage1, stage2, load_parents(run, stage1, device, parent))
