"""What every bottleneck gives back, and the interface that encoder, decoder and training loop rely on.

Axes: b batch, d latent dimension (over all codebooks), *grid any number of positions axes, g codebooks, k codes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass(frozen=True)
class Latent:
    """What passed the bottleneck."""

    z_q: Tensor  # (b, d, *grid) what the decoder reads; of a quantiser exactly the codebook's entries
    codes: Tensor | None  # (b, *grid) int64, with g > 1 codebooks (b, *grid, g); None where there are none
    rate_nats: Tensor  # (b,) KL to the prior of training, summed over the latents
    loss: Tensor  # () auxiliary terms, weighted; a mean over elements: it does not grow with the batch


class Bottleneck(nn.Module, ABC):
    """Maps encodings (b, dim, *grid) to a `Latent` on the same grid."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    @abstractmethod
    def forward(self, z: Tensor, step: Tensor | int | None = None, uniforms: Tensor | None = None) -> Latent:
        """`step` drives schedules, `uniforms` the noise, where a bottleneck has them."""

    @property
    def needs_initialisation(self) -> bool:
        """Whether `initialise` is to be called before the first training step."""
        return False

    def initialise(self, z: Tensor) -> None:
        """Fits the bottleneck to encodings (n, dim) gathered before training, the same on every rank."""
        raise ValueError(f"expected a bottleneck that is initialised from data, found {type(self).__name__}")

    def after_step(self, optimizer: Optimizer) -> None:
        """Called after every optimiser's step: the place for changes that the optimiser must not undo."""


class Quantizer(Bottleneck, ABC):
    """A bottleneck whose latents are integers below `num_codes`, `num_codebooks` of them at each position."""

    def __init__(self, num_codes: int, dim: int, num_codebooks: int):
        super().__init__(dim)
        if num_codes < 1 or num_codebooks < 1 or dim % num_codebooks:
            raise ValueError(
                "expected at least one code and a dim that the number of codebooks divides, "
                f"found num_codes={num_codes}, dim={dim}, num_codebooks={num_codebooks}"
            )
        self.num_codes = num_codes
        self.num_codebooks = num_codebooks

    @abstractmethod
    def lookup(self, codes: Tensor) -> Tensor:
        """(b, *grid[, g]) int64 -> (b, dim, *grid); in eval mode lookup(forward(z).codes) == forward(z).z_q."""
