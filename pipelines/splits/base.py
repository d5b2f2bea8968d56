"""The interface of data sets: name, kind, shape, labels with sorted class names, and splits that give batches.

Axes: n items of a split, b items of a batch, L labels of an item, c channels.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from pipelines.files.errors import InputError
from pipelines.splits.counters import permutation
from pipelines.splits.rows import Rows, Stored
from pipelines.splits.transfer import ahead, send

RESIDENT_SHARE = 0.4  # share of a device's free memory that a split may take; the model needs the rest
CHUNK = 1024  # items processed at once when iterating over a whole split


class Batch(NamedTuple):
    """Items in data units, with their labels and other annotations."""

    x: Tensor  # (b, *shape): uint8 images, int64 codes
    labels: Tensor  # (b, L) int64; L may be 0
    local: Tensor | None = None  # (b, c, *grid) conditioning that varies over the grid
    lengths: Tensor | None = None  # (b,) int64: how much of the grid's one axis is real, if items are padded
    actions: Tensor | None = None  # (b, t) int64, for clips: the action that led to each frame


@dataclass(frozen=True)
class Split(ABC):
    """Items in a fixed order. `x` may be larger than memory: a tensor over a memory-mapped file, or rows of files."""

    x: Tensor | Rows  # (m, ...) stored items
    labels: Tensor  # (n, L) int64
    rows: Tensor | None = None  # (n,) int64, on x's device: the stored items of this split; None: all, m == n
    local: Stored | None = None  # (n, c, *grid)
    lengths: Tensor | None = None  # (n,) int64
    device: torch.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def batch(self, indices: Tensor, seed: int = 0, epoch: int | Tensor | None = None) -> Batch:
        """The items at `indices` (b,) int64, on the split's device.

        Augmentation is a function of (seed, epoch, index of the item) alone. `epoch` is one number, or one per item,
        (b,) int64; None and negative numbers give the item without augmentation, as in evaluation.
        """

    def to(self, device: torch.device | str) -> Self:
        """This split with batches on `device`; a GPU with enough free memory also stores the items.

        Enough means that the items take at most `RESIDENT_SHARE` of the free CUDA memory. Otherwise they stay in main
        memory and each batch is copied from there.
        """
        device = torch.empty(0, device=device).device  # "cuda" -> "cuda:0", so that devices compare
        changes: dict[str, Any] = {"device": device}
        for name in ("labels", "local", "lengths"):
            if isinstance(part := getattr(self, name), Tensor):
                changes[name] = part.to(device)
        if device.type == "cpu" and isinstance(self.x, Tensor):
            changes["x"] = self.x.cpu()
        elif device.type == "cuda" and self.x.device != device:
            bytes_needed = self._num_stored * self.x[:1].numel() * self.x.element_size()
            if bytes_needed <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
                changes |= {"x": self._copy(device), "rows": None}
        return replace(self, **changes)

    def batches(self, make: Callable[[int], Batch], numbers: Iterable[int]) -> Generator[Batch, None, None]:
        """make(number), a batch of this split, for each of `numbers`, in order. Close it to end it early.

        Where items must be copied to a GPU, a thread gathers and copies them while the GPU works on earlier ones."""
        if self.x.device == self.device:
            return (make(number) for number in numbers)
        return ahead(make, numbers, self.device)

    def evaluation_batches(self) -> Iterator[Batch]:
        """The whole split in order, without augmentation, `CHUNK` items at a time."""
        for start in range(0, len(self), CHUNK):
            yield self.batch(torch.arange(start, min(start + CHUNK, len(self))))

    @property
    def _num_stored(self) -> int:
        """Number of stored items of this split: n, except for clips, which share frames."""
        return len(self.x if self.rows is None else self.rows)

    def _copy(self, device: torch.device) -> Tensor:
        """The split's stored items on `device`, copied in chunks: the source may be larger than memory."""
        x = torch.empty((self._num_stored, *self.x.shape[1:]), dtype=self.x.dtype, device=device)
        for chunk in torch.arange(self._num_stored).split(CHUNK):
            x[chunk[0] : chunk[-1] + 1] = self._stored(chunk).to(device)
        return x

    def _stored(self, indices: Tensor) -> Tensor:
        """Stored items at `indices`, where they are stored."""
        indices = indices.to(self.x.device)
        return self.x[indices if self.rows is None else self.rows[indices]]

    def _fetch(self, indices: Tensor, sent: Tensor) -> Tensor:
        """Stored items at `indices`, on the split's device. sent: the same indices there."""
        if self.x.device == self.device:
            return self._stored(sent)
        return send(self._stored(indices), self.device)

    def _take(self, indices: Tensor, sent: Tensor | None = None) -> Batch:
        """Stored items at `indices` with labels, local features and lengths, on the split's device."""
        sent = send(indices, self.device) if sent is None else sent
        lengths, local = None if self.lengths is None else self.lengths[sent], self.local
        if local is not None:
            local = local[sent] if isinstance(local, Tensor) else send(local[indices], self.device)
        return Batch(self._fetch(indices, sent), self.labels[sent], local, lengths)


