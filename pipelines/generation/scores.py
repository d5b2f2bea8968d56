"""Exact likelihoods of single items: bits of the codes by the prior, bits of the data given the codes.

log2 p(x) >= log2 p(z_q(x)) + log2 p(x | z_q(x)): the posterior is a point, so the bound is their sum (arXiv 1711.00937,
section 3.2).
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.files.errors import InputError
from pipelines.generation.labels import class_number, decoder_labels
from pipelines.runs.chain import LoadedRun
from pipelines.runs.store import TrainedStage
from pipelines.splits.lengths import conditioning


@dataclass(frozen=True)
class Scores:
    """Of n items, on the CPU, float64 (n,)."""

    code_bits: Tensor  # -log2 of the prior's probability of the codes
    data_bits: Tensor  # -log2 p(x | z_q)
    dimensions: Tensor  # int64 (n,): data dimensions of each item, without padding

    @property
    def bits(self) -> Tensor:
        """-log2 of the joint probability of codes and data: an upper bound of -log2 p(x)."""
        return self.code_bits + self.data_bits

    @property
    def bits_per_dim(self) -> Tensor:
        """`bits` per data dimension."""
        return self.bits / self.dimensions


@torch.no_grad()
def score(loaded: LoadedRun, x: Tensor, lengths: Tensor | None, labels: Mapping[str, str], batch_size: int) -> Scores:
    """x (n, *shape) in data units, lengths (n,) where items are padded -> their scores.

    Labels of the prior that are not given are marginalised over, with their frequencies in training. Raises InputError
    for a run without a prior, for a prior with local conditions (actions), and for labels that do not fit."""
    stage1, stage2 = loaded.stage1, loaded.stage2
    if stage2 is None:
        raise InputError(f"{loaded.run.stage2}: expected a trained stage 2, found none; train it first: "
                         "make extract-codes stage2")
    for name in labels:
        if name not in {*stage1.condition_on, *stage2.condition_on}:
            raise InputError(f"{name}: expected one of the labels {[*stage2.condition_on]} of this run, found {name!r}")
    model, prior, device = stage1.module, stage2.module, next(stage1.module.parameters()).device
    given = decoder_labels(stage1, {name: labels[name] for name in stage1.condition_on if name in labels}, len(x))
    combinations, log_weights = prior_labels(stage2, labels)
    code_bits, data_bits = [], []
    for rows in torch.arange(len(x)).split(batch_size):
        part, length = x[rows].to(device), None if lengths is None else lengths[rows].to(device)
        own = None if given is None else given[rows].to(device)
        result = model.evaluate(part, own, lengths=length)
        codes = result.latent.codes
        positions = None if length is None else -(-length * codes.shape[1] // part.shape[2])
        local = conditioning(None, positions if stage2.condition_on_length else None, codes.shape[1])
        if prior.local_channels != (0 if local is None else local.shape[1]):
            raise InputError(f"{loaded.run.root}: expected a prior without local conditions, found one conditioned on "
                             "actions, which a single item does not have")
        joint = []
        for combination in combinations:
            own_labels = combination.to(device).expand(len(rows), -1) if len(combination) else None
            joint.append(prior.log_prob(codes, own_labels, local, positions).double().cpu())
        code_bits.append(-torch.logsumexp(torch.stack(joint) + log_weights[:, None], 0) / math.log(2))
        data_bits.append(result.nll_nats.cpu() / math.log(2))
    dimensions = torch.full((len(x),), x[0].numel()) if lengths is None else lengths
    return Scores(torch.cat(code_bits), torch.cat(data_bits), dimensions)


def prior_labels(stage2: TrainedStage, labels: Mapping[str, str]) -> tuple[Tensor, Tensor]:
    """All combinations (m, L) int64 of the prior's labels that are not given, and the log of their weights (m,)
    float64: products of training frequencies. Without labels one empty row of weight 1."""
    choices = []
    for name, column in zip(stage2.condition_on, stage2.prior_columns, strict=True):
        counts = torch.tensor(stage2.codes.label_counts[column], dtype=torch.float64)
        if name in labels:
            choices.append([(class_number(f"label {name}", labels[name], stage2.codes.classes[column]), 0.0)])
        else:
            seen = counts.nonzero().flatten().tolist()
            choices.append([(number, float((counts[number] / counts.sum()).log())) for number in seen])
    rows = list(itertools.product(*choices))
    classes = torch.tensor([[number for number, _ in row] for row in rows], dtype=torch.int64)
    weights = torch.tensor([math.fsum(weight for _, weight in row) for row in rows], dtype=torch.float64)
    return classes.view(len(rows), len(choices)), weights
