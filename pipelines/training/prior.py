"""Stage 2 as a task of the training loop: maximum likelihood of the codes."""

import math

import torch
from torch import Tensor, nn

from pipelines.files.errors import InputError
from pipelines.splits.base import Batch, Split, columns_of
from pipelines.splits.lengths import conditioning
from pipelines.training.task import Figures, Task
from stage2_prior.prior import Prior


class PriorTask(Task):
    """Maximum likelihood of the codes: bits per code, in training and validation."""

    title = "stage 2"
    criterion = "bits"

    def __init__(self, prior: Prior, columns: list[int], mean_codes: dict[str, float], with_length: bool):
        self.model: Prior = prior
        self.columns = columns
        self.mean_codes = mean_codes  # mean number of codes per item of each split, without padding
        self.with_length = with_length

    def loss(self, network: nn.Module, batch: Batch, step: Tensor | int) -> tuple[Tensor, Figures]:
        logits = network(batch.x, self.labels(batch), self.local(batch))
        nll = self.model.nats_of(logits, batch.x)
        if batch.lengths is None:
            loss = nll.mean()
        else:  # over the mean number of codes, not this batch's own: so every rank's share weighs the same
            real = torch.arange(batch.x.shape[1], device=batch.x.device) < batch.lengths[:, None]
            real = real.view(*real.shape, *[1] * (nll.ndim - 2))  # all codebooks of a position
            loss = (nll * real).sum() / (len(batch.x) * self.mean_codes["train"])
        return loss, lambda: {"bits": loss.detach() / math.log(2)}

    def figures(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(model, Prior)
        log_prob = model.log_prob(batch.x, self.labels(batch), self.local(batch), batch.lengths)
        return {"bits": -log_prob / (self.mean_codes["validation"] * math.log(2))}

    def labels(self, batch: Batch) -> Tensor | None:
        return columns_of(batch.labels, self.columns)

    def local(self, batch: Batch) -> Tensor | None:
        return conditioning(batch.local, batch.lengths if self.with_length else None, batch.x.shape[1])


@torch.no_grad()
def check_fit(task: PriorTask, batch: Batch) -> None:
    """Raises InputError where the prior cannot give an item's codes a probability."""
    try:
        task.figures(task.model, batch)
    except (ValueError, RuntimeError, ArithmeticError, IndexError) as error:  # torch's words for sizes that do not fit
        raise InputError(f"prior: expected one that fits codes of shape {tuple(batch.x.shape[1:])}, found: "
                         f"{str(error).splitlines()[0]}") from None


def mean_codes(split: Split) -> float:
    """Mean number of codes per item: of all positions and codebooks that are not padding."""
    codes = math.prod(split.x.shape[1:])
    return codes if split.lengths is None else float(split.lengths.double().mean()) * codes / split.x.shape[1]
