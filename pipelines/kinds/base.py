"""What a kind of data has of its own, from the configuration to the evaluation.

Methods import what they need: a kind is asked for its flags before torch is imported. A kind leaves out the methods of
verbs that it does not have: `pipelines.kinds.check_able` refuses them.
"""

from __future__ import annotations

import argparse
import math
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.files.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import ModuleType

    from torch import Tensor, nn

    from pipelines.generation.filling import Gap
    from pipelines.generation.samples import Samples
    from pipelines.generation.scores import Scores
    from pipelines.runs.chain import LoadedRun
    from pipelines.runs.example import Example
    from pipelines.splits.base import Batch, Data
    from pipelines.training.log import RunLog


MOST_POSITIONS = 2**28  # pixels of a sample
# Flags of sample.py that every kind has whose items can be completed (`completes`).
COMPLETION = ("complete", "mask", "particles", "sweeps", "paste")


@dataclass(frozen=True)
class Items:
    """A user's own items, as a run's models read them."""

    x: Tensor  # (n, *shape) in data units
    single: bool  # one item was given, not a batch: results are those of one item
    lengths: Tensor | None = None  # (n,) int64 where items are padded

    def rows(self, numbers: Tensor) -> Items:
        """Some of the items, in this order."""
        return Items(self.x[numbers], False, None if self.lengths is None else self.lengths[numbers])


@dataclass(frozen=True)
class Written:
    """Files that were written: how many items, an overview of them, and a figure in words."""

    count: int
    overview: Path
    figure: str


@dataclass(frozen=True)
class Medium:
    """A part of what an item is on a page: a picture or a sound, as the content of a file."""

    mime: str  # "image/png", "audio/wav", ...
    content: bytes
    width: int = 0  # of pictures, in pixels


