"""Codes that cost fewer bits than the encoder's own: lossy files that are smaller, at more error.

At each position, one after the other, the code is chosen that minimises |z - z_q|^2 / D - r log p(code | codes before
it): p is the prior's, D the item's mean of |z - z_q|^2 with the encoder's codes, so r, the rate weight, has no unit.
It is entropy-constrained quantisation (Chou, Lookabaugh and Gray, 1989) with the conditional probabilities of the file.
What a quantiser itself weighs besides the distance is added, so that r = 0 gives the encoder's codes.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from pipelines.codec.models import Group, Models
from pipelines.files.errors import InputError
from pipelines.splits.base import columns_of
from stage1_vqvae.bottlenecks.base import Quantizer
from stage2_prior.coding import choose
from stage2_prior.split import SplitCodes


def check_rate_weight(models: Models, rate_weight: float, lossless: bool) -> None:
    """Raises InputError for one that is out of range, or that does not fit the run or the kind of file."""
    if not (math.isfinite(rate_weight) and rate_weight >= 0):
        raise InputError(f"rate_weight: expected a number >= 0, found {rate_weight}")
    if rate_weight and lossless:
        raise InputError(f"rate_weight: expected 0 for a lossless file, whose codes are those of the encoder, found "
                         f"{rate_weight}")
    if rate_weight and isinstance(models.stage2.module, SplitCodes):
        raise InputError(f"rate_weight: expected 0 for a run whose prior splits codes, and has no logits of all "
                         f"{models.stage2.module.num_codes} of them, found {rate_weight}")
    bottleneck = models.stage1.module.bottleneck
    if rate_weight and type(bottleneck).distances is Quantizer.distances:
        raise InputError(f"rate_weight: expected 0 for a run whose codes are not chosen by distance, "
                         f"{type(bottleneck).__name__}, found {rate_weight}")


@torch.no_grad()
def cheaper_codes(models: Models, group: Group, z: Tensor, rate_weight: float) -> Group:
    """A group with the encoder's codes, and its encodings z (n, in_dim, *grid) -> the group with cheaper codes."""
    bottleneck, books = models.stage1.module.bottleneck, models.stage1.module.bottleneck.num_codebooks
    device, positions = z.device, models.positions(group.lengths)
    rows = z.flatten(2).mT  # (n, positions, in_dim)
    codes = group.codes.view(*rows.shape[:2], books).to(device)

    def distances(z: Tensor, earlier: Tensor) -> Tensor:
        return bottleneck.distances(z, earlier).double().cpu()

    scales = torch.empty(len(rows), books, dtype=torch.float64)
    for item, (own, chosen) in enumerate(zip(rows, codes, strict=True)):
        count = len(own) if positions is None else int(positions[item])
        for book in range(books):
            scales[item, book] = distances(own[:count], chosen[:count, :book]).gather(
                1, chosen[:count, book, None].cpu()).mean()
    scales = scales.clamp(min=torch.finfo(torch.float32).tiny) * rate_weight
    fixed = torch.zeros(books, 1) if (costs_besides := bottleneck.costs()) is None else costs_besides.double().cpu()

    def costs(part: slice, so_far: Tensor, position: tuple[int, ...]) -> Tensor:
        book, place = position[-1] if books > 1 else 0, position[: z.ndim - 2]
        earlier = so_far[(slice(None), *place)].view(len(so_far), -1)[:, :book].to(device)
        return (distances(z[(part, slice(None), *place)], earlier) + fixed[book]) / scales[part, book, None]

    cheaper = choose(models.prior, costs, len(group), tuple(z.shape[2:]),
                    columns_of(group.labels, models.prior_columns), models.local(group), positions)
    return replace(group, codes=cheaper)
