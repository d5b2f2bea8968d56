"""Both stages of a run, checked to belong together."""

import torch

from pipelines.files.errors import InputError
from pipelines.runs.store import Run, TrainedStage, check_same_stage1, load_stage1, load_stage2
from stage1_vqvae.bottlenecks.base import Quantizer
from stage1_vqvae.bottlenecks.gaussian import Gaussian


def load_chain(run: Run, device: torch.device) -> tuple[TrainedStage, TrainedStage]:
    """Both stages of a run. Raises InputError where the prior was fitted to the codes of another stage 1, or, of a run
    on codes, to those of another parent."""
    stage2, stage1 = load_stage2(run, device), load_stage1(run, device)
    check_same_stage1(stage2.state.get("stage1_hash", "none"), stage1, run.stage2)
    expected, found = stage2.state.get("parent_hash"), stage1.example.facts.get("parent", {}).get("stage1_hash")
    if expected != found:
        raise InputError(f"{run.stage2}: parent_hash: expected {run.stage1} to be trained on codes of {expected}, "
                         f"found {found}")
    return stage1, stage2


def load_vae(run: Run, device: torch.device) -> TrainedStage | None:
    """The stage 1 of a run whose latents have a prior of their own and need no stage 2; None where it has codes.

    Raises InputError for latents without codes that have no prior."""
    if not (run.stage1 / "config.yaml").exists():
        return None
    stage1 = load_stage1(run, device)
    bottleneck = stage1.module.bottleneck
    if isinstance(bottleneck, Quantizer):
        return None
    if not isinstance(bottleneck, Gaussian):
        raise InputError(f"{run.stage1}: expected codes or Gaussian latents, found {type(bottleneck).__name__}: there is "
                         "no distribution to sample from")
    return stage1