class Data(ABC):
    """A data set. Subclasses set the attributes and give the splits."""

    name: str  # in reports
    kind: str  # "image", "audio", "video", "codes"
    shape: tuple[int, ...]  # shape of one item: (c, h, w) for images
    label_names: tuple[str, ...] = ()  # one for each column of the labels
    classes: tuple[tuple[str, ...], ...] = ()  # sorted class names of each label; a label is an index
    action_names: tuple[str, ...] = ()  # for clips; an action is an index
    recorded_names: tuple[str, ...] = ()  # further recorded arrays: "pose"
    parent: Any = None  # of codes: the run that made them
    own_run: bool = False  # the data are in the run itself: codes that were imported
    parent_hash: str | None = None  # for codes: the hash of the stage 1 that made them
    splits: tuple[str, ...]  # "train", "validation" (held-out items) and, where published, "test"
    left_out: Mapping[str, int] = MappingProxyType({})  # how much of a source was not taken, by reason: {".txt": 12}
    remarks: tuple[str, ...] = ()  # what else the line of what was loaded says (pipelines/splits/describe.py)
    digest: str | None = None  # SHA-256 of the source, whatever machine it is on; None: not known

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...  # one kind's data have attributes of their own: sample_rate_hz

    @classmethod
    def planned_shape(cls, settings: Mapping[str, Any]) -> tuple[int, ...] | None:
        """The shape of one item where the settings alone (the section `data`) state it, and reading the data may take
        long: a network that it does not fit is refused before. None: only the data know."""
        return None

    @abstractmethod
    def _split(self, name: str) -> Split:
        """The split of that name, one of `splits`."""

    def split(self, name: str) -> Split:
        """The items of one split, on the CPU. Raises InputError for a name that is not in `splits`."""
        if name not in self.splits:
            raise InputError(f"split: expected one of {', '.join(self.splits)} of {self.name}, found {name!r}")
        return self._split(name)

    def recorded(self, name: str, split: str) -> Tensor:
        """A recorded array of a split, (n, ...); its name is one of `recorded_names`. Otherwise raises InputError."""
        raise InputError(f"{self.name}: expected one of the recorded arrays {self.recorded_names}, found {name!r}")

    @property
    def facts(self) -> dict[str, Any]:
        """What a configuration may ask of this data set beyond sizes and classes, as `${facts.NAME}`."""
        return {}

    @property
    def saved_facts(self) -> dict[str, Any]:
        """What a run remembers of this data set beyond name, kind, shape, labels and classes: plain values."""
        return {}

    @property
    def num_classes(self) -> tuple[int, ...]:
        return tuple(len(names) for names in self.classes)

    @cached_property
    def variance(self) -> float:
        """One scalar variance over all values of the training split, in data units: the denominator of NMSE.

        Integer sums are exact in float64 up to 2^53 (10^11 squared 8-bit pixels), so the order does not matter.
        """
        count, total, squares = 0, 0.0, 0.0
        for batch in self.split("train").evaluation_batches():
            x = batch.x.double()
            count, total, squares = count + x.numel(), total + x.sum().item(), squares + x.square().sum().item()
        return squares / count - (total / count) ** 2


