"""Stage 1 as a task of the training loop: the objective of `Autoencoder`, and the care of its codebook."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from pipelines.files.errors import InputError
from pipelines.health.evidence import Facts
from pipelines.splits.base import Batch, columns_of, real_codes
from pipelines.splits.noise import generator, step_permutation
from pipelines.splits.transfer import send
from pipelines.training import distributed
from pipelines.training.log import RunLog
from pipelines.training.settings import Stage1Settings
from pipelines.training.task import Figures, Task
from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.autoregressive import AutoregressiveDecoder
from stage1_vqvae.bottlenecks.base import Latent

Show = Callable[..., None]  # (model, batch, labels, log=, step=): validation items to TensorBoard
FEWEST_BATCHES = 4  # that a bottleneck is initialised from
LEVELS_LOOKED_AT = 2**16
USES = "uses"  # among the figures of a batch: how often each code was used


class AutoencoderTask(Task):
    """The objective of `Autoencoder`, and the care of its bottleneck before the first and after every step."""

    title = "stage 1"

    def __init__(self, autoencoder: Autoencoder, columns: list[int], show: Show):
        self.model: Autoencoder = autoencoder
        self.columns = columns  # of the labels, those that the decoder is conditioned on
        self._show = show
        bottleneck = autoencoder.bottleneck
        self.needs_whole_batch = bottleneck.needs_whole_batch
        self.criterion = "objective" if bottleneck.rate_is_constant else "bound"
        self.settled_from = max(bottleneck.settled_from, autoencoder.beta_warmup_steps)
        self.usage: Tensor | None = None  # over the validation split
        self.positions: int | None = None  # codes of each codebook in it, once they are counted
        self.frozen_from: int | None = None  # the first step at which the encoder does not learn
        self.frozen = False

    def loss(self, network: nn.Module, batch: Batch, step: Tensor | int) -> tuple[Tensor, Figures]:
        output = network(batch.x, labels=self.labels(batch), step=step, lengths=batch.lengths)

        def figures() -> dict[str, Tensor]:
            bottleneck = self.model.bottleneck
            found = {"objective": output.objective.mean(), "auxiliary": output.auxiliary,
                     "equal values": equal_values(self.model.likelihood.levels(batch.x))}
            found |= bottleneck.figures(output.z_e, output.latent)
            counts = self.use(output.latent, batch)
            return found if counts is None else found | {USES: counts}

        return output.loss, figures

    def merged(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        counts = [part.pop(USES) for part in parts if USES in part]
        found = super().merged(parts)
        if not counts:
            return found
        return found | self.model.bottleneck.usage_figures(distributed.sum_over_ranks(torch.stack(counts).sum(0)))

    def figures(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(model, Autoencoder)
        uniforms = self.validation_noise(model, batch.x)
        output = model(batch.x, labels=self.labels(batch), uniforms=uniforms, lengths=batch.lengths)
        counts = self.use(output.latent, batch)
        if counts is not None:
            self.usage = counts if self.usage is None else self.usage + counts
        return {"objective": output.objective, "bound": output.bound}

    @staticmethod
    def validation_noise(model: Autoencoder, x: Tensor) -> Tensor | None:
        """The same for every batch; None where the bottleneck needs none."""
        draws = model.bottleneck.validation_draws
        if not draws:
            return None
        shape = (len(x), draws, *model.latent_grid(x.shape[1:]))
        return send(torch.from_numpy(generator(0, 0).random(shape)), x.device)

    def summary(self) -> dict[str, float]:
        if self.usage is None:
            return {}
        counts, self.usage = distributed.sum_over_ranks(self.usage), None
        self.positions = int(counts.sum(-1).max())
        return {name: float(figure) for name, figure in self.model.bottleneck.usage_figures(counts).items()}

    def facts(self) -> Facts:
        return replace(super().facts(), num_codes=getattr(self.model.bottleneck, "num_codes", None),
                       positions=self.positions)

    def labels(self, batch: Batch) -> Tensor | None:
        """Those that the decoder is conditioned on."""
        return columns_of(batch.labels, self.columns)

    def use(self, latent: Latent, batch: Batch) -> Tensor | None:
        """Uses of the codes, those of padding excluded; None where the bottleneck counts nothing."""
        if latent.codes is None:
            return None
        return self.model.bottleneck.usage(latent.codes, real_codes(batch, latent.codes.shape[1]))

    @torch.no_grad()
    def before_first_step(self, batches: Iterator[Batch], parts: int = 1) -> None:
        bottleneck = self.model.bottleneck
        if not bottleneck.needs_initialisation:
            return
        wanted = bottleneck.encodings_to_initialise
        found: list[Tensor] = []
        while len(found) < FEWEST_BATCHES or sum(map(len, found)) < wanted:
            z = torch.cat([self.model.embed(x) for x in next(batches).x.chunk(parts)])
            found.append(distributed.gather_rows(z.movedim(1, -1).flatten(0, -2)))
        encodings = torch.cat(found)
        chosen = step_permutation(len(encodings))[:wanted]
        bottleneck.initialise(encodings[send(chosen, encodings.device)])

    def before_step(self, step: int) -> bool:
        """Freezes the encoder from `frozen_from` on: without gradients its weights and their moments stay."""
        if self.frozen_from is None or step < self.frozen_from or self.frozen:
            return False
        self.model.encoder.requires_grad_(False)
        self.frozen = True
        return True

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.model.bottleneck.after_step(optimizer)

    def undecayed(self) -> list[nn.Parameter]:
        return self.model.bottleneck.codebooks()

    def show(self, model: nn.Module, batch: Batch, log: RunLog, step: int) -> None:
        self._show(model, batch, self.labels(batch), log=log, step=step)


def frozen_from(settings: Stage1Settings) -> int | None:
    """The first step at which the encoder does not learn, the second at the earliest; None: it always does."""
    if not settings.freeze_encoder_at:
        return None
    return max(2, int(settings.freeze_encoder_at * settings.steps) + 1)


def equal_values(levels: Tensor) -> Tensor:
    """Levels of a batch, any shape -> (): the share of them that equal their median, which is the commonest level
    where one has more than half. Of about `LEVELS_LOOKED_AT` of them: it is a figure of every logged step."""
    stride = levels.numel() // LEVELS_LOOKED_AT | 1  # odd, so that it meets every column of an image
    some = levels.flatten()[::stride]
    return (some == some.median()).float().mean()


def check_fit(task: AutoencoderTask, batch: Batch) -> None:
    """Raises InputError where an example does not pass through and come out in its own shape."""
    shape, decoder = tuple(batch.x.shape[1:]), task.model.decoder
    reader = decoder.upsampler if isinstance(decoder, AutoregressiveDecoder) else decoder
    if task.columns and len(inspect.signature(reader.forward).parameters) < 2:
        raise InputError(f"decoder_condition_on: expected [] for a decoder that takes no labels, "
                         f"{type(reader).__name__}, found {len(task.columns)} labels")
    try:
        found = task.model.evaluate(batch.x, task.labels(batch), lengths=batch.lengths).reconstruction
    except ValueError as error:
        raise InputError(f"autoencoder: {error}, for data of shape {shape}") from None
    except (RuntimeError, ArithmeticError, IndexError) as error:  # torch's words for sizes that do not fit
        raise InputError(f"autoencoder: expected an encoder and a decoder that fit the data, found: "
                         f"{str(error).splitlines()[0]}, for data of shape {shape}") from None
    if found is not None and found.shape != batch.x.shape:
        raise InputError(f"autoencoder: expected reconstructions of shape {shape}, found {tuple(found.shape[1:])}")
