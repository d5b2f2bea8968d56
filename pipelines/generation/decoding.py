"""Codes to data through stage 1's decoder, and through the decoders of the runs below a run on codes.

Axes: n items, c channels, g codebooks, h w rows and columns, L labels.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.data.codes import from_channels, to_channels
from pipelines.runs.store import TrainedStage
from pipelines.splits.base import check_one_axis
from pipelines.splits.noise import draws
from stage1_vqvae.autoregressive import AutoregressiveDecoder

WINDOW = 1024  # codes that networks read at once of an item that is longer than those of the run


def pixel_uniforms(stage1: TrainedStage, generators: list[np.random.Generator]) -> Tensor | None:
    """The uniforms (n, *grid) of data that the decoder draws position by position; None for any other decoder."""
    if not isinstance(stage1.module.decoder, AutoregressiveDecoder):
        return None
    return draws(generators, *stage1.example.shape[1:]).to(next(stage1.module.parameters()).device)


def decode(stage1: TrainedStage, codes: Tensor, labels: Tensor | None, lengths: Tensor | None,
           generators: list[np.random.Generator], progress: Callable[[int, int], None] | None = None) -> Tensor:
    """Codes (n, *grid[, g]) -> x in data units, on the CPU.

    labels (n, L): those that the decoder is conditioned on. lengths (n,): how much of the first axis of x is real; x is
    zero after it, and the codes after it are replaced by those of zeros (silence), as in training. An autoregressive
    decoder draws from the generators, one for each row. With lengths there may be more codes than an item of the run
    has, up to the end of each row: they are decoded in windows.
    """
    model, device = stage1.module, next(stage1.module.parameters()).device
    labels = None if labels is None else labels.to(device)
    codes = codes.to(device)
    with torch.inference_mode():
        if lengths is None:
            return model.decode(codes, labels, pixel_uniforms(stage1, generators), progress).cpu()
        check_one_axis(stage1.example.shape)
        zeros = torch.zeros(1, *stage1.example.shape, device=device)
        silence = model.encode(zeros.long() if stage1.example.imported else zeros)
        usual, hop = silence.shape[1], stage1.example.shape[-1] // silence.shape[1]
        size = codes.shape[1] * hop
        real = torch.arange(codes.shape[1]) < -(-lengths[:, None] // hop)
        if not real.all():
            assert codes.shape[1] == usual, "only items of the usual size are padded"
            codes = torch.where(real.to(device).view(*real.shape, *[1] * (codes.ndim - 2)), codes, silence)
        uniforms, longest = None, size
        if isinstance(model.decoder, AutoregressiveDecoder):
            longest = int(lengths.max())
            uniforms = draws(generators, longest).to(device)
        window = None if codes.shape[1] <= usual else max(usual, WINDOW)
        x = model.decode(codes, labels, uniforms, progress, window).cpu()[..., :longest]
    x = torch.where(torch.arange(longest) < lengths[:, None, None], x, 0)
    return F.pad(x, (0, size - longest))


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
