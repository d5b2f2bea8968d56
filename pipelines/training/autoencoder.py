"""Stage 1 as a task of the training loop: the objective of `Autoencoder`, and the care of its codebook."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from pipelines.files.errors import InputError
from pipelines.splits.base import Batch, real_codes
from pipelines.splits.noise import generator
from pipelines.training import distributed
from pipelines.training.log import RunLog
from pipelines.training.loop import Task
from stage1_vqvae.bottlenecks.gaussian import Gaussian
from stage1_vqvae.codebook import perplexity, usage

Show = Callable[..., None]  # (model, batch, labels, log=, step=): validation items to TensorBoard
ENCODINGS_A_CODE = 32  # gathered for the data-driven start of a codebook: k-means is then stable
FEWEST_BATCHES = 4


class AutoencoderTask(Task):
    """The objective of `Autoencoder`, and the codebook's care before the first and after every step."""

    title = "stage 1"

    def __init__(self, autoencoder: nn.Module, columns: list[int], show: Show):
        self.model = autoencoder
        self.columns = columns  # of the labels, those that the decoder is told
        self._show = show
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
        self._show(model, batch, self.labels(batch), log=log, step=step)


def check_fit(task: AutoencoderTask, batch: Batch) -> None:
    """Raises InputError where an example does not pass through and come out in its own shape."""
    shape = tuple(batch.x.shape[1:])
    try:
        found = task.model.evaluate(batch.x, task.labels(batch), lengths=batch.lengths).reconstruction
    except ValueError as error:
        raise InputError(f"autoencoder: {error}, for data of shape {shape}") from None
    if found is not None and found.shape != batch.x.shape:
        raise InputError(f"autoencoder: expected reconstructions of shape {shape}, found {tuple(found.shape[1:])}")
