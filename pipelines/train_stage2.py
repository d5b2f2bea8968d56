"""Stage 2: fits a prior on the code data set of a run.

    python pipelines/train_stage2.py experiment=mnist train.lr=5e-4
    torchrun --nproc-per-node=2 pipelines/train_stage2.py experiment=imagenet128

Sizes (codes, codebooks, classes) come from the code data set's manifest, never from a configuration.
"""

import math
from datetime import datetime, timezone

import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from pipelines.commands.hydra import hydra_main
from pipelines.data.codes import CodeData
from pipelines.files.errors import InputError
from pipelines.generation.lengths import CLOCK_CHANNELS, conditioning, length_counts
from pipelines.runs.config import build, plain
from pipelines.runs.store import claim_folder, run_of
from pipelines.splits.base import Batch, Split, label_columns
from pipelines.training import distributed
from pipelines.training.checkpoint import find_checkpoint, read_state
from pipelines.training.loop import Task, describe_best, train
from pipelines.training.settings import Settings


class PriorTask(Task):
    """Maximum likelihood of the codes: bits a code, in training and validation."""

    title = "stage 2"
    criterion = "bits"

    def __init__(self, prior: nn.Module, columns: list[int], mean_codes: dict[str, float], told_length: bool):
        self.model = prior
        self.columns = columns
        self.mean_codes = mean_codes  # codes of an item in the mean, for each split: without padding
        self.told_length = told_length

    def loss(self, network: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        logits = network(batch.x, self.labels(batch), self.local(batch))
        if batch.lengths is None:
            loss = F.cross_entropy(logits, batch.x)
        else:  # over the mean number of codes, not this batch's own: so every rank's share weighs the same
            real = torch.arange(batch.x.shape[1], device=batch.x.device) < batch.lengths[:, None]
            nats = F.cross_entropy(logits, batch.x, reduction="none")
            loss = nats[real].sum() / (len(batch.x) * self.mean_codes["train"])
        return loss, {"bits": loss.detach() / math.log(2)}

    def figures(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        log_prob = model.log_prob(batch.x, self.labels(batch), self.local(batch), batch.lengths)
        return {"bits": -log_prob / (self.mean_codes["validation"] * math.log(2))}

    def labels(self, batch: Batch) -> Tensor | None:
        return batch.labels[:, self.columns] if self.columns else None

    def local(self, batch: Batch) -> Tensor | None:
        return conditioning(batch.local, batch.lengths if self.told_length else None, batch.x.shape[1])


def mean_codes(split: Split) -> float:
    """Codes of an item in the mean: of all positions and codebooks, or of those that are not padding."""
    codes = math.prod(split.x.shape[1:])
    return codes if split.lengths is None else float(split.lengths.double().mean()) * codes / split.x.shape[1]


@hydra_main("stage2")
def main(cfg: DictConfig) -> None:
    run, settings = run_of(cfg), Settings(**plain(cfg.stage2))
    device = distributed.choose_device(settings.device)
    codes = CodeData(run.codes)
    columns = label_columns("condition_on", plain(cfg.condition_on), codes.label_names)
    split = codes.split("train")
    local, told_length = split.local, bool(cfg.condition_on_length) and split.lengths is not None
    sizes = {
        "num_codes": codes.num_codes,
        "num_codebooks": codes.num_codebooks,
        "num_classes": [len(codes.classes[column]) for column in columns],
        "local_channels": (0 if local is None else local.shape[1]) + CLOCK_CHANNELS * told_length,
    }
    prior_config = plain(OmegaConf.merge(cfg.prior, sizes))
    config = {
        "seed": cfg.seed,
        "prior": prior_config,
        "train": plain(cfg.stage2),
        "condition_on": [codes.label_names[column] for column in columns],
        "codes": {"grid": list(codes.grid), "num_codes": codes.num_codes, "num_codebooks": codes.num_codebooks,
                  "label_names": list(codes.label_names), "classes": [list(names) for names in codes.classes],
                  "label_counts": [list(counts) for counts in codes.label_counts],
                  "extraction": codes.manifest.extraction, "data": codes.name,
                  "shape": list(codes.manifest.data["shape"])},
    }
    if split.lengths is not None:
        config["codes"]["length_counts"] = length_counts(split.labels, split.lengths)
        config["condition_on_length"] = told_length
    with distributed.process_group(device):
        if distributed.rank() == 0:
            claim_folder(run.stage2, config)
        distributed.barrier()
        newest = find_checkpoint(run.stage2)
        if newest is not None and read_state(newest)["stage1_hash"] != codes.stage1_hash:
            raise InputError(f"{run.codes}: expected the codes that this prior was trained on so far, found those of "
                             f"another stage 1; remove {run.stage2} or give the run another name")
        torch.manual_seed(cfg.seed)
        prior = build(prior_config)
        splits = {name: codes.split(name) for name in ("train", "validation")}
        facts = {"stage1_hash": codes.stage1_hash, "parent_hash": codes.manifest.parent_hash,
                 "trained_at": datetime.now(timezone.utc).isoformat()}
        means = {name: mean_codes(split) for name, split in splits.items()}
        task = PriorTask(prior, columns, means, told_length)
        state = train(task, splits, settings, run.stage2, cfg.seed, device, facts)
    if distributed.rank() == 0:
        early = ", stopped early" if state["stopped_early"] else ""
        print(f"stage 2 is trained: {run.stage2}, step {state['step']}{early}; {describe_best(state, 'bits a code')}")


if __name__ == "__main__":
    main()
