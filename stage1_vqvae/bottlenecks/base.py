"""What every bottleneck gives back, and the interface that encoder, decoder and training loop rely on.

Axes: b batch, n vectors (positions of all examples), d latent dimension, *grid any number of positions axes,
g codebooks, k codes.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from stage1_vqvae.bottlenecks.posterior import Posterior


@dataclass(frozen=True)
class Latent:
    """What passed the bottleneck."""

    z_q: Tensor  # (b, d, *grid) what the decoder reads; of a quantiser in eval mode exactly the codes' entries
    codes: Tensor | None  # (b, *grid) int64, with g > 1 codebooks (b, *grid, g); None where there are none
    rate_nats: Tensor  # (b,) KL to the prior of training, summed over the latents
    loss: Tensor  # () auxiliary terms, weighted; a mean over elements: it does not grow with the batch

    def bound(self, costs: Tensor, dimensions: Tensor | int) -> Tensor:
        """What distortion and rate cost each row of z_q, in nats a data dimension -> the same of each example (b,).

        Here they are the same; a latent that holds several samples of each example combines them."""
        return costs


class Bottleneck(nn.Module, ABC):
    """Maps encodings (b, in_dim, *grid) to a `Latent` of `dim` dimensions on the same grid.

    Noise is made of uniforms float64 in [0, 1): those that are given, one for each of n draws at a position, (b, n,
    *grid), or in training those that `collectives.global_uniforms` draws. In eval mode without uniforms there is none.
    """

    rate_is_constant = False  # whether every position of every example has the same rate

    def __init__(self, dim: int, in_dim: int | None = None):
        super().__init__()
        self.dim = dim
        self.in_dim = dim if in_dim is None else in_dim

    @abstractmethod
    def forward(self, z: Tensor, step: Tensor | int | None = None, uniforms: Tensor | None = None) -> Latent:
        """`step` drives schedules, `uniforms` the noise, where a bottleneck has them; no step: the schedule's end."""

    def posterior(self, z: Tensor) -> Posterior | None:
        """q(latents | x) of encodings; None where it is a single point, a function of x."""
        return None

    @property
    def needs_initialisation(self) -> bool:
        """Whether `initialise` is to be called before the first training step."""
        return False

    def initialise(self, z: Tensor) -> None:
        """Fits the bottleneck to encodings (n, dim) gathered before training, the same on every rank."""
        raise ValueError(f"expected a bottleneck that is initialised from data, found {type(self).__name__}")

    def after_step(self, optimizer: Optimizer) -> None:
        """Called after every optimiser's step: the place for changes that the optimiser must not undo."""

    def _check(self, z: Tensor) -> None:
        if z.ndim < 2 or z.shape[1] != self.in_dim:
            raise ValueError(f"expected encodings (b, {self.in_dim}, *grid), found {tuple(z.shape)}")


class Quantizer(Bottleneck, ABC):
    """A bottleneck whose latents are integers below `num_codes`, `num_codebooks` of them at each position."""

    rate_is_constant = True

    def __init__(self, num_codes: int, dim: int, num_codebooks: int):
        super().__init__(dim)
        if num_codes < 1 or num_codebooks < 1:
            raise ValueError(
                "expected at least one code and one codebook, "
                f"found num_codes={num_codes}, num_codebooks={num_codebooks}"
            )
        self.num_codes = num_codes
        self.num_codebooks = num_codebooks

    @abstractmethod
    def lookup(self, codes: Tensor) -> Tensor:
        """(b, *grid[, g]) int64 -> (b, dim, *grid); in eval mode lookup(forward(z).codes) == forward(z).z_q."""

    def _latent(self, vectors: Tensor, codes: Tensor, batch: int, grid: tuple[int, ...], loss: Tensor) -> Latent:
        """Of vectors (n, dim) and their codes (n, g) at the rate of a uniform prior: log K a code."""
        rate = codes.numel() // batch * math.log(self.num_codes)
        return Latent(
            z_q=self._to_grid(vectors, batch, grid),
            codes=codes.unflatten(0, (batch, *grid)) if self.num_codebooks > 1 else codes.view(batch, *grid),
            rate_nats=torch.full((batch,), rate, dtype=vectors.dtype, device=vectors.device),
            loss=loss,
        )

    def _to_rows(self, codes: Tensor) -> tuple[Tensor, int, tuple[int, ...]]:
        """Codes (b, *grid[, g]) -> (n, g), b and grid; ValueError for codes that there are not."""
        if codes.min() < 0 or codes.max() >= self.num_codes:
            raise ValueError(
                f"expected codes in 0..{self.num_codes - 1}, found {codes.min().item()}..{codes.max().item()}"
            )
        grid = codes.shape[1:-1] if self.num_codebooks > 1 else codes.shape[1:]
        return codes.reshape(-1, self.num_codebooks), len(codes), grid

    @staticmethod
    def _to_grid(vectors: Tensor, batch: int, grid: tuple[int, ...]) -> Tensor:
        """(n, ...) -> (b, dim, *grid)."""
        return vectors.reshape(batch, *grid, -1).movedim(-1, 1)


class CodebookQuantizer(Quantizer, ABC):
    """A quantiser that keeps a vector for each code. With g codebooks each has dim / g of the dimensions."""

    codebook: Tensor  # (g, k, dim / g), float32 or float64

    def __init__(self, num_codes: int, dim: int, num_codebooks: int):
        super().__init__(num_codes, dim, num_codebooks)
        if dim % num_codebooks:
            raise ValueError(
                f"expected a dim that the number of codebooks divides, found dim={dim}, num_codebooks={num_codebooks}"
            )

    def _start(self) -> Tensor:
        """(g, k, dim / g) of unit length in the mean, as Sonnet's initialiser (variance 1 / d)."""
        d = self.dim // self.num_codebooks
        return torch.empty(self.num_codebooks, self.num_codes, d).uniform_(-math.sqrt(3 / d), math.sqrt(3 / d))

    def vectors(self) -> Tensor:
        """(g, k, dim / g): what each code stands for."""
        return self.codebook

    def lookup(self, codes: Tensor) -> Tensor:
        rows, batch, grid = self._to_rows(codes)
        return self._to_grid(self._entries(rows), batch, grid)

    def _entries(self, codes: Tensor) -> Tensor:
        """(n, g) -> (n, g, dim / g)."""
        return F.embedding(self._flat(codes), self.vectors().flatten(0, 1))

    def _flat(self, codes: Tensor) -> Tensor:
        """Codes (n, g) as row numbers of all codebooks one after the other."""
        return codes + torch.arange(self.num_codebooks, device=codes.device) * self.num_codes
