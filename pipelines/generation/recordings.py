"""A user's own recordings, of any length, through a run on audio.

A recording that is no longer than an item of the run passes in a batch of padded items, as in evaluation. A longer one
passes alone, chunk by chunk (stage1_vqvae/tiles.py), and a WaveNet goes on from chunk to chunk: besides the samples
themselves, before and after, memory does not grow with its length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from pipelines.data.audio_files import find_audio_files, load_audio_files
from pipelines.files.errors import InputError
from pipelines.generation.decoding import decode, decoded_chunks, one_size
from pipelines.ranks.shares import shared
from pipelines.runs.store import TrainedStage
from pipelines.splits.noise import generator
from stage1_vqvae.bottlenecks.base import Quantizer


@dataclass(frozen=True)
class Recordings:
    """Recordings, each on its own."""

    names: list[str]  # n
    waves: list[Tensor]  # n of float32 (t,)


def read_recordings(stage1: TrainedStage, path: Path) -> Recordings:
    """A file, or all audio files of a folder, resampled, mixed down and scaled as the run's training data were.

    Raises InputError where no file can be read."""
    rate = stage1.example.facts["sample_rate_hz"]
    paths, waves = load_audio_files(find_audio_files(path), rate, stage1.config["data"].get("peak", 0.0))
    return Recordings([path.stem for path in paths], waves)


def padded(waves: Sequence[Tensor], stage1: TrainedStage) -> tuple[Tensor, Tensor]:
    """Waves (t,) -> (n, 1, size), padded with zeros, and lengths (n,) int64. size: of the run's items or, of longer
    recordings, that of the longest, to a whole number of codes."""
    size, lengths = stage1.example.shape[-1], torch.tensor([len(wave) for wave in waves])
    if (longest := int(lengths.max())) > size:
        with one_size(stage1, [longest]):
            size = longest + -longest % stage1.tiled.strides[0]
    if len(waves) == 1 and len(waves[0]) == size:
        return waves[0][None, None], lengths
    return torch.stack([F.pad(wave, (0, size - len(wave))) for wave in waves])[:, None], lengths


def decoded_recordings(stage1: TrainedStage, waves: Sequence[Tensor], labels: Tensor | None, seed: int,
                       batch_size: int) -> Iterator[Tensor]:
    """Waves (t,) -> codes -> waves of the same lengths, on the CPU, in order. Shows a progress bar in seconds of audio.

    labels (n, L): those that the decoder is conditioned on. Recording i is a function of `seed`, i and its own row.
    Raises InputError for a run without codes."""
    model, size, rate = stage1.module, stage1.example.shape[-1], stage1.example.facts["sample_rate_hz"]
    if not isinstance(model.bottleneck, Quantizer):
        raise InputError(f"{stage1.step_folder}: expected codes, found {type(model.bottleneck).__name__}")
    device = next(model.parameters()).device
    total = sum(map(len, waves)) / rate
    parts = list(batches([len(wave) for wave in waves], size, batch_size))
    with tqdm(total=round(total, 1), desc="decoding", unit="s", leave=False, dynamic_ncols=True, disable=None) as bar:

        def of_rows(rows: list[int]) -> list[Tensor]:
            own, given = [generator(seed, row) for row in rows], None if labels is None else labels[rows]
            if len(waves[rows[0]]) > size:
                return [_long(stage1, waves[rows[0]], given, own, bar)]
            x, lengths = padded([waves[row] for row in rows], stage1)
            codes = model.encode(x.to(device))
            before, seconds = bar.n, float(lengths.sum()) / rate

            def show(done: int, of: int, before: float = before, seconds: float = seconds) -> None:
                bar.n = round(before + seconds * done / of, 1)
                bar.update(0)

            made = decode(stage1, codes, given, lengths, own, show)
            show(1, 1)
            return [wave[0, :length].clone() for wave, length in zip(made, lengths.tolist(), strict=True)]

        for made in shared(parts, of_rows):
            yield from made


def _long(stage1: TrainedStage, wave: Tensor, labels: Tensor | None, own: list[np.random.Generator],
          bar: tqdm) -> Tensor:
    """A wave (t,) that is longer than the run's items -> its decoding (t,)."""
    rate, made, done = stage1.example.facts["sample_rate_hz"], torch.empty_like(wave), 0
    with one_size(stage1, wave.shape):
        hop = stage1.tiled.strides[0]
        codes = stage1.tiled.encode(F.pad(wave, (0, -len(wave) % hop))[None, None])
    for part in decoded_chunks(stage1, codes, labels, len(wave), own):
        made[done : done + part.shape[-1]] = part[0, 0]
        done += part.shape[-1]
        bar.update(part.shape[-1] / rate)
    return made


def batches(lengths: Sequence[int], size: int, batch_size: int) -> Iterator[list[int]]:
    """Consecutive rows: up to `batch_size` of at most `size` samples, and each longer one alone."""
    rows: list[int] = []
    for row, length in enumerate(lengths):
        if rows and (length > size or len(rows) == batch_size):
            yield rows
            rows = []
        if length > size:
            yield [row]
        else:
            rows.append(row)
    if rows:
        yield rows
