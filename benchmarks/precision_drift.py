"""How far codes and scores in bfloat16 autocast are from those in float32, of trained runs on held-out items.

    python -m benchmarks.precision_drift --run mnist fsdd imagenet128 --data-root data --items 64

`codes that differ`: the share of positions at which the encoder in bfloat16 chooses another code; the quantiser itself
computes in float32 in either case. `items`: that have at least one. `bits per code`: of the same codes by the prior, in
float32, and how much the mean over all items is higher in bfloat16, the prior's network computing in it; `per item` is
the mean absolute difference of an item's bits per code. Encoding, scoring, compressing and sampling use float32: this
is what another choice would change.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipelines.commands.flags import VerbParser
from pipelines.evaluation.exports import held_out_batch
from pipelines.files.errors import one_line_errors
from pipelines.runs.chain import LoadedRun, load_run
from pipelines.runs.find import chosen_run
from pipelines.splits.base import Batch, code_lengths, columns_of
from pipelines.splits.lengths import conditioning
from pipelines.training.distributed import choose_device

BATCH = 16


@dataclass(frozen=True)
class Drift:
    """Of n items; padding is excluded."""

    codes_that_differ: float  # a share
    items_that_differ: float  # a share
    bits: float  # bits per code in float32
    higher: float  # mean over items of the difference, bfloat16 minus float32
    per_item: float  # mean over items of the absolute difference


def main() -> None:
    parser = VerbParser(__doc__)
    parser.add_argument("--run", nargs="+", required=True)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--items", type=int, default=64)
    arguments = parser.parse_args()
    print("| run | codes that differ | items | bits per code | higher | per item |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in arguments.run:
        loaded = load_run(chosen_run(name, Path("runs")), choose_device("cpu"))
        found = drift(loaded, held_out_batch(loaded, arguments.items, arguments.data_root))
        print(f"| {name} | {found.codes_that_differ:.2%} | {found.items_that_differ:.0%} | {found.bits:.4f} | "
              f"{found.higher:+.5f} | {found.per_item:.5f} |", flush=True)


def drift(loaded: LoadedRun, batch: Batch) -> Drift:
    """Of a batch on the CPU."""
    exact, rough, bits = [], [], []
    for part in torch.arange(len(batch.x)).split(BATCH):
        own = Batch(*(None if field is None else field[part] for field in batch))
        codes = [encoded(loaded, own, low) for low in (False, True)]
        exact.append(codes[0])
        rough.append(codes[1])
        bits.append(torch.stack([bits_per_code(loaded, own, codes[0], low) for low in (False, True)]))
    codes, others = torch.cat(exact), torch.cat(rough)
    real = torch.arange(codes.shape[1]) < real_positions(batch, codes.shape[1])[:, None]
    differ = (codes != others) & real[..., None]
    (float32, bfloat16) = torch.cat(bits, 1)
    return Drift(float(differ.sum() / (real.sum() * codes.shape[2])), float(differ.flatten(1).any(1).float().mean()),
                 float(float32.mean()), float((bfloat16 - float32).mean()), float((bfloat16 - float32).abs().mean()))


def encoded(loaded: LoadedRun, batch: Batch, low: bool) -> Tensor:
    """(n, positions, codebooks)."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=low):
        codes = loaded.stage1.module.encode(batch.x)
    books = loaded.stage1.module.bottleneck.num_codebooks
    return codes.reshape(len(codes), -1, books)


def bits_per_code(loaded: LoadedRun, batch: Batch, codes: Tensor, low: bool) -> Tensor:
    """(n,) float64, by the prior given the items' own labels and actions."""
    stage2 = loaded.stage2
    grid = codes.reshape(len(codes), *stage2.codes.item_shape)
    lengths = code_lengths(batch, codes.shape[1])
    local = conditioning(local_features(loaded, batch), lengths if stage2.condition_on_length else None, grid.shape[1])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=low):
        nats = stage2.module.code_nats(grid, columns_of(batch.labels, stage2.prior_columns), local).double()
    nats = nats.reshape(len(codes), codes.shape[1], -1)
    real = real_positions(batch, codes.shape[1])
    nats = nats * (torch.arange(codes.shape[1]) < real[:, None])[..., None]
    return nats.flatten(1).sum(1) / (real * nats.shape[2] * math.log(2))


def local_features(loaded: LoadedRun, batch: Batch) -> Tensor | None:
    from pipelines.generation.actions import local_actions

    names = loaded.stage1.example.facts.get("action_names")
    if batch.actions is None or not names:
        return None
    grid = loaded.stage2.codes.grid
    return local_actions(batch.actions, len(names), grid[0]).float().expand(-1, -1, *grid)


def real_positions(batch: Batch, positions: int) -> Tensor:
    """(n,): how many positions of each item are not padding."""
    lengths = code_lengths(batch, positions)
    return torch.full((len(batch.x),), positions) if lengths is None else lengths


if __name__ == "__main__":
    with one_line_errors():
        main()