class Kind(ABC):
    """A kind of data."""

    name: str
    hub_task: str | None = None  # what hubs call the task of a model of this kind; None: they have no name for it
    padded: bool = False  # items are padded along their one axis to one size, and have lengths
    any_size: bool = False  # its networks may take items of other sizes, and `read_any` and `load_any` read them
    sample_flags: tuple[str, ...] = ()  # names of the flags that `add_sample_flags` adds
    any_grid: bool = False  # its samples can be of other sizes than the run's items: the flag "size"
    completes: bool = False  # a hidden part of an item can be filled: the flags `COMPLETION` are among its options

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

    @property
    def options(self) -> tuple[str, ...]:
        """Names of all that `sampler_options` takes."""
        return (*(COMPLETION if self.completes else ()), *(["size"] if self.any_grid else []), *self.sample_flags)

    def sampler_options(self, loaded: LoadedRun, **flags: Any) -> dict[str, Any]:
        """The values of `options` (None: not given) -> fields of `Sampler`."""
        return {}

    def size(self, loaded: LoadedRun, flags: Mapping[str, Any]) -> dict[str, Any]:
        """What the flag "size" asks for, "128x192" or numbers along each axis, as a field of `Sampler`.

        Raises InputError for anything else, and beside an item to complete."""
        wanted, usual = flags.get("size"), loaded.stage1.example.shape[1:]
        if wanted is None:
            return {}
        if flags.get("complete") is not None:
            raise InputError(f"size: expected none with an item to complete, found {wanted!r}")
        parts = wanted.split("x") if isinstance(wanted, str) else wanted
        try:
            size = tuple(int(part) for part in parts)
        except (TypeError, ValueError):
            size = ()
        if len(size) != len(usual) or min(size) < 1 or math.prod(size) > MOST_POSITIONS:
            shown = "x".join({1: ("T",), 2: ("H", "W"), 3: ("T", "H", "W")}[len(usual)])
            raise InputError(f"size: expected {shown}, as {'x'.join(map(str, usual))}, found {wanted!r}")
        return {} if size == usual else {"size": size}

    def gap(self, loaded: LoadedRun, flags: Mapping[str, Any]) -> Gap | None:
        """What the flags `COMPLETION` ask for; None without a mask."""
        from pipelines.generation.filling import Gap

        given = {name: flags[name] for name in COMPLETION if flags.get(name) is not None}
        item, mask = given.pop("complete", None), given.pop("mask", None)
        if mask is None:
            for name in given:
                raise InputError(f"{name}: expected a mask of what is to be filled, found none")
            return None
        if item is None:
            raise InputError("mask: expected an item to complete, found none")
        items = self.read(loaded, item)
        return Gap(items.x, self.read_mask(loaded, mask, item, items), items.lengths, **given)

    def read_mask(self, loaded: LoadedRun, mask: Any, item: Any, items: Items) -> Tensor:
        """bool (1 or n, *grid of the data), True where `items`, which were read from `item`, are to be filled."""
        raise NotImplementedError(self.name)

    @abstractmethod
    def write_samples(self, folder: Path, samples: Samples, example: Example) -> Path:
        """One file per sample, and one overview of all, whose path is returned."""

    # --- one's own data -------------------------------------------------------------------------------------

    @abstractmethod
    def read(self, loaded: LoadedRun, x: Any) -> Items:
        """Arrays, tensors, files or a list of these -> items. Raises InputError that says what was expected and
        found."""

    def read_any(self, loaded: LoadedRun, x: Any, whole: bool = False) -> Items:
        """`read` of what verbs take that work on any size: arrays of any height and width, audio and clips of any
        length. whole: files and images too keep their own size, and are not fitted to the run's."""
        if whole:
            raise InputError(f"whole: expected a run on images, audio or video, found {loaded.run.root} on {self.name}")
        return self.read(loaded, x)

    def load_any(self, loaded: LoadedRun, paths: list[Path], whole: bool = False
                 ) -> Iterator[tuple[list[Path], Items]]:
        """`load_files` as `read_any` reads: the readable files and their items, in groups of one size, in order."""
        if whole:
            raise InputError(f"whole: expected a run on images, audio or video, found {loaded.run.root} on {self.name}")
        yield self.load_files(loaded, paths)

    def find_files(self, loaded: LoadedRun, source: Path) -> list[Path]:
        """The file itself, or all files of this kind below a folder, sorted. Raises InputError where there are none."""
        raise NotImplementedError(self.name)

    def load_files(self, loaded: LoadedRun, paths: list[Path]) -> tuple[list[Path], Items]:
        """The readable files and their items; warns about the others. Raises InputError where none can be read."""
        raise NotImplementedError(self.name)

    def write_item(self, stem: Path, x: Tensor, example: Example, exact: bool) -> Path:
        """Writes one item, x without a batch axis and without padding, to a file named `stem` and a suffix.

        exact: in a format that keeps every value."""
        raise NotImplementedError(self.name)

    @contextmanager
    def item_writer(self, folder: Path, example: Example, exact: bool) -> Iterator[Callable[[str, Tensor], None]]:
        """Yields a function that writes an item, of its name and x, by `write_item`: a kind whose files hold many items
        writes them at the end."""
        yield lambda stem, x: (self.write_item(folder / stem, x, example, exact), None)[1]

    def media(self, x: Tensor, example: Example) -> list[Medium]:
        """One item, x without a batch axis and without padding, as a page shows it."""
        raise NotImplementedError(self.name)

    def media_note(self, example: Example) -> str:
        """A sentence on how to read `media`, where they do not speak for themselves."""
        return ""

    def data_shape(self, loaded: LoadedRun) -> tuple[int, ...]:
        """The shape of one item that `read` returns."""
        return loaded.stage1.example.shape

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
                    batch_size: int, whole: bool = False) -> Written:
        """A file or a folder of files -> a reconstruction of each, and an overview of originals and reconstructions.

        whole, of kinds of any size: each at its own."""
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
        subject, result): what evaluate.py measures of this kind of data alone. Optional: features(x, lengths,
        data), FEATURES (what these are, and their unit, in words), draw_rows(path, rows, data): how items are compared,
        and drawn, to find copies; local_features(subject, held_out), rows_of_item(data): how sets of them are
        (evaluation/quality.py)."""


def write_ranking(folder: Path, samples: Samples, example: Example, files: Sequence[str]) -> None:
    """candidates.csv: the filled items, the likeliest first, with their file, bits, labels and how well they mixed."""
    import csv
    import io

    from pipelines.files.atomic import write_atomically
    from pipelines.generation.labels import classes_of

    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["rank", "file", "bits", "effective_particles", "boxes_changed", *samples.label_names])
    for rank, number in enumerate(samples.ranking, start=1):
        changed = "" if samples.changed is None else f"{samples.changed[number]:.3f}"
        words = [classes_of(example, name)[samples.label(name)[number]] for name in samples.label_names]
        rows.writerow([rank, files[number], f"{samples.bits[number]:.2f}", f"{samples.effective[number]:.1f}", changed,
                       *words])
    write_atomically(folder / "candidates.csv", text.getvalue().encode())


def ranges(mask: Any, unit: str, most: float) -> list[tuple[float, float]]:
    """"0.2-0.35,0.5-0.6", or pairs of numbers -> [(0.2, 0.35), (0.5, 0.6)], each within 0 to `most`.

    Raises InputError for anything else."""
    expected = f"mask: expected {unit} as START-END or START-END,START-END, from 0 to {most:g}"
    parts = [part.split("-") for part in mask.split(",")] if isinstance(mask, str) else mask
    try:
        found = [(float(start), float(end)) for start, end in parts]
    except (TypeError, ValueError):
        raise InputError(f"{expected}, found {mask!r}") from None
    for start, end in found:
        if not 0 <= start < end <= most:
            raise InputError(f"{expected}, found {start:g}-{end:g}")
    if not found:
        raise InputError(f"{expected}, found none")
    return found
