"""Stage 1: trains an autoencoder, its bottleneck discrete or not, on a data set.

    python pipelines/train_stage1.py experiment=cifar10_compact data.root=FOLDER train.lr=2e-4
    torchrun --nproc-per-node=4 pipelines/train_stage1.py experiment=imagenet128

Sizes (channels, the variance that errors are divided by) come from the data, never from a configuration.
"""

from collections.abc import Iterator

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from pipelines.commands.hydra import hydra_main
from pipelines.files.errors import InputError
from pipelines.media.images import clip_frames, image_pairs
from pipelines.runs.config import build, plain
from pipelines.runs.store import claim_folder, run_of
from pipelines.splits.base import Batch, Data, label_columns, real_codes
from pipelines.splits.noise import generator
from pipelines.training import distributed
from pipelines.training.log import RunLog
from pipelines.training.loop import Task, describe_best, train
from pipelines.training.settings import Settings
from stage1_vqvae.autoregressive import AutoregressiveDecoder
from stage1_vqvae.bottlenecks.gaussian import Gaussian
from stage1_vqvae.codebook import perplexity, usage
from stage1_vqvae.likelihoods import Likelihood

ENCODINGS_A_CODE = 32  # gathered for the data-driven start of a codebook: k-means is then stable
FEWEST_BATCHES = 4


