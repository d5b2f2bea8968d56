"""Metrics of audio against its original: spectral distance, intelligibility, DC offset, clicks.

Waves are float (b, 1, t) in [-1, 1], padded after `lengths` (b,) int64 samples; padding changes no result. Results are
float64 (b,), one per clip, on the CPU.
Axes: b clips, t samples, f frames, w samples of a window, k frequencies.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from pystoi.stoi import DYN_RANGE, FS, N_FRAME, N
from pystoi.utils import remove_silent_frames, resample_oct
from torch import Tensor
from torchmetrics.functional.audio.stoi import short_time_objective_intelligibility

from pipelines.metrics.base import Metric, Pairs, number

WINDOW_S, HOP_S = 0.025, 0.010
FLOOR_DB = -60.0  # relative to the loudest point of the original; weaker points count as this level
SILENCE = 1e-10  # floor for an original of zeros: the power of a sine at about 1e-5 of full scale


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
    powers = [_powers(_clips(waves, lengths), window, hop)[:, : int(frames.max())] for waves in (real, made)]
    floor = (powers[0].amax((1, 2), keepdim=True) * 10 ** (FLOOR_DB / 10)).clamp(min=SILENCE)
    difference = torch.maximum(powers[0], floor).log10() - torch.maximum(powers[1], floor).log10()
    distance = (10 * difference).square().mean(2).sqrt()
    counted = torch.arange(distance.shape[1]) < frames[:, None]
    return torch.where(counted, distance, 0).sum(1) / frames


def stoi(real: Tensor, made: Tensor, sample_rate_hz: int, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Short-time objective intelligibility, about 0 to 1 (Taal et al. 2011), and bool (b,): whether a clip has a value.

    It compares segments of 30 frames, 0.4 s, of speech, ignoring frames 40 dB below the loudest. A clip with less
    speech has no value: NaN and False; means must exclude it.
    """
    values = torch.full((len(real),), torch.nan, dtype=torch.float64)
    for place, (ours, theirs) in enumerate(zip(_clips(real, lengths), _clips(made, lengths), strict=True)):
        length = int(lengths[place])
        ours, theirs = ours[:length], theirs[:length]
        if speech_frames(ours, sample_rate_hz) >= N:
            values[place] = short_time_objective_intelligibility(theirs, ours, sample_rate_hz)
    return values, ~values.isnan()


def speech_frames(wave: Tensor, sample_rate_hz: int) -> int:
    """Number of frames of a wave (t,) that STOI compares, 0 in silence. It needs 30; pystoi gives 1e-5 for fewer."""
    sound = wave.double().numpy()
    if sample_rate_hz != FS:
        sound = resample_oct(sound, FS, sample_rate_hz)
    if len(sound) <= N_FRAME or not sound.any():
        return 0
    kept, _ = remove_silent_frames(sound, sound, DYN_RANGE, N_FRAME, N_FRAME // 2)
    return len(range(0, len(kept) - N_FRAME, N_FRAME // 2))


def dc_offset(waves: Tensor, lengths: Tensor) -> Tensor:
    """The mean sample of each clip, full scale = 1; about 0 in recordings."""
    return _clips(waves, lengths).sum(1) / lengths.cpu()


def click_score(waves: Tensor, lengths: Tensor, borders: Tensor) -> Tensor:
    """How much rougher waves are at `borders` than elsewhere: about 1 without clicks, large with clicks.

    borders: int64 (m,), the first sample after each border, the same for all clips, such as multiples of the hop
    length. The score is the mean square of the second difference x[n-1] - 2 x[n] + x[n+1] at the two samples next
    to the borders, over that at all other samples. The loudness of speech varies, so few borders per clip give scores
    far from 1: compare with the scores of the originals. NaN if no border lies in the clip or the rest is silent.
    """
    clips = _clips(waves, lengths)
    rough = (clips[:, 2:] - 2 * clips[:, 1:-1] + clips[:, :-2]).square()
    centres = torch.arange(1, clips.shape[1] - 1)
    inside = centres < lengths.cpu()[:, None] - 1  # all three samples belong to the clip
    at = torch.isin(centres, torch.cat([borders.cpu() - 1, borders.cpu()]))
    beside, elsewhere = inside & at, inside & ~at
    mean_at = torch.where(beside, rough, 0).sum(1) / beside.sum(1)
    mean_elsewhere = torch.where(elsewhere, rough, 0).sum(1) / elsewhere.sum(1)
    return torch.where(mean_elsewhere > 0, mean_at / mean_elsewhere, torch.nan)


def _clips(waves: Tensor, lengths: Tensor) -> Tensor:
    """Waves (b, 1, t) -> float64 (b, t) on the CPU, zero after the end of each clip."""
    clips = rearrange(waves.detach().cpu().double(), "b 1 t -> b t")
    return torch.where(torch.arange(clips.shape[1]) < lengths.cpu()[:, None], clips, 0)


def _powers(clips: Tensor, window: int, hop: int) -> Tensor:
    """Clips (b, t) -> |STFT|^2 (b, f, k), frame i starts at sample i * hop; a full-scale sine has power 1."""
    frames = max(0, -(-(clips.shape[1] - window) // hop)) + 1
    filled = F.pad(clips, (0, (frames - 1) * hop + window - clips.shape[1]))
    weights = torch.hann_window(window, dtype=clips.dtype)
    spectrum = torch.fft.rfft(filled.unfold(1, window, hop) * weights)
    return (spectrum.abs() * 2 / weights.sum()).square()


class AudioFigures(Metric):
    """Spectral distance, intelligibility, offset and clicks, each a figure of all clips."""

    kinds = ("audio",)
    rows = (
        ("log_spectral_distance_db", "log-spectral distance, dB", ".2f"),
        ("stoi", "STOI", ".3f"),
        ("stoi_share", "STOI: share of clips long enough", ".1%"),
        ("dc_offset_largest", "largest DC offset", ".4f"),
        ("clicks_real", "roughness at code borders: originals", ".2f"),
        ("clicks_reconstructions", "roughness at code borders: reconstructions", ".2f"),
    )

    def measure(self, pairs: Pairs) -> dict[str, Tensor]:
        rate, hop, lengths = pairs.facts["sample_rate_hz"], pairs.facts["hop_length"], pairs.lengths
        borders = torch.arange(hop, pairs.real.shape[-1], hop)
        clear, measurable = stoi(pairs.real, pairs.made, rate, lengths)
        return {
            "log_spectral_distance_db": log_spectral_distance(pairs.real, pairs.made, rate, lengths),
            "stoi": clear,
            "stoi_share": measurable.double(),
            "dc_offset_largest": dc_offset(pairs.made, lengths).abs(),
            "clicks_real": click_score(pairs.real, lengths, borders),
            "clicks_reconstructions": click_score(pairs.made, lengths, borders),
        }

    def summary(self, values: dict[str, Tensor]) -> dict[str, float | None]:
        found = super().summary(values) | {"dc_offset_largest": float(values["dc_offset_largest"].max())}
        return found | {key: number(values[key].nanmedian()) for key in ("clicks_real", "clicks_reconstructions")}
