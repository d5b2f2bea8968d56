"""Images or recordings that lie inside other files: what tar_shards.py and hf_parquet.py share.

They are decoded as those of folders are, into a cache of raw pixels or samples; nothing is unpacked to the disk.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.data.audio import AudioData, Recordings, labels_of
from pipelines.data.folders import Part, find_parts, warn_left_out
from pipelines.data.image_folder import ImageFiles, Listed, item_shape
from pipelines.data.members import Member
from pipelines.files.errors import InputError
from pipelines.splits.base import Data, Split

MEDIA = ("image", "audio")


@dataclass(frozen=True)
class Packed:
    """The members of one split, in a fixed order."""

    members: list[Member]
    names: list[str]  # of each, different within the split, the same wherever the data lie
    labels: list[str] | None  # the class of each
    facts: list  # what JSON can hold: names, sizes and times of the files that they lie in
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """All splits, and whether they hold images or audio."""

    media: str
    parts: dict[str, Packed]
    label: str = "class"  # the name of the label, if there are classes


class PackedImages(ImageFiles):
    """Members as images, labelled."""

    def __init__(self, name: str, found: Found, **settings: Any):
        self.name, self._found = name, found
        super().__init__(**settings)

    def _listed(self) -> dict[str, Listed]:
        self.label_names, self.classes, labels = _classes(self._found)
        self.left_out = _left_out(self._found)
        return {split: Listed(list(part.members), part.names, labels[split], part.facts)
                for split, part in self._found.parts.items()}


class PackedAudio(AudioData):
    """Members as recordings, labelled."""

    def __init__(self, name: str, found: Found, **settings: Any):
        self.name, self._found = name, found
        super().__init__(**settings)

    def _recordings(self, root: Path) -> Recordings:
        self.label_names, self.classes, labels = _classes(self._found)
        parts = self._found.parts
        files = [f"{split}/{name}" for split, part in parts.items() for name in part.names]
        splits = [split for split, part in parts.items() for _ in part.names]
        members = [member for part in parts.values() for member in part.members]
        return Recordings(files, torch.cat([labels[split] for split in parts]), splits, _left_out(self._found), members,
                          [part.facts for part in parts.values()])


class PackedData(Data):
    """Images uint8 (channels, *size) as `ImageFiles` has them, or audio float32 (1, length) as `AudioData` has it; a
    subclass finds the members. Settings of the other kind of data are not used."""

    def __init__(self, root: str, cache: str, name: str, media: str | None, images: dict[str, Any],
                 audio: dict[str, Any], **settings: Any):
        if media not in (None, *MEDIA):
            raise InputError(f"data.media: expected image, audio or null, found {media!r}")
        self.name = name or Path(root).resolve().name
        found = self._find(Path(root), Path(cache), media)
        if found.media == "image":
            self._data: Data = PackedImages(self.name, found, root=root, cache=cache, **images, **settings)
        else:
            self._data = PackedAudio(self.name, found, root=root, cache=cache, **audio, **settings)
            self.sample_rate_hz = audio["sample_rate_hz"]
        for name in ("kind", "shape", "label_names", "classes", "splits", "left_out", "remarks", "digest"):
            setattr(self, name, getattr(self._data, name))

    @abstractmethod
    def _find(self, root: Path, cache: Path, media: str | None) -> Found:
        """The members below `root`; `cache`: where an index may be kept; media: what they are to be, if it is said.
        Raises InputError where there are none."""

    @classmethod
    def planned_shape(cls, settings: Mapping[str, Any]) -> tuple[int, ...] | None:
        return item_shape(settings.get("size", 64), settings.get("channels", 3)) if (
            settings.get("media") == "image") else None

    facts = property(lambda self: self._data.facts)
    saved_facts = property(lambda self: self._data.saved_facts)
    variance = property(lambda self: self._data.variance)

    def _split(self, name: str) -> Split:
        return self._data.split(name)


def containers_of(root: Path, suffix: str, noun: str) -> dict[str, Part]:
    """The files with this suffix by split, as folders are searched: root/*, or root/{train,validation,test}/*."""
    parts = find_parts(root, {suffix}, noun)
    for part in parts.values():
        warn_left_out(part.folder, part.details)
    return parts


def _classes(found: Found) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...], dict[str, Tensor]]:
    """Label names, classes, and labels (n, L) of each split. Raises InputError for a class that training lacks."""
    train = found.parts["train"]
    if train.labels is None:
        return (), (), {split: torch.zeros(len(part.members), 0, dtype=torch.int64)
                        for split, part in found.parts.items()}
    names, classes, _ = labels_of({found.label: train.labels})
    numbers = {name: number for number, name in enumerate(classes[0])}
    labels = {}
    for split, part in found.parts.items():
        own: Sequence[str] = part.labels or [""] * len(part.members)
        for member, name in zip(part.members, own, strict=True):
            if name not in numbers:
                raise InputError(f"{member}: expected one of the {len(numbers)} training classes, found "
                                 f"{repr(name) if name else 'no label'}")
        labels[split] = torch.tensor([[numbers[name]] for name in own], dtype=torch.int64)
    return names, classes, labels


def _left_out(found: Found) -> Counter[str]:
    return sum((Counter(part.left_out) for part in found.parts.values()), Counter())
