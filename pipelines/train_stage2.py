"""Stage 2: fits a prior on the code data set of a run.

    python pipelines/train_stage2.py experiment=mnist train.lr=5e-4
    torchrun --nproc-per-node=2 pipelines/train_stage2.py experiment=imagenet128

Quantities that depend on the codes (grid, K, codebooks, classes) come from the code data set's manifest, never from a
configuration.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipelines.commands.hydra import hydra_main

if TYPE_CHECKING:
    from omegaconf import DictConfig


@hydra_main("stage2", "prior", "condition_on", "condition_on_length", "train")
def main(cfg: "DictConfig") -> None:
    import os

    import torch

    from pipelines.data.codes import CodeData
    from pipelines.evaluation.checkup import after_training, stage2_evidence
    from pipelines.files.errors import InputError
    from pipelines.health.evidence import settings_of
    from pipelines.runs.config import build, plain
    from pipelines.runs.example import CodeSpec
    from pipelines.runs.facts import COPIES, check_memory, check_prior, complete_prior
    from pipelines.runs.store import claim_folder, run_of
    from pipelines.splits.base import known_labels, label_columns
    from pipelines.splits.describe import describe
    from pipelines.splits.lengths import CLOCK_CHANNELS, length_counts
    from pipelines.splits.noise import seed_weights
    from pipelines.training import distributed
    from pipelines.training.checkpoint import find_checkpoint, read_state
    from pipelines.training.loop import describe_best, train
    from pipelines.training.prior import PriorTask, check_fit, mean_codes
    from pipelines.training.settings import Settings

    run, settings = run_of(cfg), Settings(**plain(cfg.stage2))
    device = distributed.choose_device(settings.device)
    codes = CodeData(run.codes)
    wanted = known_labels("condition_on", plain(cfg.condition_on), codes.label_names, codes.name,
                          os.environ.get("RANK", "0") == "0")
    columns = label_columns("condition_on", wanted, codes.label_names)
    split = codes.split("train")
    local, with_length = split.local, bool(cfg.condition_on_length) and split.lengths is not None
    sizes = {
        "grid": list(codes.grid),
        "num_codes": codes.num_codes,
        "num_codebooks": codes.num_codebooks,
        "num_classes": [len(codes.classes[column]) for column in columns],
        "local_channels": (0 if local is None else local.shape[1]) + CLOCK_CHANNELS * with_length,
    }
    prior_config = complete_prior(cfg, sizes)
    config = {
        "seed": cfg.seed,
        "prior": prior_config,
        "train": plain(cfg.stage2),
        "condition_on": [codes.label_names[column] for column in columns],
        "condition_on_length": with_length,
        "codes": CodeSpec(
            codes.grid, codes.num_codes, codes.num_codebooks, codes.label_names, codes.classes, codes.label_counts,
            codes.manifest.extraction, codes.name, codes.manifest.data["shape"],
            None if split.lengths is None else length_counts(split.labels, split.lengths)).to_config(),
    }
    with distributed.process_group(device), distributed.only_training(run.stage2, "train_stage2", device):
        if distributed.rank() == 0:
            print(describe(codes), flush=True)
        newest = find_checkpoint(run.stage2)
        if newest is not None and read_state(newest).stage1_hash != codes.stage1_hash:
            raise InputError(f"{run.codes}: expected the codes that this prior was trained on so far, found those of "
                             f"another stage 1; remove {run.stage2} or give the run another name")
        check_memory("prior", prior_config, COPIES)
        seed_weights(cfg.seed)
        prior = build(prior_config)
        check_prior(prior, sizes)
        splits = {name: codes.split(name) for name in ("train", "validation")}
        facts = {"stage1_hash": codes.stage1_hash, "parent_hash": codes.manifest.parent_hash,
                 "trained_at": datetime.now(UTC).isoformat()}
        means = {name: mean_codes(split) for name, split in splits.items()}
        task = PriorTask(prior, columns, means, with_length)
        task.settings = settings_of("stage2", config)
        check_fit(task, splits["train"].batch(torch.arange(1)))
        if distributed.rank() == 0:
            claim_folder(run.stage2, config)
        distributed.barrier()
        state = train(task, splits, settings, run.stage2, cfg.seed, device, facts)
        if distributed.rank() == 0:
            early = ", stopped early" if state.stopped_early else ""
            best = describe_best(state, "bits per code")
            print(f"stage 2 is trained: {run.stage2}, step {state.step}{early}; {best}")
            after_training(stage2_evidence(run.stage2, prior, config, codes))


if __name__ == "__main__":
    main()
