"""The interface of all bottlenecks, which encoder, decoder and training loop rely on, and what they return.

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
from stage1_vqvae.codebook import perplexity, usage


@dataclass(frozen=True)
class Latent:
    """The output of a bottleneck."""

    z_q: Tensor  # (b, d, *grid) the decoder's input; a quantiser's, in eval mode, is exactly the entries of its codes
    codes: Tensor | None  # (b, *grid) int64, with g > 1 codebooks (b, *grid, g); None without codes
    rate_nats: Tensor  # (b,) KL to the training prior, summed over the latents
    loss: Tensor  # () auxiliary terms, weighted; a mean over elements: it does not grow with the batch

    def bound(self, costs: Tensor, dimensions: Tensor | int) -> Tensor:
        """Distortion plus rate of each row of z_q, in nats per data dimension -> the bound of each example (b,).

        With one row per example they are equal; a latent that holds several samples per example combines them."""
        return costs


class Bottleneck(nn.Module, ABC):
    """Maps encodings (b, in_dim, *grid) to a `Latent` of `dim` dimensions on the same grid.

    Noise is a function of uniforms, float64 in [0, 1), of shape (b, n, *grid) for n draws per position: those that are
    given, else in training mode those that `collectives.global_uniforms` draws. In eval mode without uniforms there is
    no noise. The training loop knows no class: it asks for what the attributes and methods below say.
    """

    rate_is_constant = False  # whether every position of every example has the same rate

    def __init__(self, dim: int, in_dim: int | None = None):
        super().__init__()
        self.dim = dim
        self.in_dim = dim if in_dim is None else in_dim

    @abstractmethod
    def forward(self, z: Tensor, step: Tensor | int | None = None, uniforms: Tensor | None = None) -> Latent:
        """`step` drives schedules, `uniforms` the noise, where there is any; no step: the end of the schedule."""

    def posterior(self, z: Tensor) -> Posterior | None:
        """q(latents | x) of encodings; None where it is a single point, a function of x."""
        return None

    @property
    def settled_from(self) -> int:
        """The first training step whose objective is comparable with that of all later ones."""
        return 0

    @property
    def needs_initialisation(self) -> bool:
        """Whether `initialise` is to be called before the first training step."""
        return False

    @property
    def encodings_to_initialise(self) -> int:
        """How many encodings `initialise` wants."""
        return 0

    def initialise(self, z: Tensor) -> None:
        """Fits the bottleneck to encodings (n, dim) gathered before training, the same on every rank."""
        raise ValueError(f"expected a bottleneck that is initialised from data, found {type(self).__name__}")

    @property
    def needs_whole_batch(self) -> bool:
        """Whether the forward pass in training needs a sum over the global batch at once, by `collectives.all_sum`:
        accumulated gradients then take a pass without gradients before."""
        return False

    def codebooks(self) -> list[nn.Parameter]:
        """Learned vectors of codes, which weight decay would pull away from the encodings."""
        return []

    def after_step(self, optimizer: Optimizer) -> None:
        """Called after every optimiser's step: the place for changes that the optimiser must not undo."""

    @property
    def validation_draws(self) -> int:
        """How many uniforms per position validation needs, the n of (b, n, *grid); 0: it is exact without noise."""
        return 0

    @property
    def prior_draws(self) -> int:
        """How many uniforms per position `from_prior` needs; 0: there is no prior to sample from, as for an AE, or
        it is learned afterwards, as for codes."""
        return 0

    def from_prior(self, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
        """Uniforms float64 (b, prior_draws, *grid) -> z_q (b, dim, *grid) from the training prior."""
        raise ValueError(f"expected latents with a prior to sample from, found {type(self).__name__}")

    def figures(self, z: Tensor, latent: Latent) -> dict[str, Tensor]:
        """Scalars to log of a training step, from encodings and their latent; they are averaged over ranks."""
        return {"z_e norm": z.detach()[:, : self.dim].float().norm(dim=1).mean()}

    def usage(self, codes: Tensor, real: Tensor | None = None) -> Tensor | None:
        """Counts of codes (..., [, g]), to be summed over batches and ranks; None where nothing is counted.

        real (...): bool, at which positions; None: at all."""
        return None

    def usage_figures(self, counts: Tensor) -> dict[str, Tensor]:
        """Scalars to log, from sums of `usage`."""
        return {}

    def _check(self, z: Tensor) -> None:
        if z.ndim < 2 or z.shape[1] != self.in_dim:
            raise ValueError(f"expected encodings (b, {self.in_dim}, *grid), found {tuple(z.shape)}")


class Quantizer(Bottleneck, ABC):
    """A bottleneck whose latents are integers below `num_codes`, `num_codebooks` of them per position."""

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

    def distances(self, z: Tensor, earlier: Tensor) -> Tensor:
        """|z - z_q|^2 by each code of one codebook: z (n, in_dim), earlier (n, h) codes of the h codebooks before it ->
        (n, k). Raises ValueError for a quantiser that does not choose codes by distance."""
        raise ValueError(f"expected a quantiser that chooses codes by distance, found {type(self).__name__}")

    def costs(self) -> Tensor | None:
        """What each code costs besides its distance, (g, k) in its unit; None: nothing."""
        return None

    def usage(self, codes: Tensor, real: Tensor | None = None) -> Tensor:
        """How often each code of each codebook occurs, (g, k) int64."""
        columns = codes.reshape(-1, self.num_codebooks).unbind(1)
        real = None if real is None else real.flatten()
        return torch.stack([usage(column, self.num_codes, real) for column in columns])

    def usage_figures(self, counts: Tensor) -> dict[str, Tensor]:
        """Means over codebooks."""
        return {"perplexity": perplexity(counts).mean(), "codes used": (counts > 0).double().sum(1).mean()}

    def _latent(self, vectors: Tensor, codes: Tensor, batch: int, grid: tuple[int, ...], loss: Tensor) -> Latent:
        """From vectors (n, dim) and their codes (n, g), at the rate of a uniform prior: log K per code."""
        rate = codes.numel() // batch * math.log(self.num_codes)
        return Latent(
            z_q=self._to_grid(vectors, batch, grid),
            codes=codes.view(batch, *grid, -1) if self.num_codebooks > 1 else codes.view(batch, *grid),
            rate_nats=torch.full((batch,), rate, dtype=vectors.dtype, device=vectors.device),
            loss=loss,
        )

    def _to_rows(self, codes: Tensor) -> tuple[Tensor, int, tuple[int, ...]]:
        """Codes (b, *grid[, g]) -> (n, g), b and grid; ValueError for codes outside 0 .. num_codes - 1.

        A graph that is traced, by torch.export or torch.compile, cannot look at values: only outside are they checked.
        """
        if not torch.compiler.is_compiling() and (codes.min() < 0 or codes.max() >= self.num_codes):
            raise ValueError(
                f"expected codes in 0..{self.num_codes - 1}, found {codes.min().item()}..{codes.max().item()}"
            )
        grid = codes.shape[1:-1] if self.num_codebooks > 1 else codes.shape[1:]
        return codes.reshape(-1, self.num_codebooks), codes.shape[0], grid

    @staticmethod
    def _to_grid(vectors: Tensor, batch: int, grid: tuple[int, ...]) -> Tensor:
        """(n, ...) -> (b, dim, *grid)."""
        return vectors.reshape(batch, *grid, -1).movedim(-1, 1)


class CodebookQuantizer(Quantizer, ABC):
    """A quantiser with one vector per code. With g codebooks each describes dim / g of the dimensions."""

    codebook: Tensor  # (g, k, dim / g), float32 or float64

    def __init__(self, num_codes: int, dim: int, num_codebooks: int):
        super().__init__(num_codes, dim, num_codebooks)
        if dim % num_codebooks:
            raise ValueError(
                f"expected a dim that the number of codebooks divides, found dim={dim}, num_codebooks={num_codebooks}"
            )

    def codebooks(self) -> list[nn.Parameter]:
        return [self.codebook] if isinstance(self.codebook, nn.Parameter) else []

    def _start(self) -> Tensor:
        """(g, k, dim / g) of unit mean length, as Sonnet's initialiser (variance 1 / d)."""
        d = self.dim // self.num_codebooks
        return torch.empty(self.num_codebooks, self.num_codes, d).uniform_(-math.sqrt(3 / d), math.sqrt(3 / d))

    def vectors(self) -> Tensor:
        """(g, k, dim / g): the vector that each code stands for."""
        return self.codebook

    def lookup(self, codes: Tensor) -> Tensor:
        rows, batch, grid = self._to_rows(codes)
        return self._to_grid(self._entries(rows), batch, grid)

    def _entries(self, codes: Tensor, vectors: Tensor | None = None) -> Tensor:
        """(n, g) -> (n, g, dim / g). vectors: those of `vectors()`, where they are at hand."""
        return F.embedding(self._flat(codes), (self.vectors() if vectors is None else vectors).flatten(0, 1))

    def _flat(self, codes: Tensor) -> Tensor:
        """Codes (n, g) as row numbers in the codebooks laid end to end."""
        return codes + torch.arange(self.num_codebooks, device=codes.device) * self.num_codes


def nmse(z: Tensor, z_q: Tensor) -> Tensor:
    """Encodings and their codebook entries, both (n, d) -> (): |z - z_q|^2 over the variance of z.

    A single code at the mean of the encodings has 1."""
    return (z - z_q).square().sum() / (z - z.mean(0)).square().sum().clamp(min=torch.finfo(z.dtype).tiny)
