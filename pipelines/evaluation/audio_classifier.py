"""Probes of sounds: small classifiers trained on real recordings, independent of both stages.

A probe is to sounds what `judge.py` is to images: its accuracy on real held-out clips says how far it can be trusted;
on reconstructions, how much the codes keep of what is said; on conversions, whose voice is heard.

It hears log-mel features of waves scaled to one loudness. Training changes the loudness, adds noise, moves the clip
and blanks parts of it, so that a class is known neither by its level nor by the noise of its recordings, and the
noise of a decoder is not taken for a speaker.

Axes: b or n clips, t samples, f frames of 10 ms, m mel bands, d units.
"""

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

from pipelines.evaluation.classifier import train_classifier
from pipelines.splits.base import Batch, Split
from pipelines.splits.noise import step_integers, step_normals, step_uniforms, step_uniforms_between
from pipelines.splits.transfer import send
from stage1_vqvae.precision import full_float32

STEPS, BATCH, LR = 400, 64, 3e-3  # 11 epochs of the 2,290 spoken digits
BANDS, UNITS = 40, 96
WINDOW_S, HOP_S = 0.025, 0.010
FLOOR = 1e-3  # added to the power in a band of a wave whose mean power is 1: noise at 30 dB below it is not heard
GAIN_DB, SNR_DB = (-20.0, 20.0), (5.0, 40.0)
SHIFT_S, MASK_SHARE = 0.05, 0.15  # the most silence put before and after a clip, and the largest part blanked


