"""A user's own recordings as a run's codes: what reconstruct.py and convert_speaker.py share."""

from pathlib import Path

import torch
from torch import Tensor

from pipelines.data.sounds import find_sounds, load_sounds
from pipelines.files.errors import InputError
from pipelines.runs.store import TrainedStage
from stage1_vqvae.bottlenecks.base import Quantizer

SHOWN = 6  # clips in a picture


def encode_sounds(stage1: TrainedStage, path: Path, batch_size: int) -> tuple[list[Path], list[Tensor], Tensor, Tensor]:
    """(files, waves (t,) each, codes (n, positions[, g]), lengths (n,) in samples) of a file or all files of a folder.

    Files are resampled, mixed down and scaled as in training, and cut off after the longest clip that the run knows.
    Raises InputError for a run that is not on sound or has no codes, and where no file can be read."""
    example, data = stage1.config["example"], stage1.config["data"]
    if example["kind"] != "audio":
        raise InputError(f"{path}: expected a run on sound, found one on {example['kind']}")
    if not isinstance(stage1.module.bottleneck, Quantizer):
        raise InputError(f"{stage1.step_folder}: expected codes, found {type(stage1.module.bottleneck).__name__}")
    size = example["shape"][-1]
    paths, waves = load_sounds(find_sounds(path), example["facts"]["sample_rate_hz"], data.get("peak", 0.0))
    long = [str(own) for own, wave in zip(paths, waves) if len(wave) > size]
    if long:
        print(f"note: {len(long)} of {len(paths)} sounds are cut off after {size / example['facts']['sample_rate_hz']:.2f} s, "
              f"the run's longest: {long[0]}" + (", ..." if len(long) > 1 else ""))
    waves = [wave[:size] for wave in waves]
    lengths = torch.tensor([len(wave) for wave in waves])
    padded = torch.stack([torch.nn.functional.pad(wave, (0, size - len(wave))) for wave in waves])[:, None]
    device = next(stage1.module.parameters()).device
    codes = torch.cat([stage1.module.encode(part.to(device)).cpu() for part in padded.split(batch_size)])
    return paths, waves, codes, lengths
