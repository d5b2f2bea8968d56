"""Stage 1: trains an autoencoder with a discrete bottleneck on a data set.

    python pipelines/train_stage1.py experiment=cifar10_compact data.root=FOLDER train.lr=2e-4
    torchrun --nproc-per-node=4 pipelines/train_stage1.py experiment=imagenet128

Sizes (channels, the variance that errors are divided by) come from the data, never from a configuration.
"""

from collections.abc import Iterator

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from pipelines import media
from pipelines.config import build, hydra_main, plain
from pipelines.data.base import Batch, Data
from pipelines.errors import InputError
from pipelines.runs import claim_folder, run_of
from pipelines.training import distributed
from pipelines.training.loop import Settings, Task, describe_best, train
from stage1_vqvae.codebook import perplexity, usage

ENCODINGS_A_CODE = 32  # gathered for the data-driven start of a codebook: k-means is then stable
FEWEST_BATCHES = 4


class AutoencoderTask(Task):
    """The objective of `Autoencoder`, and the codebook's care before the first and after every step."""

    title = "stage 1"
    criterion = "objective"

    def __init__(self, autoencoder: nn.Module):
        self.model = autoencoder
        # while the price of the rate still rises, errors are lower than they will be
        self.settled_from = getattr(autoencoder.bottleneck, "rate_warmup_steps", 0)
        self.num_codes = getattr(autoencoder.bottleneck, "num_codes", None)
        self.counts: Tensor | None = None  # (g, k) uses over the validation split

    def loss(self, network: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        output = network(batch.x, labels=batch.labels, step=step)
        figures = {"objective": output.objective.mean(), "auxiliary": output.latent.loss}
        if self.num_codes:
            counts = distributed.sum_over_ranks(self.use(output.latent.codes))
            figures |= {"perplexity": perplexity(counts).mean(), "codes used": (counts > 0).double().sum(1).mean()}
        return output.loss, figures

    def figures(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        output = model(batch.x, labels=batch.labels)
        if self.num_codes:
            counts = self.use(output.latent.codes)
            self.counts = counts if self.counts is None else self.counts + counts
        return {"objective": output.objective, "bound": output.objective + model.beta * output.latent.rate_nats
                / batch.x[0].numel()}

    def summary(self) -> dict[str, float]:
        if self.counts is None:
            return {}
        counts, self.counts = distributed.sum_over_ranks(self.counts), None
        return {"perplexity": float(perplexity(counts).mean()), "codes used": float((counts > 0).double().sum(1).mean())}

    def use(self, codes: Tensor) -> Tensor:
        """Uses of each code of each codebook, int64 (g, k)."""
        codebooks = self.model.bottleneck.num_codebooks
        return torch.stack([usage(part, self.num_codes) for part in codes.reshape(-1, codebooks).unbind(1)])

    @torch.no_grad()
    def before_first_step(self, batches: Iterator[Batch]) -> None:
        bottleneck = self.model.bottleneck
        if not bottleneck.needs_initialisation:
            return
        encodings: list[Tensor] = []
        while len(encodings) < FEWEST_BATCHES or sum(map(len, encodings)) < ENCODINGS_A_CODE * self.num_codes:
            z = self.model.embed(next(batches).x)
            encodings.append(distributed.gather_rows(z.movedim(1, -1).flatten(0, -2)))
        encodings = torch.cat(encodings)
        bottleneck.initialise(encodings[torch.randperm(len(encodings))[: ENCODINGS_A_CODE * self.num_codes]])

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.model.bottleneck.after_step(optimizer)

    def picture(self, model: nn.Module, batch: Batch) -> Tensor:
        return media.comparison(batch.x.cpu(), model.evaluate(batch.x).reconstruction.cpu())


def complete(cfg: DictConfig, data: Data) -> dict:
    """The autoencoder's configuration with the sizes that only the data know."""
    autoencoder = OmegaConf.create(OmegaConf.to_container(cfg.autoencoder, resolve=False))
    tree = OmegaConf.create({"autoencoder": autoencoder})
    if OmegaConf.is_missing(tree.autoencoder.likelihood, "variance"):
        tree.autoencoder.likelihood.variance = data.variance
    tree.autoencoder.encoder.in_channels = data.shape[0]
    per_value = build(plain(tree.autoencoder.likelihood)).params_per_value
    tree.autoencoder.decoder.out_channels = data.shape[0] * per_value
    return plain(tree)["autoencoder"]


def check_fit(autoencoder: nn.Module, x: Tensor) -> None:
    """Raises InputError where one example (1, *shape) does not pass through and come out in its own shape."""
    try:
        found = autoencoder.evaluate(x).reconstruction.shape
    except ValueError as error:
        raise InputError(f"autoencoder: {error}, for data of shape {tuple(x.shape[1:])}") from None
    if found != x.shape:
        raise InputError(f"autoencoder: expected reconstructions of shape {tuple(x.shape[1:])}, found {tuple(found[1:])}")


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
            "train": plain(cfg.stage1),
            "example": {"data": data.name, "kind": data.kind, "shape": list(data.shape),
                        "label_names": list(data.label_names), "classes": [list(names) for names in data.classes]},
        }
        torch.manual_seed(cfg.seed)
        autoencoder = build(config["autoencoder"])
        splits = {name: data.split(name) for name in ("train", "validation")}
        check_fit(autoencoder, splits["train"].batch(torch.arange(1)).x)
        if distributed.rank() == 0:
            claim_folder(run.stage1, config)
        distributed.barrier()
        state = train(AutoencoderTask(autoencoder), splits, settings, run.stage1, cfg.seed, device, facts={})
    if distributed.rank() == 0:
        print(f"stage 1 is trained: {run.stage1}, step {state['step']}; {describe_best(state, 'objective')}")


if __name__ == "__main__":
    main()