class AudioClassifier(nn.Module):
    """waves float (b, 1, t) at `sample_rate_hz`, lengths int64 (b,) -> logits (b, num_classes).

    What lies at or after a clip's length is not looked at, so that padding changes nothing."""

    def __init__(self, num_classes: int, sample_rate_hz: int):
        super().__init__()
        self.mel = mel_spectrogram(sample_rate_hz)
        self.convolutions = nn.ModuleList([
            nn.Conv1d(BANDS, UNITS, 5, padding=2),
            nn.Conv1d(UNITS, UNITS, 5, padding=2, stride=2),
            nn.Conv1d(UNITS, UNITS, 5, padding=2),
        ])
        self.dropout, self.output = nn.Dropout(0.3), nn.Linear(2 * UNITS, num_classes)

    def features(self, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel (b, m, f), zero where there is no clip, and how many frames of each are real (b,)."""
        return log_powers(self.mel, waves, lengths)

    def forward(self, waves: Tensor, lengths: Tensor) -> Tensor:
        return self.classify(*self.features(waves, lengths))

    def classify(self, x: Tensor, frames: Tensor) -> Tensor:
        """Log-mel (b, m, f) and frames (b,) -> logits (b, num_classes)."""
        return self.output(self.dropout(self.pooled(x, frames)))

    def pooled(self, x: Tensor, frames: Tensor) -> Tensor:
        """Log-mel (b, m, f) and frames (b,) -> what the last layer reads: mean and maximum of each unit (b, 2 d)."""
        for convolution in self.convolutions:
            frames = -(-frames // convolution.stride[0])
            x = F.relu(convolution(x))
            x = x * mask(frames, x.shape[-1])  # as if the clip ended here: the next one sees zeros, as at any edge
        mean = reduce(x, "b d f -> b d", "sum") / frames[:, None]
        return torch.cat([mean, reduce(x, "b d f -> b d", "max")], dim=1)


def mel_spectrogram(sample_rate_hz: int) -> MelSpectrogram:
    """Powers of BANDS mel bands in frames of 10 ms."""
    window = round(WINDOW_S * sample_rate_hz)
    return MelSpectrogram(sample_rate_hz, n_fft=1 << (window - 1).bit_length(), win_length=window,
                          hop_length=round(HOP_S * sample_rate_hz), f_min=50.0, n_mels=BANDS, center=False,
                          normalized=True)


def log_powers(mel: MelSpectrogram, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Waves (b, 1, t) at one loudness -> log-mel (b, m, f), zero where there is no clip, and how many frames of each
    are real (b,)."""
    power = mel(F.pad(scaled(waves, lengths)[:, 0], (0, mel.n_fft)))  # enough zeros that the last frame is whole
    frames = -(-lengths // mel.hop_length)
    return torch.where(mask(frames, power.shape[-1]), (power + FLOOR).log() / 4, 0), frames  # / 4: about unit variance


def log_mel(waves: Tensor, lengths: Tensor, sample_rate_hz: int) -> Tensor:
    """Waves (b, 1, t) -> log-mel (b, m, f), zero where there is no clip."""
    return log_powers(mel_spectrogram(sample_rate_hz), waves, lengths)[0]


def train_audio_classifier(split: Split, column: int, num_classes: int, sample_rate_hz: int, device: torch.device,
                           seed: int = 0) -> nn.Module:
    """A classifier of audio into the classes of one column of the labels, trained on whole clips of `split`.

    Its weights are a function of the split and `seed`."""
    def predict(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        waves, lengths = augmented(cut(batch.x, batch.lengths).to(device), batch.lengths.to(device), sample_rate_hz)
        x, frames = model.features(waves, lengths)
        return model.classify(blanked(x, frames), frames), batch.labels[:, column]

    return train_classifier(lambda: AudioClassifier(num_classes, sample_rate_hz), predict, split, steps=STEPS,
                            batch_size=BATCH, lr=LR, seed=seed, device=device)


@torch.no_grad()
@full_float32()
def classify(model: nn.Module, waves: Tensor, lengths: Tensor) -> Tensor:
    """The predicted class of each of waves (n, 1, t) with lengths (n,): int64 (n,), on the CPU."""
    device, parts = next(model.parameters()).device, torch.arange(len(waves)).split(200)
    return torch.cat([model(cut(waves[part], lengths[part]).to(device), lengths[part].to(device)).argmax(1).cpu()
                      for part in parts])


@torch.no_grad()
@full_float32()
def summaries(model: nn.Module, waves: Tensor, lengths: Tensor) -> Tensor:
    """What the last layer of a classifier reads of waves (n, 1, t) with lengths (n,): float32 (n, d) on the CPU."""
    device, found = next(model.parameters()).device, []
    for part in torch.arange(len(waves)).split(200):
        x = model.features(cut(waves[part], lengths[part]).to(device), lengths[part].to(device))
        found.append(model.pooled(*x).cpu())
    return torch.cat(found)


def scaled(waves: Tensor, lengths: Tensor) -> Tensor:
    """Waves (b, 1, t) without offset, their mean power 1 over the clip, and 0 after it. Silence stays silence."""
    real, count = mask(lengths, waves.shape[-1]), lengths[:, None, None]
    waves = torch.where(real, waves, 0)
    waves = torch.where(real, waves - waves.sum(-1, keepdim=True) / count, 0)
    power = waves.square().sum(-1, keepdim=True) / count
    return waves / power.clamp(min=1e-10).sqrt()


def augmented(waves: Tensor, lengths: Tensor, sample_rate_hz: int) -> tuple[Tensor, Tensor]:
    """Each clip (b, 1, t) with silence of a random length before and after it, at a random loudness, in white noise at
    a random ratio to the clip's own power. Returns waves (b, 1, t + 2 s) and their lengths."""
    device, number, most = waves.device, len(waves), round(SHIFT_S * sample_rate_hz)
    waves = torch.where(mask(lengths, waves.shape[-1]), waves, 0)
    before, after = send(step_integers(most + 1, 2, number), device).unbind()
    power = waves.square().sum(-1, keepdim=True) / lengths[:, None, None]
    shape = (number, 1, 1)
    gain = send(10 ** (step_uniforms_between(*GAIN_DB, *shape) / 20), device)
    level = power.sqrt() * send(10 ** (-step_uniforms_between(*SNR_DB, *shape) / 20), device)
    places = torch.arange(waves.shape[-1] + 2 * most, device=device) - before[:, None, None]
    inside = (places >= 0) & (places < waves.shape[-1])
    moved = torch.where(inside, waves.gather(-1, places.clamp(0, waves.shape[-1] - 1)), 0)
    lengths = before + lengths + after
    noisy = gain * (moved + level * step_normals(*moved.shape, device=device))
    return torch.where(mask(lengths, noisy.shape[-1]), noisy, 0), lengths


def blanked(x: Tensor, frames: Tensor) -> Tensor:
    """Log-mel (b, m, f) with one run of up to MASK_SHARE of its frames at the mean of the clip."""
    start, share = send(step_uniforms(2, len(x)), x.device).unbind()
    size = share * MASK_SHARE * frames
    start = start * (frames - size)
    places = torch.arange(x.shape[-1], device=x.device)
    hidden = (places >= start[:, None]) & (places < (start + size)[:, None])
    mean = reduce(x, "b m f -> b m 1", "sum") / frames[:, None, None]
    return torch.where(rearrange(hidden, "b f -> b 1 f"), mean, x)


def cut(waves: Tensor, lengths: Tensor) -> Tensor:
    """Waves (b, 1, t) up to the end of the longest: the rest is padding in all of them."""
    return waves[..., : int(lengths.max())]


def mask(lengths: Tensor, size: int) -> Tensor:
    """lengths (b,) -> bool (b, 1, size): which places are real."""
    return torch.arange(size, device=lengths.device) < lengths[:, None, None]
