"""A decoder that is itself a causal network: WaveNet for speech (arXiv 1711.00937, section 4.3), PixelCNN for pixels.

This package contains no such network: a configuration composes it, and `network` and `sampler` are passed in.
Axes: b batch, d latent dimension, c channels, k levels, *grid the data's positions.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from stage1_vqvae.guided import GuidedDecoder, Prediction


class AutoregressiveDecoder(GuidedDecoder):
    """p(x | z_q, labels), position by position.

    upsampler: (z_q (b, d, *codes' grid)[, labels]) -> features (b, c, *grid) on the grid of the data.
    network: (levels int64 (b, *grid), labels, features) -> logits (b, k, *grid), each from earlier levels only.
    sampler: (network, uniforms float64 (b, *grid), labels=, local=features, progress= or known=) -> levels (b, *grid).
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

    def predict(self, z_q: Tensor, labels: Tensor | None, levels: Tensor) -> Prediction:
        """levels int64 (b, 1, *grid): the data to predict, each position from those before it."""
        if levels.shape[1] != 1:
            raise ValueError(f"expected one channel for an autoregressive decoder, found {levels.shape[1]}")
        features = self.features(z_q, labels)
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

        The first axis of the grid may be shorter than that of the features: the rest is not drawn."""
        features = self.features(z_q, labels)[:, :, : uniforms.shape[1]].contiguous()
        return self.sampler(self.network, uniforms, labels=labels, local=features, progress=progress)[:, None]

    def features(self, z_q: Tensor, labels: Tensor | None) -> Tensor:
        """What the network is conditioned on: (b, c, *grid of the data)."""
        return self.upsampler(z_q) if labels is None else self.upsampler(z_q, labels)

    @property
    def looks_back(self) -> int | None:
        """How many earlier positions a level depends on, along one axis; None: all there are."""
        return getattr(self.network, "receptive_field", None)

    def go_on(self, features: Tensor, labels: Tensor | None, before: Tensor, uniforms: Tensor) -> Tensor:
        """The next levels int64 (b, n) along one axis, from uniforms float64 (b, n).

        before int64 (b, m): the levels before them, all or the last `looks_back`. features (b, c, m + n or more):
        of both."""
        count = before.shape[1]
        known = torch.cat([before, torch.full(uniforms.shape, -1, device=before.device)], 1)
        uniforms = torch.cat([uniforms.new_zeros(before.shape), uniforms], 1)
        local = features[:, :, : known.shape[1]].contiguous()
        return self.sampler(self.network, uniforms, labels=labels, local=local, known=known)[:, count:]
