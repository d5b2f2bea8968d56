"""Data through the bottleneck and back."""

import torch
from torch import Tensor

from pipelines.generation.decoding import decode, descend, one_size, pixel_uniforms
from pipelines.ranks.shares import shared
from pipelines.runs.chain import LoadedRun
from pipelines.splits.noise import generator
from stage1_vqvae.bottlenecks.base import Quantizer


@torch.no_grad()
def reconstruct(loaded: LoadedRun, x: Tensor, labels: Tensor | None, seed: int, batch_size: int,
                lengths: Tensor | None = None, first: int = 0) -> Tensor:
    """x (n, c, *size) in data units -> its reconstructions, on the CPU; of a run on codes as pixels.

    labels (n, L): those that the decoder is conditioned on. lengths (n,): how much of the first axis is real. Item i is
    a function of `seed`, first + i and its own row alone. Raises InputError for a size that the networks do not
    take."""
    stage1 = loaded.stage1
    device, size = next(stage1.module.parameters()).device, tuple(x.shape[2:])
    usual = size == stage1.example.shape[1:]

    def of_rows(rows: Tensor) -> Tensor:
        own = [generator(seed, first + number) for number in rows.tolist()]
        part, given = x[rows], None if labels is None else labels[rows].to(device)
        if not usual:
            made = _of_any_size(loaded, part, given, own, None if lengths is None else lengths[rows])
        elif lengths is None:
            part = part.to(device)
            made = stage1.module.evaluate(part, given, pixel_uniforms(stage1, own)).reconstruction
        else:
            made = decode(stage1, stage1.module.encode(part.to(device)), given, lengths[rows], own)
        return descend(loaded.parents, made, own)

    return torch.cat(list(shared(torch.arange(len(x)).split(batch_size if usual else 1), of_rows)))


def _of_any_size(loaded: LoadedRun, x: Tensor, labels: Tensor | None, own: list, lengths: Tensor | None) -> Tensor:
    stage1, size = loaded.stage1, x.shape[2:]
    with one_size(stage1, size):
        if isinstance(stage1.module.bottleneck, Quantizer):
            codes = stage1.tiled.encode(x)
            return decode(stage1, codes, labels, lengths, own, size=size if lengths is None else None)
        uniforms = pixel_uniforms(stage1, own, size)
        return stage1.tiled.decode_latents(stage1.tiled.latents(x), labels, uniforms, size)
