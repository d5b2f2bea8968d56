"""The base class of all autoregressive priors: conditions, checks, likelihood, and the interfaces that sampling uses.

A prior factorises p(codes | labels, local) over the positions of a grid with any number of axes, in raster order. With
several codes per position (product codebooks) codebook g varies fastest.

Axes: b batch, k codes of a codebook, g codebooks, c channels, L label columns.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from stage2_prior.compiler import ready
from stage2_prior.fused import Nats
from stage2_prior.precision import full_float32
from stage2_prior.rule import Rule

LOGITS = 2**26  # held at once where the batch can be divided: 256 MiB in float32
NOT_FINITE = "logits: expected finite numbers, found NaN or infinity: the prior's weights are broken"


class Stepper(ABC):
    """One pass over the positions of b grids that caches activations of earlier codes: sampling on any device."""

    @abstractmethod
    def step(self, codes: Tensor, position: tuple[int, ...]) -> Tensor:
        """Logits (b, num_codes) of the code at `position` = (*grid index[, codebook]).

        Called once per position, in raster order, codebook fastest; slices of the grid's first axis may be skipped
        where all codes are known. `codes` (b, *grid[, g]) is filled before `position`; later values are not read.
        """


class ReplayableStepper(ABC):
    """One pass whose steps can each be recorded once, as a CUDA graph, and replayed for every position.

    Called in raster order: `begin_at` for each slice of every grid axis but the last, from the first axis on, then
    `step_at` for each position and codebook. `position` has an int64 tensor (1,) on the device for each grid axis.
    Both methods read and write tensors that stay at the same addresses between calls, and never wait for the device.
    `codes` (b, *grid[, g]) is contiguous and filled before `position`; later values are not read.
    """

    def begin_at(self, codes: Tensor, position: Sequence[Tensor], axis: int) -> None:  # noqa: B027
        """Prepares the slice position[: axis + 1], such as a row of a grid (axis 0). Not called for sequences.

        Where all codes of a slice of the first axis are known, its steps and its inner slices may be skipped.
        """

    @abstractmethod
    def step_at(self, codes: Tensor, position: Sequence[Tensor], codebook: int) -> Tensor:
        """Logits (b, num_codes) of the code at `position`."""

    def row_kernel(self, rule: Rule) -> "RowKernel | None":
        """What draws the whole last axis, after `begin_at`, in place of `step_at`; None where nothing does."""
        return None


class RowKernel(ABC):
    """Draws positions of the last grid axis by one launch on a GPU: a row, or the next span of a sequence.

    most: the number of positions of a launch, at most; a row has no more.
    """

    most: int

    @abstractmethod
    def draw(self, codes: Tensor, known: Tensor, uniforms: Tensor, finite: Tensor) -> None:
        """Writes codes (b, w, g): `known` (b, w, g), and draws where that is -1, by uniforms float64 (b, w, g).

        The three are slices of contiguous tensors (b, *grid, g). Sets `finite`, bool (), to False where logits are NaN
        or infinite, and never waits for the device.
        Raises CompilerError where the kernel cannot be compiled, before anything is written.
        """


class CompiledLoop(ABC):
    """The whole pass as machine code, for tensors on a CPU. Packs the weights once; blocks of samples share them."""

    @abstractmethod
    def fill(
        self, codes: Tensor, uniforms: Tensor, labels: Tensor | None, local: Tensor | None, rule: Rule
    ) -> Iterator[int]:
        """Draws, in place, every code that is -1; yields how many positions were done since the last yield.

        codes int64 and uniforms float64, both (b, *grid[, g]). Several threads call it at once, each with its own block
        of samples, so the loop releases the interpreter's lock. A sample's codes do not depend on its block.
        Raises CompilerError where the loop cannot be compiled.
        """

    @abstractmethod
    def stepper(
        self, batch: int, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None
    ) -> Stepper:
        """The same pass code by code, for one block of samples. No slices may be skipped; `codes` is contiguous, and
        the logits are valid until the next step. A step raises CompilerError where it cannot be compiled."""


class Prior(nn.Module, ABC):
    """p(codes | labels, local), one code after the other.

    num_classes: the number of classes per label column; empty for an unconditional prior.
    local_channels: channels of `local` (b, c, *grid), which conditions each position separately; 0 for none.
    grid_axes: the number of axes of a grid, set by the class: 1 for audio, 2 for images, 3 for video.
    """

    grid_axes: int

    def __init__(self, num_codes: int, num_codebooks: int, num_classes: Sequence[int], local_channels: int) -> None:
        super().__init__()
        self.num_codes = _positive("num_codes", num_codes)
        self.num_codebooks = _positive("num_codebooks", num_codebooks)
        self.num_classes = tuple(_positive("num_classes", count) for count in num_classes)
        if local_channels < 0:
            raise ValueError(f"local_channels: expected 0 or more, found {local_channels}")
        self.local_channels = local_channels

    @abstractmethod
    def forward(self, codes: Tensor, labels: Tensor | None = None, local: Tensor | None = None) -> Tensor:
        """Logits (b, num_codes, *grid[, g]) for codes int64 (b, *grid[, g]), labels int64 (b, L), local (b, c, *grid).

        A position's logits depend on earlier positions alone. Raises ValueError where the input is not as declared.
        """

    @abstractmethod
    def stepper(
        self, batch: int, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None
    ) -> Stepper | ReplayableStepper:
        """A new pass over `batch` grids, on the device and in the precision of the parameters."""

    @property
    def logits_per_code(self) -> int:
        """How many numbers `forward` gives for each code."""
        return self.num_codes

    def sub_codes(self, codes: Tensor) -> Tensor:
        """What is drawn and coded one after the other, and what the logits of `forward` are of: the codes themselves,
        but for `split.SplitCodes`."""
        return codes

    def compiled_loop(self) -> CompiledLoop | None:
        """The machine code that draws on a CPU, or None where the stepper draws on every device."""
        return None

    def log_prob(
        self, codes: Tensor, labels: Tensor | None = None, local: Tensor | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """log p(codes | labels, local) in nats, (b,), summed over positions and codebooks; never below float32.

        lengths (b,) int64: for padded codes, how many positions of the first grid axis are real; the rest is excluded.
        """
        if codes.device.type != "cpu":  # where `forward` does not
            self.check_values(codes, labels)
        nats = -self.code_nats(codes, labels, local)
        if lengths is not None:
            counts = torch.arange(codes.shape[1], device=codes.device) < lengths[:, None]
            nats = nats * rearrange(counts, "b t -> b t" + " 1" * (codes.ndim - 2))
        return reduce(nats, "b ... -> b", "sum")

    def code_nats(self, codes: Tensor, labels: Tensor | None = None, local: Tensor | None = None) -> Tensor:
        """-log p of each code given the earlier ones, in nats, shape (b, *grid[, g]); never below float32.

        Outside autocast exact in float32: without TF32. Without gradients in parts of the batch of at most LOGITS
        logits, or of one item."""
        size = len(codes)
        if not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            size = max(1, LOGITS // max(1, codes[:1].numel() * self.logits_per_code))
        with full_float32():
            if len(codes) <= size:
                return self.nats_of(self(codes, labels, local), codes)
            found = []
            for rows in torch.split(torch.arange(len(codes), device=codes.device), size):
                own_labels, own_local = (None if x is None else x[rows] for x in (labels, local))
                found.append(self.nats_of(self(codes[rows], own_labels, own_local), codes[rows]))
            return torch.cat(found)

    def nats_of(self, logits: Tensor, codes: Tensor) -> Tensor:
        """-log p of each code by the logits of `forward`, shaped like codes."""
        return nats(logits, codes)

    def check(self, codes: Tensor, labels: Tensor | None, local: Tensor | None) -> None:
        """Raises ValueError unless the arguments of `forward` are as declared.

        Values are checked on a CPU only, and not in a graph: on a GPU each forward pass would wait for it. `log_prob`
        and sampling check them there too."""
        self.check_shape("codes", codes.shape)
        if codes.dtype != torch.int64:
            raise ValueError(f"codes: expected dtype torch.int64, found {codes.dtype}")
        self._check_shapes(codes.shape[0], self.grid(codes.shape), labels, local)
        if codes.device.type == "cpu" and not torch.compiler.is_compiling():
            self.check_values(codes, labels)

    def check_values(self, codes: Tensor, labels: Tensor | None) -> None:
        """Raises ValueError for codes and classes that this prior does not have. Waits for a GPU."""
        if codes.numel():
            low, high = (int(bound) for bound in codes.aminmax())
            if low < 0 or high >= self.num_codes:
                raise ValueError(f"codes: expected values in [0, {self.num_codes}), found [{low}, {high}]")
        self._check_classes(labels)

    def check_shape(self, name: str, shape: Sequence[int]) -> None:
        """Raises ValueError unless `shape` is (b, *grid[, g]) with a non-empty grid."""
        axes = ["b", *(f"grid{axis}" for axis in range(self.grid_axes))]
        axes += [str(self.num_codebooks)] if self.num_codebooks > 1 else []
        fits = len(shape) == len(axes) and (self.num_codebooks == 1 or shape[-1] == self.num_codebooks)
        if not fits or 0 in shape[1:]:
            raise ValueError(f"{name}: expected shape ({', '.join(axes)}), found {tuple(shape)}")

    def check_conditions(
        self, batch: int, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None
    ) -> None:
        """Raises ValueError unless labels and local have the shapes, dtypes and classes of this prior. Waits for a
        GPU."""
        self._check_shapes(batch, grid, labels, local)
        self._check_classes(labels)

    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The `grid` of a shape (b, *grid[, g])."""
        return tuple(shape[1 : 1 + self.grid_axes])

    def _check_classes(self, labels: Tensor | None) -> None:
        if labels is None:
            return
        for column, count in enumerate(self.num_classes):
            unknown = labels[:, column][(labels[:, column] < 0) | (labels[:, column] >= count)]
            if len(unknown):
                raise ValueError(f"labels: column {column}: expected classes in [0, {count}), found {unknown[0]}")

    def _check_shapes(self, batch: int, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None) -> None:
        columns = len(self.num_classes)
        if labels is None and columns:
            raise ValueError(f"labels: expected shape ({batch}, {columns}), found none")
        if labels is not None:
            if labels.shape != (batch, columns):
                raise ValueError(f"labels: expected shape ({batch}, {columns}), found {tuple(labels.shape)}")
            if labels.dtype != torch.int64:
                raise ValueError(f"labels: expected dtype torch.int64, found {labels.dtype}")
        shape = (batch, self.local_channels, *grid)
        if local is None and self.local_channels:
            raise ValueError(f"local: expected shape {shape}, found none")
        if local is not None:
            if not self.local_channels:
                raise ValueError(f"local: expected none, found shape {tuple(local.shape)}")
            if local.shape != shape or not local.is_floating_point():
                raise ValueError(f"local: expected floats {shape}, found {local.dtype} {tuple(local.shape)}")


def nats(logits: Tensor, codes: Tensor) -> Tensor:
    """-log softmax of logits (b, k, *grid[, g]) at codes (b, *grid[, g]), shaped like codes; never below float32."""
    rows = rearrange(logits, "b k ... -> (b ...) k")
    if ready(logits.device, logits.dtype):
        return Nats.apply(rows, codes.flatten()).view(codes.shape)  # type: ignore[no-untyped-call]
    with torch.autocast(logits.device.type, enabled=False):
        rows = rows if rows.dtype == torch.float64 else rows.float()
        return F.cross_entropy(rows, codes.flatten(), reduction="none").view(codes.shape)


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name}: expected 1 or more, found {value}")
    return int(value)
