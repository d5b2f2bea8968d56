"""Log-spectral distance between a clip and its reconstruction. Axes: b clips, t samples, f frames, k frequencies."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.metrics.base import Metric, Pairs
from pipelines.metrics.waves import mono

WINDOW_S, HOP_S = 0.025, 0.010
FLOOR_DB = -60.0  # relative to the loudest point of the original; weaker points count as this level
AT_ONCE = 2**11  # frames
SILENCE = 1e-10  # floor for an original of zeros: the power of a sine at about 1e-5 of full scale


class LogSpectralDistance(Metric):
    kinds = ("audio",)
    rows = (("log_spectral_distance_db", "log-spectral distance, dB", ".2f"),)

    def measure(self, pairs: Pairs) -> dict[str, Tensor]:
        rate = pairs.facts["sample_rate_hz"]
        return {"log_spectral_distance_db": log_spectral_distance(pairs.real, pairs.made, rate, pairs.lengths)}


def log_spectral_distance(real: Tensor, made: Tensor, sample_rate_hz: int, lengths: Tensor) -> Tensor:
    """Distance between the spectra of a clip and of its reconstruction, in dB; 0 if they are equal.

        LSD = mean over frames of sqrt(mean over frequencies of (R - M)^2),  R = 10 log10 max(|STFT real|^2, floor)

    and M the same for `made`. Both use the floor FLOOR_DB below the largest power of the original; without it, the
    level of inaudible silence would dominate. Half the amplitude gives 20 log10 2 = 6.02 dB where both are above the
    floor; silence gives at most 60 dB. Frames are Hann windows of 25 ms every 10 ms, the last one padded with zeros.
    Phase is ignored.
    """
    window, hop = round(WINDOW_S * sample_rate_hz), round(HOP_S * sample_rate_hz)
    frames = (-(-(lengths.cpu() - window) // hop)).clamp(min=0) + 1
    count = int(frames.max())
    loudest = torch.stack([_powers(real, lengths, window, hop, part).amax((1, 2)) for part in _parts(count)]).amax(0)
    floor, distances = (loudest * 10 ** (FLOOR_DB / 10)).clamp(min=SILENCE)[:, None, None], []
    for part in _parts(count):
        powers = [_powers(waves, lengths, window, hop, part) for waves in (real, made)]
        difference = torch.maximum(powers[0], floor).log10() - torch.maximum(powers[1], floor).log10()
        distances.append((10 * difference).square().mean(2).sqrt())
    distance = torch.cat(distances, 1)
    counted = torch.arange(distance.shape[1]) < frames[:, None]
    return torch.where(counted, distance, 0).sum(1) / frames


def _parts(count: int) -> list[range]:
    """The numbers of frames, AT_ONCE at a time: an hour has 360,000."""
    return [range(start, min(start + AT_ONCE, count)) for start in range(0, count, AT_ONCE)]


def _powers(waves: Tensor, lengths: Tensor, window: int, hop: int, frames: range) -> Tensor:
    """Waves (b, 1, t) -> |STFT|^2 (b, f, k) of some frames, frame i starts at sample i * hop; a full-scale sine has
    power 1."""
    start = frames.start * hop
    own = mono(waves[..., start : start + (len(frames) - 1) * hop + window], lengths - start)
    filled = F.pad(own, (0, (len(frames) - 1) * hop + window - own.shape[1]))
    weights = torch.hann_window(window, dtype=own.dtype)
    spectrum = torch.fft.rfft(filled.unfold(1, window, hop) * weights)
    return (spectrum.abs() * 2 / weights.sum()).square()
