"""Stage 1: trains an autoencoder, its bottleneck discrete or not, on a data set.

    python pipelines/train_stage1.py experiment=cifar10_compact data.root=FOLDER train.lr=2e-4
    torchrun --nproc-per-node=4 pipelines/train_stage1.py experiment=imagenet128

Sizes (channels, the variance that errors are divided by) come from the data, never from a configuration.
"""

from functools import partial

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from pipelines.commands.hydra import hydra_main
from pipelines.media.images import clip_frames, image_pairs
from pipelines.runs.config import build, plain
from pipelines.runs.example import example_of
from pipelines.runs.facts import complete
from pipelines.runs.store import claim_folder, run_of
from pipelines.splits.base import Batch, label_columns
from pipelines.splits.noise import generator
from pipelines.training import distributed
from pipelines.training.autoencoder import AutoencoderTask, check_fit
from pipelines.training.log import RunLog
from pipelines.training.loop import describe_best, train
from pipelines.training.settings import Settings
from stage1_vqvae.autoregressive import AutoregressiveDecoder


def show(model: nn.Module, batch: Batch, labels: Tensor | None, log: RunLog, step: int, sample_rate_hz: int | None) -> None:
    """Originals and reconstructions of some validation items, to TensorBoard."""
    if batch.x.dtype == torch.int64:
        return  # codes of another run are no picture
    draws = generator(0, 0)
    if sample_rate_hz is None:
        drawn = isinstance(model.decoder, AutoregressiveDecoder)
        pixels = (len(batch.x), *batch.x.shape[2:])
        uniforms = torch.from_numpy(draws.random(pixels)).to(batch.x.device) if drawn else None
        made = model.evaluate(batch.x, labels, uniforms).reconstruction
        originals, made = (clip_frames(x[:1]) if x.ndim == 5 else x for x in (batch.x.cpu(), made.cpu()))
        log.image(step, "validation", image_pairs(originals, made))
        return
    length = int(batch.lengths[0])
    labels = None if labels is None else labels[:1]
    uniforms = torch.from_numpy(draws.random((1, length))).to(batch.x.device)
    made = model.decode_latent(model.evaluate(batch.x[:1], labels).latent.z_q, labels, uniforms)
    for name, wave in (("original", batch.x), ("reconstruction", made)):
        log.sound(step, name, wave[0, 0, :length].float().cpu(), sample_rate_hz)


@hydra_main("stage1")
def main(cfg: DictConfig) -> None:
    run, settings = run_of(cfg), Settings(**plain(cfg.stage1))
    device = distributed.choose_device(settings.device)
    with distributed.process_group(device):
        data = build(cfg.data)
        config = {
            "seed": cfg.seed,
            "data": plain(cfg.data),
            "autoencoder": complete(cfg, data),
            "condition_on": plain(cfg.decoder_condition_on),
            "train": plain(cfg.stage1),
            "example": example_of(data).to_config(),
        }
        torch.manual_seed(cfg.seed)
        autoencoder = build(config["autoencoder"])
        splits = {name: data.split(name) for name in ("train", "validation")}
        columns = label_columns("decoder_condition_on", config["condition_on"], data.label_names)
        task = AutoencoderTask(
            autoencoder, columns, partial(show, sample_rate_hz=config["example"]["facts"].get("sample_rate_hz")))
        for epoch in (None, 0):  # as evaluation and as training see it
            check_fit(task, splits["train"].batch(torch.arange(1), cfg.seed, epoch))
        if distributed.rank() == 0:
            claim_folder(run.stage1, config)
        distributed.barrier()
        state = train(task, splits, settings, run.stage1, cfg.seed, device, facts={})
    if distributed.rank() == 0:
        print(f"stage 1 is trained: {run.stage1}, step {state.step}; {describe_best(state, task.criterion)}")


if __name__ == "__main__":
    main()
