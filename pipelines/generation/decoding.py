"""Codes to data through stage 1's decoder, and through the decoders of the runs below a run on codes; both of any size,
where the networks take it (stage1_vqvae/tiles.py).

Axes: n items, c channels, g codebooks, h w rows and columns, L labels.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.data.codes import from_channels, to_channels
from pipelines.files.errors import InputError
from pipelines.runs.store import TrainedStage
from pipelines.splits.base import check_one_axis
from pipelines.splits.noise import draws
from stage1_vqvae.autoregressive import AutoregressiveDecoder
from stage1_vqvae.receptive_field import NotLocal


@contextmanager
def one_size(stage1: TrainedStage, size: Sequence[int]) -> Iterator[None]:
    """Raises InputError where the networks of a run do not take data of this size."""
    try:
        yield
    except NotLocal as error:
        usual, found = ("x".join(map(str, own)) for own in (stage1.example.shape[1:], size))
        raise InputError(f"size: expected {usual}, since the networks of this run take no other, found {found}: "
                         f"{error}") from None


def pixel_uniforms(stage1: TrainedStage, generators: list[np.random.Generator], size: Sequence[int] | None = None
                   ) -> Tensor | None:
    """The uniforms (n, *size) of data that the decoder draws position by position; None for any other decoder.

    size None: that of the run's data."""
    if not isinstance(stage1.module.decoder, AutoregressiveDecoder):
        return None
    size = stage1.example.shape[1:] if size is None else size
    return draws(generators, *size).to(next(stage1.module.parameters()).device)


def decode(stage1: TrainedStage, codes: Tensor, labels: Tensor | None, lengths: Tensor | None,
           generators: list[np.random.Generator], progress: Callable[[int, int], None] | None = None,
           size: Sequence[int] | None = None) -> Tensor:
    """Codes (n, *grid[, g]) -> x in data units, on the CPU.

    labels (n, L): those that the decoder is conditioned on. lengths (n,): how much of the first axis of x is real; x is
    zero after it, and the codes after it are replaced by those of zeros (silence), as in training. An autoregressive
    decoder draws from the generators, one for each row. With lengths there may be more codes than an item of the run
    has, up to the end of each row: they are decoded chunk by chunk, by `decoded_chunks`.
    size: of the data without lengths; None: all that the codes make, of the run's own grid its data's.
    """
    model, device = stage1.module, next(stage1.module.parameters()).device
    labels = None if labels is None else labels.to(device)
    if lengths is None:
        grid = codes.shape[1 : len(stage1.example.shape)]
        if tuple(grid) == tuple(stage1.grid):
            with torch.inference_mode():
                uniforms = pixel_uniforms(stage1, generators)
                x = model.decode(codes.to(device), labels, uniforms, progress).cpu()
            return x if size is None else x[(..., *(slice(0, own) for own in size))]
        with one_size(stage1, grid if size is None else size):
            data = [count * stride for count, stride in zip(grid, stage1.tiled.strides, strict=True)]
            return stage1.tiled.decode(codes, labels, pixel_uniforms(stage1, generators, data), size, progress)
    check_one_axis(stage1.example.shape)
    if codes.shape[1] > stage1.grid[0]:
        parts, longest = [], int(lengths.max())
        for part in decoded_chunks(stage1, codes, labels, longest, generators):
            parts.append(part)
            if progress is not None:
                progress(sum(own.shape[-1] for own in parts), longest)
        x = torch.cat(parts, -1)
        x = torch.where(torch.arange(longest) < lengths[:, None, None], x, 0)
        return F.pad(x, (0, codes.shape[1] * stage1.tiled.strides[0] - longest))
    codes = codes.to(device)
    with torch.inference_mode():
        zeros = torch.zeros(1, *stage1.example.shape, device=device)
        silence = model.encode(zeros.long() if stage1.example.imported else zeros)
        hop = stage1.example.shape[-1] // silence.shape[1]
        size = codes.shape[1] * hop
        real = torch.arange(codes.shape[1]) < -(-lengths[:, None] // hop)
        if not real.all():
            codes = torch.where(real.to(device).view(*real.shape, *[1] * (codes.ndim - 2)), codes, silence)
        uniforms, longest = None, size
        if isinstance(model.decoder, AutoregressiveDecoder):
            longest = int(lengths.max())
            uniforms = draws(generators, longest).to(device)
        x = model.decode(codes, labels, uniforms, progress).cpu()[..., :longest]
    x = torch.where(torch.arange(longest) < lengths[:, None, None], x, 0)
    return F.pad(x, (0, size - longest))


def decoded_chunks(stage1: TrainedStage, codes: Tensor, labels: Tensor | None, size: int,
                   generators: list[np.random.Generator]) -> Iterator[Tensor]:
    """Codes (n, t[, g]) along one axis, of any number -> x (n, c, m), again and again, `size` positions in all: in
    memory that does not grow with t. The data are those of one pass."""
    with one_size(stage1, [size]):
        yield from stage1.tiled.chunks(codes, labels, size, lambda count: draws(generators, count))


def descend(parents: Sequence[TrainedStage], x: Tensor, generators: list[np.random.Generator]) -> Tensor:
    """The data (n, g, h, w) of a run on codes through the decoders of `parents` -> pixels (n, c, h, w), on the CPU.

    Without parents x itself: it is not codes."""
    for parent in parents:
        x = decode(parent, from_channels(x), None, None, generators)
    return x.cpu()


def climb(parents: Sequence[TrainedStage], x: Tensor) -> Tensor:
    """The way up, through the encoders: pixels (n, c, h, w) -> the data (n, g, h, w) of a run on codes."""
    for parent in reversed(parents):
        x = to_channels(parent.module.encode(x), parent.module.bottleneck.num_codebooks)
    return x
