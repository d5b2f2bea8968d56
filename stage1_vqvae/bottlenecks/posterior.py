"""q(z | x) with the interface of `stage1_vqvae/bounds.py`: uniforms to samples, their probabilities, decoder input.

Axes: b batch, *noise the axes of one example's uniforms.
"""

from abc import ABC, abstractmethod

from torch import Tensor

from stage1_vqvae.bounds import Density


class Posterior(ABC):
    """The distribution of the latents of b examples, independent of each other, in float64."""

    noise: tuple[int, ...]  # one uniform per latent
    prior: Density  # the training prior

    @abstractmethod
    def icdf(self, value: Tensor) -> Tensor:
        """Uniforms float64 in (0, 1), (b, *noise) -> a sample, of the same shape."""

    @abstractmethod
    def log_prob(self, value: Tensor) -> Tensor:
        """A sample -> log q per latent, (b, *noise) float64."""

    @abstractmethod
    def z_q(self, value: Tensor) -> Tensor:
        """A sample -> z_q (b, dim, *grid), in the dtype of the bottleneck."""
