"""Exact likelihoods of single items: bits of the codes by the prior, bits of the data given the codes, and where they
lie.

log2 p(x) >= log2 p(z_q(x)) + log2 p(x | z_q(x)): the posterior is a point, so the bound is their sum (arXiv 1711.00937,
section 3.2).

Axes: n items, *grid of codes, g codebooks, c channels, L labels, m combinations of the labels that are not given.
"""

import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipelines.files.errors import InputError
from pipelines.generation.labels import class_number, classes_of, decoder_labels
from pipelines.ranks.shares import shared
from pipelines.runs.chain import LoadedRun
from pipelines.runs.store import TrainedStage
from pipelines.splits.lengths import conditioning


@dataclass(frozen=True)
class Scores:
    """Of n items, on the CPU, float64 (n,) unless stated otherwise."""

    code_bits: Tensor  # -log2 of the prior's probability of the codes
    data_bits: Tensor  # -log2 p(x | z_q)
    dimensions: Tensor  # int64 (n,): data dimensions of each item, without padding
    codes: Tensor  # int64 (n, *grid[, g])
    num_codes: Tensor  # int64 (n,): codes of each item, of all codebooks, without padding
    code_map: Tensor | None  # (n, *grid): bits of the codes at each position given the earlier ones; 0 in padding
    data_map: Tensor | None  # float32 (n, *data grid): bits of the data at each position, of all channels
    codec_bits: Tensor | None = None  # size of each item as a lossless file; None where there is no codec for it

    @property
    def bits(self) -> Tensor:
        """-log2 of the joint probability of codes and data: an upper bound of -log2 p(x)."""
        return self.code_bits + self.data_bits

    @property
    def bits_per_dim(self) -> Tensor:
        """`bits` per data dimension."""
        return self.bits / self.dimensions

    @property
    def bits_per_code(self) -> Tensor:
        """`code_bits` per code: what tells unusual content apart best, whatever the length of an item."""
        return self.code_bits / self.num_codes

    @property
    def bits_minus_codec(self) -> Tensor | None:
        """`bits` without the item's complexity, which is estimated by a lossless codec: the score S(x) of Serrà et al.,
        "Input complexity and out-of-distribution detection with likelihood-based generative models" (arXiv
        1909.11480), equation 1. None where there is no codec."""
        return None if self.codec_bits is None else self.bits - self.codec_bits


def score(loaded: LoadedRun, x: Tensor, lengths: Tensor | None, labels: Mapping[str, str], batch_size: int,
          local: Tensor | None = None) -> Scores:
    """x (n, *shape) in data units, lengths (n,) where items are padded -> their scores, with maps.

    labels: classes by name. Labels of the prior that are not given are marginalised over, with their frequencies in
    training. local (n, c, *grid or 1s): the local features that the prior is conditioned on, such as actions.
    Raises InputError for a run without a prior, for local features that are missing, and for labels that do not fit."""
    stage1, stage2 = loaded.stage1, trained_prior(loaded)
    for name in labels:
        if name not in {*stage1.condition_on, *stage2.condition_on}:
            raise InputError(f"{name}: expected one of the labels {[*stage2.condition_on]} of this run, found {name!r}")
    decoder_labels(stage1, {name: labels[name] for name in stage1.condition_on if name in labels}, len(x))
    given = {name: torch.full((len(x),), class_number(f"label {name}", wanted, classes_of(stage1.example, name)))
             for name, wanted in labels.items()}
    return score_items(loaded, x, lengths, given, batch_size, local)


def trained_prior(loaded: LoadedRun) -> TrainedStage:
    """Stage 2. Raises InputError for a run that has none."""
    if loaded.stage2 is None:
        raise InputError(f"{loaded.run.stage2}: expected a trained stage 2, found none; train it first: "
                         "make extract-codes stage2")
    return loaded.stage2


def score_items(loaded: LoadedRun, x: Tensor, lengths: Tensor | None, given: Mapping[str, Tensor], batch_size: int,
                local: Tensor | None = None, maps: bool = True) -> Scores:
    """As `score`, with a class int64 (n,) of each item for each label that is given; without `maps` these are None."""
    def of_rows(rows: Tensor) -> dict[str, Tensor | None]:
        found = _score_batch(loaded, x[rows], None if lengths is None else lengths[rows],
                             {name: own[rows] for name, own in given.items()}, None if local is None else local[rows])
        return vars(found if maps else replace(found, code_map=None, data_map=None))

    parts = list(shared(torch.arange(len(x)).split(batch_size), of_rows))
    return Scores(**{name: None if value is None else torch.cat([part[name] for part in parts])
                     for name, value in parts[0].items()})


