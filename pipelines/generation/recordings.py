"""A user's own recordings as the codes of a run on audio."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.data.audio_files import find_audio_files, load_audio_files
from pipelines.files.errors import InputError
from pipelines.runs.store import TrainedStage
from stage1_vqvae.bottlenecks.base import Quantizer


@dataclass(frozen=True)
class Recordings:
    """Recordings, padded with zeros to the length of a run's items."""

    names: list[str]  # n
    x: Tensor  # (n, 1, t) float32
    lengths: Tensor  # (n,) int64, in samples
    cut: list[str]  # names of those that were longer than an item and were cut off

    def waves(self) -> list[Tensor]:
        """Each on its own, (t,), without padding."""
        return [wave[0, :length] for wave, length in zip(self.x, self.lengths.tolist(), strict=True)]


def read_recordings(stage1: TrainedStage, path: Path) -> Recordings:
    """A file, or all audio files of a folder, resampled, mixed down and scaled as the run's training data were.

    Raises InputError where no file can be read."""
    rate = stage1.example.facts["sample_rate_hz"]
    paths, waves = load_audio_files(find_audio_files(path), rate, stage1.config["data"].get("peak", 0.0))
    return padded([path.stem for path in paths], waves, stage1.example.shape[-1])


def padded(names: Sequence[str], waves: Sequence[Tensor], size: int) -> Recordings:
    """Waves (t,) each, cut off or padded with zeros at `size` samples."""
    cut = [name for name, wave in zip(names, waves, strict=True) if len(wave) > size]
    lengths = torch.tensor([min(len(wave), size) for wave in waves])
    x = torch.stack([F.pad(wave[:size], (0, max(0, size - len(wave)))) for wave in waves])[:, None]
    return Recordings(list(names), x, lengths, cut)


def encode_recordings(stage1: TrainedStage, recordings: Recordings, batch_size: int) -> Tensor:
    """Codes (n, positions[, g]). Raises InputError for a run without codes."""
    if not isinstance(stage1.module.bottleneck, Quantizer):
        raise InputError(f"{stage1.step_folder}: expected codes, found {type(stage1.module.bottleneck).__name__}")
    device = next(stage1.module.parameters()).device
    return torch.cat([stage1.module.encode(part.to(device)).cpu() for part in recordings.x.split(batch_size)])
