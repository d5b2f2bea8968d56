"""Stage 1: trains an autoencoder, with a discrete or other bottleneck, on a data set.

    python pipelines/train_stage1.py experiment=cifar10_compact data.root=FOLDER train.lr=2e-4
    torchrun --nproc-per-node=4 pipelines/train_stage1.py experiment=imagenet128

Quantities that depend on the data (channels, the variance that normalises errors) come from the data, never from a
configuration.

Bottlenecks: ema (VQ-VAE, codebook by moving averages), gradient (VQ-VAE, codebook by gradient descent), diveq (VQ-VAE,
codebook by the gradient of the reconstruction), simvq (VQ-VAE, a learned matrix moves a frozen codebook), residual
(VQ-VAE, each codebook quantises what the previous ones leave), fsq (FSQ, rounding without a codebook), bsq (signs on a
sphere), gumbel (dVAE), vimco (VIMCO), gaussian (VAE), identity (AE).
"""

from typing import TYPE_CHECKING

from pipelines.commands.hydra import hydra_main

if TYPE_CHECKING:
    from omegaconf import DictConfig


@hydra_main("stage1", "data", "autoencoder", "decoder_condition_on", "train")
def main(cfg: "DictConfig") -> None:
    from functools import partial

    import torch

    from pipelines.data.manifest import MOST_CODES
    from pipelines.evaluation.checkup import after_training, stage1_evidence
    from pipelines.files.errors import InputError
    from pipelines.health.evidence import settings_of
    from pipelines.kinds import kind_of
    from pipelines.runs.config import build, plain
    from pipelines.runs.continued import note_settings
    from pipelines.runs.data import open_data
    from pipelines.runs.example import example_of, refuse_imported
    from pipelines.runs.facts import COPIES, check_memory, check_planned_shape, complete
    from pipelines.runs.store import claim_folder, run_of
    from pipelines.splits.base import known_labels, label_columns
    from pipelines.splits.noise import seed_weights
    from pipelines.training import distributed
    from pipelines.training.autoencoder import AutoencoderTask, check_fit, frozen_from
    from pipelines.training.loop import describe_best, train
    from pipelines.training.settings import Stage1Settings

    run, settings = run_of(cfg), Stage1Settings(**plain(cfg.stage1))
    device = distributed.choose_device(settings.device)
    with distributed.process_group(device):
        check_planned_shape(cfg)
        data = open_data(cfg.data)
        if data.own_run:
            refuse_imported(run.root)
        example = example_of(data)
        cfg.decoder_condition_on = known_labels("decoder_condition_on", plain(cfg.decoder_condition_on),
                                                data.label_names, data.name, distributed.rank() == 0)
        config = {
            "seed": cfg.seed,
            "data": plain(cfg.data),
            "autoencoder": complete(cfg, data),
            "condition_on": plain(cfg.decoder_condition_on),
            "train": plain(cfg.stage1),
            "example": example.to_config(),
        }
        check_memory("autoencoder", config["autoencoder"], COPIES)
        seed_weights(cfg.seed)
        autoencoder = build(config["autoencoder"])
        num_codes = getattr(autoencoder.bottleneck, "num_codes", 1)
        if num_codes > MOST_CODES:
            raise InputError(f"autoencoder.bottleneck: expected at most {MOST_CODES} codes, found {num_codes}")
        splits = {name: data.split(name) for name in ("train", "validation")}
        columns = label_columns("decoder_condition_on", config["condition_on"], data.label_names)
        task = AutoencoderTask(autoencoder, columns, partial(kind_of(data.kind).show, example=example))
        task.settings = settings_of("stage1", config)
        task.frozen_from = frozen_from(settings)
        for epoch in (None, 0):  # as evaluation and as training see it
            check_fit(task, splits["train"].batch(torch.arange(1), cfg.seed, epoch))
        with distributed.only_training(run.stage1, "train_stage1", device):
            if distributed.rank() == 0:
                if getattr(autoencoder.bottleneck, "num_codes", None) == 1:
                    print("note: K = 1: this autoencoder has no choice of codes; it can be trained and evaluated as a "
                          "decoder without latents, and no codes can be extracted")
                claim_folder(run.stage1, config)
                note_settings(run, cfg)
            distributed.barrier()
            state = train(task, splits, settings, run.stage1, cfg.seed, device, facts={})
        if distributed.rank() == 0:
            print(f"stage 1 is trained: {run.stage1}, step {state.step}; {describe_best(state, task.criterion)}")
            after_training(stage1_evidence(run.stage1, autoencoder, config, facts=task.facts()))


if __name__ == "__main__":
    main()