@torch.no_grad()
def _score_batch(loaded: LoadedRun, x: Tensor, lengths: Tensor | None, given: Mapping[str, Tensor],
                 local: Tensor | None) -> Scores:
    stage1, device = loaded.stage1, next(loaded.stage1.module.parameters()).device
    own = torch.stack([given[name] for name in stage1.condition_on], 1).to(device) if stage1.condition_on else None
    on_device = None if lengths is None else lengths.to(device)
    result = stage1.module.evaluate(x.to(device), own, lengths=on_device)
    codes = result.latent.codes
    positions = None if lengths is None else -(-lengths * codes.shape[1] // x.shape[2])
    code_map = prior_bits(loaded, codes, positions, given, local)
    data_map = result.value_nats.float().sum(1).cpu() / math.log(2)
    counted, width = torch.full((len(x),), codes.shape[1]), codes[0, 0].numel()
    if lengths is not None:
        counted = positions
        data_map = data_map * (torch.arange(data_map.shape[1]) < lengths[:, None])
    dimensions = torch.full((len(x),), x[0].numel()) if lengths is None else lengths * x.shape[1]
    return Scores(code_map.flatten(1).sum(1), result.nll_nats.cpu() / math.log(2), dimensions, codes.cpu(),
                  counted * width, code_map, data_map)


@torch.no_grad()
def prior_bits(loaded: LoadedRun, codes: Tensor, positions: Tensor | None, given: Mapping[str, Tensor],
               local: Tensor | None) -> Tensor:
    """Codes (b, *grid[, g]) -> float64 (b, *grid): the bits of each position given the earlier ones, all codebooks
    together; 0 in padding. They sum to -log2 of the marginal over the labels that are not given.

    positions (b,): how many codes of each item are real, on the CPU; None: all."""
    stage2 = loaded.stage2
    prior, grid = stage2.module, codes.shape[1 : 1 + stage2.module.grid_axes]
    local = None if local is None else local.float().expand(-1, -1, *grid).to(codes.device)
    on_device = None if positions is None else positions.to(codes.device)
    local = conditioning(local, on_device if stage2.condition_on_length else None, codes.shape[1])
    if prior.local_channels != (0 if local is None else local.shape[1]):
        raise InputError(f"{loaded.run.root}: expected a prior without local conditions, found one conditioned on "
                         "actions, which a single item does not have")
    combinations, log_weights = prior_labels(stage2, given)
    nats = []
    for combination in combinations:
        labels = combination.expand(len(codes), -1).clone()
        for column, name in enumerate(stage2.condition_on):
            if name in given:
                labels[:, column] = given[name]
        own = labels.to(codes.device) if labels.shape[1] else None
        nats.append(prior.code_nats(codes, own, local).double().cpu().view(len(codes), math.prod(grid), -1).sum(2))
    so_far = torch.stack(nats)
    if positions is not None:
        so_far = so_far * (torch.arange(so_far.shape[2]) < positions[:, None])
    so_far = torch.logsumexp(log_weights[:, None, None] - so_far.cumsum(2), 0)  # log p of the codes up to each
    return -torch.diff(so_far, dim=1, prepend=torch.zeros(len(codes), 1)).view(-1, *grid) / math.log(2)


def prior_labels(stage2: TrainedStage, given: Collection[str]) -> tuple[Tensor, Tensor]:
    """All combinations (m, L) int64 of the prior's labels that are not given, and the log of their weights (m,)
    float64: products of training frequencies. Columns of given labels are 0. Without labels one empty row of weight
    1."""
    choices = []
    for name, column in zip(stage2.condition_on, stage2.prior_columns, strict=True):
        counts = torch.tensor(stage2.codes.label_counts[column], dtype=torch.float64)
        seen = [] if name in given else counts.nonzero().flatten().tolist()
        choices.append([(number, float((counts[number] / counts.sum()).log())) for number in seen] or [(0, 0.0)])
    rows = list(itertools.product(*choices))
    classes = torch.tensor([[number for number, _ in row] for row in rows], dtype=torch.int64)
    weights = torch.tensor([math.fsum(weight for _, weight in row) for row in rows], dtype=torch.float64)
    return classes.view(len(rows), len(choices)), weights
