"""Splits of audio: training uses random windows; evaluation and extraction use whole clips, padded, with lengths.

A recording longer than `length` becomes several consecutive items; no window spans two recordings.

Axes: n items of a split, b items of a batch, t samples.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.data.audio_files import FULL_SCALE, DecodedSamples, decoded_audio
from pipelines.data.members import Member
from pipelines.files.errors import InputError
from pipelines.splits import counters
from pipelines.splits.base import RESIDENT_SHARE, Batch, Data, Split, held_out_size, hold_out
from pipelines.splits.transfer import send, send_together

CHUNK = 2**24  # audio samples processed at once when iterating over a whole split
COPIED = 256  # recordings per copy to a GPU


@dataclass(frozen=True)
class Recordings:
    """The files of a data set, their labels, and the split of each."""

    files: list[str]  # relative to the root, with "/"
    labels: Tensor  # (m, L) int64
    splits: list[str]  # "train", "validation" or "test"; without "validation" a part of "train" is held out
    left_out: Mapping[str, int] = field(default_factory=dict)  # what else was found, by reason
    members: list[Member] | None = None  # the files, where they lie inside others; `files` are then their names
    facts: list = field(default_factory=list)  # names, sizes and times of the files that members lie in


@dataclass(frozen=True, kw_only=True)
class AudioSplit(Split):
    """float32 (b, 1, t) in [-1, 1) from int16 samples; `x` (total samples,) holds all recordings one after another.

    With an `epoch` the items are random windows of `crop` samples of their recordings; without, they are padded with
    zeros to `length`. `Batch.lengths` gives the number of real samples: a recording may be shorter than either.
    """

    starts: Tensor  # (n,) int64, first sample of each item in x
    bounds: Tensor  # (n, 2) int64, first sample and end of each item's recording in x
    crop: int
    length: int

    def to(self, device: torch.device | str) -> "AudioSplit":
        """See `Split.to`; only this split's recordings are copied to a GPU. Starts, bounds and lengths stay in main
        memory, where windows are drawn, so that no batch waits for the GPU."""
        device = torch.empty(0, device=device).device
        moved = replace(self, device=device, labels=self.labels.to(device))
        if device.type == "cpu":
            return replace(moved, x=self.x.cpu()) if isinstance(self.x, Tensor) else moved
        bytes_needed = int(self.bounds.unique(dim=0).diff(dim=1).sum()) * self.x.element_size()
        if self.x.device != device and bytes_needed <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
            moved = moved.resident(device)
        return moved

    def resident(self, device: torch.device | str) -> "AudioSplit":
        """This split with only its own recordings in `x`, on `device`, in the same order."""
        recordings, which = self.bounds.unique(dim=0, return_inverse=True)
        sizes = recordings[:, 1] - recordings[:, 0]
        begins = sizes.cumsum(0) - sizes
        x = torch.empty(int(sizes.sum()), dtype=self.x.dtype, device=device)
        for rows in torch.arange(len(recordings)).split(COPIED):
            part = torch.cat([self.x[old:end] for old, end in recordings[rows].tolist()])
            begin = int(begins[rows[0]])
            x[begin : begin + len(part)] = part.to(device)
        shift = begins[which] - self.bounds[:, 0]
        return replace(self, x=x, starts=self.starts + shift, bounds=self.bounds + shift[:, None])

    def batch(self, indices: Tensor, seed: int = 0, epoch: int | Tensor | None = None) -> Batch:
        items = indices.cpu()
        starts, lengths, size = self.starts[items], self.lengths[items], self.length
        augmented = torch.as_tensor(-1 if epoch is None else epoch).cpu() >= 0
        if augmented.any():
            if not augmented.all():
                raise InputError("extract.views: expected 1 for audio, whose items are whole clips")
            begin, end = self.bounds[items].unbind(1)
            size, lengths = self.crop, (end - begin).clamp(max=self.crop)
            bits = counters.words(seed, np.asarray(torch.as_tensor(epoch).cpu()), items.numpy())
            starts = begin + torch.from_numpy(counters.below(bits, (end - begin - lengths + 1).numpy()))
        here, begins, sizes = send_together([items, starts, lengths], self.device)
        if self.x.device == self.device:
            x = self._windows(begins, sizes, size)
        else:
            x = send(self._windows(starts, lengths, size), self.device)
        return Batch(x.float()[:, None] / FULL_SCALE, self.labels[here], lengths=sizes)

    def _windows(self, starts: Tensor, lengths: Tensor, size: int) -> Tensor:
        """int16 (b, size) from starts and lengths (b,), all where the samples are; zeros after the lengths."""
        if isinstance(self.x, DecodedSamples):
            found = torch.zeros(len(starts), size, dtype=self.x.dtype)
            for row, window in zip(found, self.x.windows(starts, lengths), strict=True):
                row[: len(window)] = window
            return found
        places = torch.arange(size, device=self.x.device)
        at = (starts[:, None] + places).clamp(max=len(self.x) - 1)
        return torch.where(places < lengths[:, None], self.x[at], 0)


class AudioData(Data):
    """Audio files below a folder, decoded once into a cache. A subclass gives the files, labels and splits.

    sample_rate_hz: files are resampled to this rate. crop: samples per training window. length: samples per item in
    evaluation and in the code data set; both must be multiples of the encoder's hop length.
    peak: each file is scaled to this largest magnitude; 0: unchanged. cache_bytes: recordings beyond so many bytes of
    samples are not stored, and decoded each time they are asked for, with the same result; 0: all are stored.
    `validation_fraction` of the training recordings, chosen by `seed`, are held out if the data have no validation
    split of their own.

    Raises InputError for a folder that is missing or contains no readable audio file.
    """

    kind = "audio"

    def __init__(self, root: str, cache: str, sample_rate_hz: int, crop: int, length: int, peak: float,
                 validation_fraction: float, workers: int, seed: int, cache_bytes: int = 0):
        for key, found, accepted, expected in (
            ("sample_rate_hz", sample_rate_hz, sample_rate_hz >= 1000, "a number >= 1000"),
            ("crop", crop, crop >= 1, "a number >= 1"),
            ("length", length, length >= 1, "a number >= 1"),
            ("peak", peak, 0 <= peak <= 1, "a number from 0 to 1"),
            ("workers", workers, workers >= 0, "a number >= 0"),
            ("cache_bytes", cache_bytes, cache_bytes >= 0, "a number >= 0"),
        ):
            if not accepted:
                raise InputError(f"data.{key}: expected {expected}, found {found}")
        if not Path(root).is_dir():
            found = "a file" if Path(root).exists() else "nothing"
            raise InputError(f"{root}: expected a folder of audio files, found {found}; name it with data.root=FOLDER")
        self.sample_rate_hz, self.shape = sample_rate_hz, (1, length)
        self.window = {"crop": crop, "length": length}
        found = self._recordings(Path(root))
        if not found.files:
            raise InputError(f"{root}: expected audio files in the layout of {type(self).__name__}, found none")
        places = {name: torch.tensor([at for at, split in enumerate(found.splits) if split == name], dtype=torch.int64)
                  for name in ("train", "validation", "test")}
        train = places["train"]
        if not len(train):
            raise InputError(f"{root}: expected audio files for training, found {len(found.files)} of other splits")
        if not len(places["validation"]):
            size = held_out_size("data.validation_fraction", validation_fraction, len(train))
            kept, held_out = hold_out(len(train), size, seed)
            places |= {"train": train[kept], "validation": train[held_out]}
        self.samples, starts, lengths, self.unreadable = decoded_audio(
            Path(root), found.files, Path(cache), self.name, sample_rate_hz, peak, workers, found.members, found.facts,
            cache_bytes)
        # unreadable files, of length 0, are removed last, so that none moves another file to another split
        self._items = {name: _items(own, starts, lengths, length) for name, own in places.items() if len(own)}
        self._labels = found.labels
        self.splits = tuple(self._items)
        for name, (recordings, *_) in self._items.items():
            if not len(recordings):
                raise InputError(f"{root}: expected audio files for {name}, found none that can be read")
        self.left_out = dict(Counter(found.left_out) + Counter({"unreadable recording": len(self.unreadable)}))
        self.remarks = (f"{len(self.samples) / sample_rate_hz:.1f} s at {sample_rate_hz} Hz",)

    @abstractmethod
    def _recordings(self, root: Path) -> Recordings:
        """The files, in a fixed order; also sets `name`, `label_names` and `classes`."""

    @property
    def facts(self) -> dict[str, Any]:
        return {"sample_rate_hz": self.sample_rate_hz}

    saved_facts = facts

    @cached_property
    def variance(self) -> float:
        """See `Data.variance`; over the samples of the training recordings, without padding."""
        count, total, squares = 0, 0, 0
        for begin, end in self._items["train"][3].unique(dim=0).tolist():
            for part in self.samples[begin:end].split(CHUNK):
                values = part.long()  # integer sums are exact and independent of the order
                count, total = count + len(values), total + int(values.sum())
                squares += int(values.square().sum())
        return (squares / count - (total / count) ** 2) / FULL_SCALE**2

    def _split(self, name: str) -> AudioSplit:
        recordings, starts, lengths, bounds = self._items[name]
        return AudioSplit(self.samples, self._labels[recordings], lengths=lengths, starts=starts, bounds=bounds,
                          **self.window)


def _items(recordings: Tensor, starts: Tensor, lengths: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Recordings cut into items of up to `length` samples: recording, start, length and recording's bounds of each.

    A last piece of less than a tenth of a full item is dropped; a recording without samples has no items."""
    rows = []
    for recording in recordings.tolist():
        begin, samples = int(starts[recording]), int(lengths[recording])
        for offset in range(0, samples, length):
            size = min(length, samples - offset)
            if offset == 0 or size >= length / 10:
                rows.append((recording, begin + offset, size, begin, begin + samples))
    table = torch.tensor(rows, dtype=torch.int64).reshape(-1, 5)
    return table[:, 0], table[:, 1], table[:, 2], table[:, 3:]


def labels_of(columns: dict[str, list[str]]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...], Tensor]:
    """{"digit": ["7", ...], ...} -> label names, sorted class names per label, labels (m, L) int64."""
    classes = tuple(tuple(sorted(set(values))) for values in columns.values())
    numbers = [{name: number for number, name in enumerate(names)} for names in classes]
    rows = [[table[value] for value in values] for table, values in zip(numbers, columns.values(), strict=True)]
    return tuple(columns), classes, torch.tensor(rows, dtype=torch.int64).T.contiguous()