def hold_out(num_items: int, num_held_out: int, seed: int) -> tuple[Tensor, Tensor]:
    """Splits range(num_items) by a seeded permutation: (kept, held out), int64, each ascending."""
    order = permutation(num_items, seed)
    held_out, kept = np.sort(order[:num_held_out]), np.sort(order[num_held_out:])
    return torch.from_numpy(kept), torch.from_numpy(held_out)


def checked_hold_out_size(key: str, size: int, num_items: int) -> int:
    """`size` if both parts get at least one item; otherwise raises an InputError that names `key`."""
    if num_items < 2:
        raise InputError(f"{key}: expected at least 2 items, one of which is held out for validation, found "
                         f"{num_items}")
    if not 0 < size < num_items:
        raise InputError(f"{key}: expected between 1 and {num_items - 1} of {num_items} items, found {size}")
    return size


def held_out_size(key: str, fraction: float, num_items: int) -> int:
    """The number of items that are held out: `fraction` of them, rounded, but one at least and not all. Raises an
    InputError that names `key` for a fraction out of range, and for fewer than two items."""
    if not 0 < fraction < 1:
        raise InputError(f"{key}: expected a number above 0 and below 1, found {fraction}")
    return checked_hold_out_size(key, min(max(round(fraction * num_items), 1), num_items - 1), num_items)


def label_columns(key: str, names: list[str] | None, label_names: tuple[str, ...]) -> list[int]:
    """Columns of the labels that a model is conditioned on; None: all. Raises InputError at `key` for unknown names."""
    if names is None:
        return list(range(len(label_names)))
    for name in names:
        if name not in label_names:
            raise InputError(f"{key}: expected labels among {list(label_names)}, found {name!r}")
    return [label_names.index(name) for name in names]


def known_labels(key: str, names: list[str] | None, label_names: tuple[str, ...], data: str, active: bool
                 ) -> list[str] | None:
    """The labels that a model is to be conditioned on: `names`, but none where the data have no labels at all, as a
    flat folder of recordings. A line on stderr, of an `active` process, then says so."""
    if not names or label_names:
        return names
    if active:
        print(f"note: {key}: {', '.join(names)} left out, since {data} has no labels: the model is unconditional "
              f"({key}=[] says the same; labels are the names of folders)", file=sys.stderr)
    return []


def code_lengths(batch: Batch, positions: int) -> Tensor | None:
    """Number of real codes among the `positions` of each item, (b,) int64; None without padding."""
    if batch.lengths is None:
        return None
    check_one_axis(batch.x.shape[1:])
    return -(-batch.lengths * positions // batch.x.shape[2])


def check_one_axis(shape: Sequence[int]) -> None:
    """Raises ValueError for lengths of items (c, *grid) whose grid has more than one axis: images are not padded."""
    if len(shape) != 2:
        raise ValueError(f"lengths: expected items (channels, positions), found shape {tuple(shape)}")


def real_codes(batch: Batch, positions: int) -> Tensor | None:
    """Which of the `positions` of each item hold a real code, bool (b, positions); None without padding."""
    lengths = code_lengths(batch, positions)
    return None if lengths is None else torch.arange(positions, device=lengths.device) < lengths[:, None]


def columns_of(labels: Tensor, columns: Sequence[int]) -> Tensor | None:
    """Columns of labels (b, L) -> (b, len(columns)); None where there are none. An index made of a list would be copied
    to a GPU at each step, and the copy waited for."""
    if not columns:
        return None
    return torch.stack([labels[:, column] for column in columns], 1)