class AutoencoderTask(Task):
    """The objective of `Autoencoder`, and the codebook's care before the first and after every step."""

    title = "stage 1"

    def __init__(self, autoencoder: nn.Module, columns: list[int], sample_rate_hz: int | None):
        self.model = autoencoder
        self.columns = columns  # of the labels, those that the decoder is told
        self.sample_rate_hz = sample_rate_hz  # of sound; None: pictures
        bottleneck = autoencoder.bottleneck
        self.criterion = "objective" if bottleneck.rate_is_constant else "bound"
        # while the price of the rate still rises, errors are lower than they will be
        self.settled_from = max(getattr(bottleneck, "rate_warmup_steps", 0), autoencoder.beta_warmup_steps)
        self.num_codes = getattr(bottleneck, "num_codes", None)
        self.counts: Tensor | None = None  # (g, k) uses over the validation split

    def loss(self, network: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        output = network(batch.x, labels=self.labels(batch), step=step, lengths=batch.lengths)
        z_e = output.z_e.detach()[:, : self.model.bottleneck.dim].float()  # of Gaussian latents the mean
        figures = {"objective": output.objective.mean(), "auxiliary": output.auxiliary, "z_e norm": z_e.norm(dim=1).mean()}
        if self.num_codes:
            counts = distributed.sum_over_ranks(self.use(output.latent.codes, batch))
            figures |= {"perplexity": perplexity(counts).mean(), "codes used": (counts > 0).double().sum(1).mean()}
        return output.loss, figures

    def figures(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        uniforms = self.posterior_noise(model, batch.x) if isinstance(model.bottleneck, Gaussian) else None
        output = model(batch.x, labels=self.labels(batch), uniforms=uniforms, lengths=batch.lengths)
        if self.num_codes:
            counts = self.use(output.latent.codes, batch)
            self.counts = counts if self.counts is None else self.counts + counts
        return {"objective": output.objective, "bound": output.bound}

    @staticmethod
    def posterior_noise(model: nn.Module, x: Tensor) -> Tensor:
        """With Gaussian latents the bound is one on average over noise: the same for every batch."""
        grid = model.latent_grid(x.shape[1:])
        draws = generator(0, 0).random((len(x), model.bottleneck.dim, *grid))
        return torch.from_numpy(draws).to(x.device)

    def summary(self) -> dict[str, float]:
        if self.counts is None:
            return {}
        counts, self.counts = distributed.sum_over_ranks(self.counts), None
        return {"perplexity": float(perplexity(counts).mean()), "codes used": float((counts > 0).double().sum(1).mean())}

    def labels(self, batch: Batch) -> Tensor | None:
        """Those that the decoder is conditioned on."""
        return batch.labels[:, self.columns] if self.columns else None

    def use(self, codes: Tensor, batch: Batch) -> Tensor:
        """Uses of each code of each codebook, int64 (g, k); of padded items those of what is real."""
        codes = real_codes(codes, batch).reshape(-1, self.model.bottleneck.num_codebooks)
        return torch.stack([usage(part, self.num_codes) for part in codes.unbind(1)])

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

    def show(self, model: nn.Module, batch: Batch, log: RunLog, step: int) -> None:
        if batch.x.dtype == torch.int64:
            return  # codes of another run are no picture
        draws = generator(0, 0)
        if self.sample_rate_hz is None:
            drawn = isinstance(model.decoder, AutoregressiveDecoder)
            pixels = (len(batch.x), *batch.x.shape[2:])
            uniforms = torch.from_numpy(draws.random(pixels)).to(batch.x.device) if drawn else None
            made = model.evaluate(batch.x, self.labels(batch), uniforms).reconstruction
            originals, made = (clip_frames(x[:1]) if x.ndim == 5 else x for x in (batch.x.cpu(), made.cpu()))
            log.image(step, "validation", image_pairs(originals, made))
            return
        length = int(batch.lengths[0])
        labels = None if self.labels(batch) is None else self.labels(batch)[:1]
        uniforms = torch.from_numpy(draws.random((1, length))).to(batch.x.device)
        made = model.decode_latent(model.evaluate(batch.x[:1], labels).latent.z_q, labels, uniforms)
        for name, wave in (("original", batch.x), ("reconstruction", made)):
            log.sound(step, name, wave[0, 0, :length].float().cpu(), self.sample_rate_hz)


def complete(cfg: DictConfig, data: Data) -> dict:
    """The autoencoder's configuration with what only the data know in the place of each `???`."""
    columns = label_columns("decoder_condition_on", plain(cfg.decoder_condition_on), data.label_names)
    autoencoder = OmegaConf.to_container(cfg.autoencoder, resolve=False)
    facts = {"in_channels": data.shape[0], "num_classes": [len(data.classes[column]) for column in columns]}
    facts |= {"sample_rate_hz": data.sample_rate_hz} if data.kind == "audio" else {}
    facts |= {"num_codes": data.num_codes, "data_grid": list(data.shape[1:])} if data.kind == "codes" else {}
    facts |= {"variance": data.variance} if autoencoder["likelihood"].get("variance") == "???" else {}
    fill_in(autoencoder, facts)
    tree = OmegaConf.create({"autoencoder": autoencoder}).autoencoder
    likelihood, bottleneck = build(plain(tree.likelihood)), build(plain(tree.bottleneck))
    facts = {"out_channels": data.shape[0] * likelihood.params_per_value, "dim": bottleneck.in_dim}
    if autoencoder["encoder"].get("grid") == "???":
        facts["grid"] = encoded_grid(plain(tree.encoder.encoder), likelihood, data.shape)
    fill_in(autoencoder, facts)
    return plain(OmegaConf.create({"autoencoder": autoencoder}))["autoencoder"]


def encoded_grid(encoder: dict, likelihood: Likelihood, shape: tuple[int, ...]) -> list[int]:
    """The positions that an encoder makes of an example (c, *grid). Raises InputError for one that does not fit it."""
    example = likelihood.to_network(likelihood.from_levels(torch.zeros(1, *shape, dtype=torch.int64)))
    with torch.device("meta"):
        try:
            return list(build(encoder)(example.to("meta")).shape[2:])
        except ValueError as error:
            raise InputError(f"autoencoder: {error}, for data of shape {shape}") from None


def fill_in(tree: dict, facts: dict) -> None:
    """Sets each key without a value (`???`), at any depth, that `facts` has."""
    for key, value in tree.items():
        if isinstance(value, dict):
            fill_in(value, facts)
        elif value == "???" and key in facts:
            tree[key] = facts[key]


def check_fit(task: AutoencoderTask, batch: Batch) -> None:
    """Raises InputError where an example does not pass through and come out in its own shape."""
    shape = tuple(batch.x.shape[1:])
    try:
        found = task.model.evaluate(batch.x, task.labels(batch), lengths=batch.lengths).reconstruction
    except ValueError as error:
        raise InputError(f"autoencoder: {error}, for data of shape {shape}") from None
    if found is not None and found.shape != batch.x.shape:
        raise InputError(f"autoencoder: expected reconstructions of shape {shape}, found {tuple(found.shape[1:])}")


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
            "example": {"data": data.name, "kind": data.kind, "shape": list(data.shape),
                        "label_names": list(data.label_names), "classes": [list(names) for names in data.classes],
                        **({"sample_rate_hz": data.sample_rate_hz} if data.kind == "audio" else {}),
                        **({"action_names": list(data.action_names)} if data.kind == "video" else {}),
                        **({"parent": {"stage1_hash": data.parent_hash, "extraction": data.extraction}}
                           if data.kind == "codes" else {})},
        }
        torch.manual_seed(cfg.seed)
        autoencoder = build(config["autoencoder"])
        splits = {name: data.split(name) for name in ("train", "validation")}
        columns = label_columns("decoder_condition_on", config["condition_on"], data.label_names)
        task = AutoencoderTask(autoencoder, columns, config["example"].get("sample_rate_hz"))
        for epoch in (None, 0):  # as evaluation and as training see it
            check_fit(task, splits["train"].batch(torch.arange(1), cfg.seed, epoch))
        if distributed.rank() == 0:
            claim_folder(run.stage1, config)
        distributed.barrier()
        state = train(task, splits, settings, run.stage1, cfg.seed, device, facts={})
    if distributed.rank() == 0:
        print(f"stage 1 is trained: {run.stage1}, step {state['step']}; {describe_best(state, task.criterion)}")


if __name__ == "__main__":
    main()
