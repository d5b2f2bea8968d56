"""Data through the bottleneck and back."""

import torch
from torch import Tensor

from pipelines.generation.decoding import decode, descend, pixel_uniforms
from pipelines.ranks.shares import shared
from pipelines.runs.chain import LoadedRun
from pipelines.splits.noise import generator


@torch.no_grad()
def reconstruct(loaded: LoadedRun, x: Tensor, labels: Tensor | None, seed: int, batch_size: int,
                lengths: Tensor | None = None) -> Tensor:
    """x (n, *shape) in data units -> its reconstructions, on the CPU; of a run on codes as pixels.

    labels (n, L): those that the decoder is conditioned on. lengths (n,): how much of the first axis is real. Item i is
    a function of `seed`, i and its own row alone."""
    stage1 = loaded.stage1
    device = next(stage1.module.parameters()).device

    def of_rows(rows: Tensor) -> Tensor:
        own = [generator(seed, number) for number in rows.tolist()]
        part, given = x[rows].to(device), None if labels is None else labels[rows].to(device)
        if lengths is None:
            made = stage1.module.evaluate(part, given, pixel_uniforms(stage1, own)).reconstruction
        else:
            made = decode(stage1, stage1.module.encode(part), given, lengths[rows], own)
        return descend(loaded.parents, made, own)

    return torch.cat(list(shared(torch.arange(len(x)).split(batch_size), of_rows)))
