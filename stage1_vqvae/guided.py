"""Decoders that are taught by more than the likelihood of what they predict.

Axes: b batch, d latent dimension, k parameters, *grid the data's positions.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Prediction:
    """The parameters of the likelihood at each position, and what the decoder adds to the training loss."""

    params: Tensor  # (b, k, *grid)
    loss: Tensor | float  # () of the guide, weighted; 0 without a guide


class GuidedDecoder(nn.Module, ABC):
    """A decoder with a training loss of its own, a function of the data: an auxiliary loss, which no figure counts."""

    @abstractmethod
    def predict(self, z_q: Tensor, labels: Tensor | None, levels: Tensor) -> Prediction:
        """z_q (b, d, *grid of the codes), labels (b, L), levels int64 (b, c, *grid) of the data."""
