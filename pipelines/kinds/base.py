"""What a kind of data has of its own, from the configuration to the evaluation.

Methods import what they need: a kind is asked for its flags before torch is imported. A kind leaves out the methods of
verbs that it does not have: `pipelines.kinds.check_able` refuses them.
"""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.files.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    from torch import Tensor, nn

    from pipelines.generation.samples import Samples
    from pipelines.generation.scores import Scores
    from pipelines.runs.chain import LoadedRun
    from pipelines.runs.example import Example
    from pipelines.splits.base import Batch, Data
    from pipelines.training.log import RunLog


@dataclass(frozen=True)
class Items:
    """A user's own items, as a run's models read them."""

    x: Tensor  # (n, *shape) in data units
    single: bool  # one item was given, not a batch: results are those of one item
    lengths: Tensor | None = None  # (n,) int64 where items are padded


@dataclass(frozen=True)
class Written:
    """Files that were written: how many items, an overview of them, and a figure in words."""

    count: int
    overview: Path
    figure: str


class Kind(ABC):
    """A kind of data."""

    name: str
    padded: bool = False  # items are padded along their one axis to one size, and have lengths
    sample_flags: tuple[str, ...] = ()  # names of the flags that `add_sample_flags` adds

    # --- training and extraction ----------------------------------------------------------------------------

    @abstractmethod
    def show(self, model: nn.Module, batch: Batch, labels: Tensor | None, example: Example, log: RunLog,
             step: int) -> None:
        """Originals and reconstructions of some validation items, to TensorBoard."""

    def check_views(self, views: int) -> None:
        """Raises InputError for a number of augmented passes over the training split that codes cannot have."""

    def code_fields(self, batch: Batch, codes: Tensor, data: Data) -> dict[str, Tensor]:
        """What a code data set stores beside codes: lengths, local fields."""
        return {}

    # --- sampling -------------------------------------------------------------------------------------------

    def add_sample_flags(self, parser: argparse._ArgumentGroup) -> None:
        """Flags of sample.py that only this kind has, with the names in `sample_flags`."""

    def sampler_options(self, loaded: LoadedRun, **flags: Any) -> dict[str, Any]:
        """The values of `sample_flags` (None: not given) -> fields of `Sampler`."""
        return {}

    @abstractmethod
    def write_samples(self, folder: Path, samples: Samples, example: Example) -> Path:
        """One file per sample, and one overview of all, whose path is returned."""

    # --- one's own data -------------------------------------------------------------------------------------

    @abstractmethod
    def read(self, loaded: LoadedRun, x: Any) -> Items:
        """Arrays, tensors, files or a list of these -> items. Raises InputError that says what was expected and
        found."""

    def data_shape(self, loaded: LoadedRun) -> tuple[int, ...]:
        """The shape of one item that `read` returns."""
        return loaded.stage1.example.shape

    def read_files(self, loaded: LoadedRun, source: Path) -> tuple[list[str], Items]:
        """A file, or all files of a folder that can be read: their names without suffix, and their items."""
        raise NotImplementedError(self.name)

    def local(self, loaded: LoadedRun, actions: str | None, count: int) -> Tensor | None:
        """The local features (count, c, *grid or 1s) that the prior is conditioned on for a user's own items."""
        if actions is not None:
            raise InputError(f"actions: expected a run on video with actions, found {loaded.run.root}")
        return None

    def codec_bits(self, loaded: LoadedRun, x: Tensor, lengths: Tensor | None) -> Tensor | None:
        """Items in data units -> the sizes of lossless files of them, float64 (n,); None where no codec suits them."""
        return None

    def draw_scores(self, loaded: LoadedRun, out: Path, names: list[str], captions: list[str], items: Items,
                    scores: Scores) -> Path:
        """Maps of bits, a file for each item, the most surprising item first; and an overview, whose path is
        returned."""
        raise NotImplementedError(self.name)

    def reconstruct(self, loaded: LoadedRun, source: Path, out: Path, labels: Mapping[str, str], seed: int,
                    batch_size: int) -> Written:
        """A file or a folder of files -> a reconstruction of each, and an overview of originals and reconstructions."""
        raise NotImplementedError(self.name)

    def convert(self, loaded: LoadedRun, source: Path, out: Path, label: str, target: str, seed: int,
                batch_size: int) -> Written:
        """A file or a folder of files -> each decoded with another class of one label."""
        raise NotImplementedError(self.name)

    def predict(self, loaded: LoadedRun, data_root: Path | None, out: Path, count: int, context: int, frames: int,
                actions: Sequence[str], seed: int, batch_size: int, **truncation: Any) -> Written:
        """Held-out clips, continued."""
        raise NotImplementedError(self.name)

    def plot_latents(self, loaded: LoadedRun, data_root: Path | None, out: Path, split: str | None, example: int,
                     seed: int, batch_size: int) -> dict[str, Path | str]:
        """Figures of what the latents mean: their paths, or why they were left out, by title."""
        raise NotImplementedError(self.name)

    # --- evaluation -----------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def evaluation(self) -> ModuleType:
        """check(subject), figures(measured, subject, shared figures), rows(result) of the table, draw(measured,
        subject, result): what evaluate.py measures of this kind of data alone. features(x, lengths, data), draw_rows(
        path, rows, data): how items are compared, and drawn, to find copies."""
