"""q(z | x) as `stage1_vqvae/bounds.py` asks for it: uniforms to samples, their probabilities, what a decoder reads.

Axes: b batch, *noise the axes of one example's uniforms.
"""

from abc import ABC, abstractmethod

from torch import Tensor

from stage1_vqvae.bounds import Density


class Posterior(ABC):
    """Of the latents of b examples, independent of each other, in float64."""

    noise: tuple[int, ...]  # one uniform for each latent
    prior: Density  # that of training

    @abstractmethod
    def icdf(self, value: Tensor) -> Tensor:
        """Uniforms float64 in (0, 1), (b, *noise) -> a sample, of the same shape."""

    @abstractmethod
    def log_prob(self, value: Tensor) -> Tensor:
        """A sample -> log q of each latent, (b, *noise) float64."""

    @abstractmethod
    def z_q(self, value: Tensor) -> Tensor:
        """A sample -> (b, dim, *grid), what the decoder reads, in the bottleneck's type."""
