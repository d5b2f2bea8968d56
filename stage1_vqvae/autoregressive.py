"""A decoder that is itself a causal network: WaveNet for speech (arXiv 1711.00937, section 4.3), PixelCNN for pixels.

This package knows no such network. It is composed in a configuration: `network` and `sampler` are handed in.
Axes: b batch, d latent dimension, c channels, k levels, *grid the data's positions.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Prediction:
    """What a causal network was asked with the data before each position."""

    params: Tensor  # (b, k, *grid): logits, what the likelihood is told
    loss: Tensor | float  # () the guide's, weighted; 0 without one


class AutoregressiveDecoder(nn.Module):
    """p(x | z_q, labels), position by position.

    upsampler: (z_q (b, d, *codes' grid)[, labels]) -> features (b, c, *grid) on the data's own grid.
    network: (levels int64 (b, *grid), labels, features) -> logits (b, k, *grid), each from earlier levels alone.
    sampler: (network, uniforms float64 (b, *grid), labels=, local=features, progress=) -> levels (b, *grid).
    guide: (features, levels) -> a loss () that teaches the upsampler directly, or None.
    """

    def __init__(
        self, upsampler: nn.Module, network: nn.Module, sampler: Callable[..., Tensor], guide: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.upsampler = upsampler
        self.network = network
        self.sampler = sampler
        self.guide = guide

    def forward(self, z_q: Tensor, labels: Tensor | None, levels: Tensor) -> Prediction:
        """levels int64 (b, 1, *grid): the data that are to be explained."""
        if levels.shape[1] != 1:
            raise ValueError(f"expected one channel for an autoregressive decoder, found {levels.shape[1]}")
        features = self._features(z_q, labels)
        loss = self.guide(features, levels) if self.guide is not None else 0.0
        return Prediction(self.network(levels[:, 0], labels, features), loss)

    def sample(
        self,
        z_q: Tensor,
        labels: Tensor | None,
        uniforms: Tensor,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """uniforms float64 (b, *grid) -> levels int64 (b, 1, *grid), drawn one after another.

        The first axis of the grid may be shorter than what z_q stands for: the rest is not drawn."""
        features = self._features(z_q, labels)[:, :, : uniforms.shape[1]].contiguous()
        return self.sampler(self.network, uniforms, labels=labels, local=features, progress=progress)[:, None]

    def _features(self, z_q: Tensor, labels: Tensor | None) -> Tensor:
        return self.upsampler(z_q) if labels is None else self.upsampler(z_q, labels)
