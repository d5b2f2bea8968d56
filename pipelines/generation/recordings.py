"""A user's own recordings, of any length, through a run on audio.

A recording that is no longer than an item of the run passes in a batch of padded items, as in evaluation. A longer one
passes alone: encoder and upsampler go over it in windows that overlap by what they can see, so that the seams are those
of the whole up to rounding, and a WaveNet draws it in one go. This takes about 200 bytes per sample with 32 features
per sample: 190 MB per minute at 16 kHz.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from pipelines.data.audio_files import find_audio_files, load_audio_files
from pipelines.files.errors import InputError
from pipelines.generation.decoding import WINDOW, decode
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


def padded(waves: Sequence[Tensor], size: int) -> tuple[Tensor, Tensor]:
    """Waves (t,) of at most `size` samples -> (n, 1, size), padded with zeros, and lengths (n,) int64."""
    lengths = torch.tensor([len(wave) for wave in waves])
    return torch.stack([F.pad(wave, (0, size - len(wave))) for wave in waves])[:, None], lengths


def decoded_recordings(stage1: TrainedStage, waves: Sequence[Tensor], labels: Tensor | None, seed: int,
                       batch_size: int) -> Iterator[Tensor]:
    """Waves (t,) -> codes -> waves of the same lengths, on the CPU, in order. Shows a progress bar in seconds of audio.

    labels (n, L): those that the decoder is conditioned on. Recording i is a function of `seed`, i and its own row.
    Raises InputError for a run without codes."""
    model, size, rate = stage1.module, stage1.example.shape[-1], stage1.example.facts["sample_rate_hz"]
    if not isinstance(model.bottleneck, Quantizer):
        raise InputError(f"{stage1.step_folder}: expected codes, found {type(model.bottleneck).__name__}")
    device, hop = next(model.parameters()).device, size // model.latent_grid(stage1.example.shape)[0]
    total = sum(map(len, waves)) / rate
    batches = list(_batches([len(wave) for wave in waves], size, batch_size))
    with tqdm(total=round(total, 1), desc="decoding", unit="s", leave=False, dynamic_ncols=True, disable=None) as bar:

        def of_rows(rows: list[int]) -> list[Tensor]:
            longest = max(size, -(-max(len(waves[row]) for row in rows) // hop) * hop)
            x, lengths = padded([waves[row] for row in rows], longest)
            codes = model.encode(x.to(device), None if longest == size else WINDOW, hop)
            own = [generator(seed, row) for row in rows]
            before, seconds = bar.n, float(lengths.sum()) / rate

            def show(done: int, of: int, before: float = before, seconds: float = seconds) -> None:
                bar.n = round(before + seconds * done / of, 1)
                bar.update(0)

            made = decode(stage1, codes, None if labels is None else labels[rows], lengths, own, show)
            show(1, 1)
            return [wave[0, :length].clone() for wave, length in zip(made, lengths.tolist(), strict=True)]

        for made in shared(batches, of_rows):
            yield from made


def _batches(lengths: Sequence[int], size: int, batch_size: int) -> Iterator[list[int]]:
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
