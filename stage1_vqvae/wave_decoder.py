"""A decoder of audio that makes all samples at once: latents (b dim n), upsampled stage by stage.

Residual blocks at the rate of the codes read the neighbourhood of a code and the labels; each stage upsamples by its
factor f with a transposed convolution of window 2 f and refines the result with dilated residual blocks. A channel at a
low rate is cheap: the last stage has few, and its output is smoothed by a window of 7 samples.

Noise and tones, the same for every clip from its beginning, enter at one stage. Without noise a row of equal codes
would come out as one wave of the length of a code over and over: a buzz where a hiss is meant. Tones from 70 to 400 Hz
(where a quarter of 8 kHz is the stage's rate) are a phase that goes on across codes, from which to make a voice. Neural
source-filter models (arXiv 1904.12088) and DDSP (arXiv 2001.04643) shape a source too, of a pitch that is given; here
none is.

Axes: b batch, c channels, t samples, n positions of the codes, L label columns, s sources.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stage1_vqvae.audio import ResidualBlock, check_labels, checked_strides, initialise
from stage1_vqvae.guided import GuidedDecoder, Prediction


class WaveDecoder(GuidedDecoder):
    """Latents (b, dim, n) and labels (b, L) -> (b, out_channels, n * product of factors).

    `channels` and `dilations`: of each stage, its width and one residual block per dilation. Noise and tones enter at
    `source_stage`, counted from 0. `num_classes`: one entry per label column. guide: (features, levels) -> a loss ()
    that teaches the features directly, or None."""

    period = 64  # codes after which noise and tones begin again
    sources: Tensor  # (s, t) of a period, at the rate of source_stage

    def __init__(
        self,
        dim: int,
        out_channels: int,
        *,
        hidden: int,
        num_residual_blocks: int,
        factors: Sequence[int],
        channels: Sequence[int],
        dilations: Sequence[Sequence[int]],
        source_stage: int,
        num_noises: int,
        num_tones: int,
        num_classes: Sequence[int] = (),
        guide: nn.Module | None = None,
    ):
        super().__init__()
        self.guide = guide
        self.factors, self.num_classes = checked_strides(factors), tuple(num_classes)
        self.dilations = tuple(tuple(own) for own in dilations)
        if not len(self.factors) == len(channels) == len(self.dilations):
            raise ValueError(f"expected channels and dilations for each of {len(self.factors)} factors, found "
                             f"{len(channels)} and {len(self.dilations)}")
        if not 0 <= source_stage < len(self.factors):
            raise ValueError(f"source_stage: expected a stage from 0 to {len(self.factors) - 1}, found {source_stage}")
        if num_noises + num_tones < 1:
            raise ValueError(f"num_noises: expected at least one noise or tone, found {num_noises} and {num_tones}")
        self.input = nn.Conv1d(dim, hidden, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(hidden, self.num_classes) for _ in range(num_residual_blocks))
        widths = [hidden, *channels]
        self.transposed = nn.ModuleList(
            nn.ConvTranspose1d(wide, narrow, 2 * factor, factor)
            for wide, narrow, factor in zip(widths, widths[1:], self.factors)
        )
        self.stages = nn.ModuleList(
            nn.ModuleList(ResidualBlock(width, self.num_classes, dilation) for dilation in own)
            for width, own in zip(channels, self.dilations)
        )
        self.source_stage = source_stage
        rate = math.prod(self.factors[: source_stage + 1])
        self.register_buffer("sources", noise_and_tones(self.period * rate, num_noises, num_tones), persistent=False)
        self.shape = nn.Conv1d(len(self.sources), channels[source_stage], 1)
        self.out = nn.Conv1d(channels[-1], out_channels, 7, padding=3)
        initialise(self)
        with torch.no_grad():
            self.out.weight.mul_(0.1)

    def forward(self, z_q: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.wave(self.features(z_q, labels), labels)

    def predict(self, z_q: Tensor, labels: Tensor | None, levels: Tensor) -> Prediction:
        """levels (b, 1, t): of the data, which the guide compares the features with."""
        features = self.features(z_q, labels)
        loss = self.guide(features, levels) if self.guide is not None else 0.0
        return Prediction(self.wave(features, labels), loss)

    def features(self, z_q: Tensor, labels: Tensor | None) -> Tensor:
        """(b, hidden, n), at the rate of the codes."""
        check_labels(labels, len(self.num_classes))
        x = self.input(z_q)
        for block in self.blocks:
            x = block(x, labels)
        return x

    def wave(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Features (b, hidden, n) -> (b, out_channels, t)."""
        stages: Iterator[Any] = iter(self.stages)
        for number, (factor, convolution, stage) in enumerate(zip(self.factors, self.transposed, stages)):
            before = factor // 2
            x = convolution(F.relu(x))[..., before : before + factor * x.shape[-1]]
            if number == self.source_stage:
                places = torch.arange(x.shape[-1], device=x.device) % self.sources.shape[1]
                x = x + self.shape(self.sources)[:, places]
            for block in stage:
                x = block(x, labels)
        return self.out(F.relu(x))


def noise_and_tones(size: int, num_noises: int, num_tones: int) -> Tensor:
    """(s, size) white noise, then sines and cosines of unit power with whole numbers of periods."""
    noise = torch.randn(num_noises, size, generator=torch.Generator().manual_seed(0))
    low, high = size * 0.035, size * 0.2
    cycles = torch.logspace(math.log10(low), math.log10(high), num_tones).round() if num_tones else torch.zeros(0)
    phase = 2 * math.pi * cycles[:, None] * torch.arange(size) / size
    return torch.cat([noise, math.sqrt(2) * phase.sin(), math.sqrt(2) * phase.cos()])
