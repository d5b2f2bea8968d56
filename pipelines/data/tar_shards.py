"""Tar files in the layout of WebDataset, read in place: files with the same key are one item.

    root/*.tar                        all belong to training; validation is held out
    root/{train,validation,test}/*.tar

    0001.jpg  0001.cls                an image and its class
    0002.jpg  0002.json               its class is a value of a JSON object
    a/0003.flac                       the key is what precedes the first dot of a name, folders included

Each tar is gone through once: the place of every member is noted in an index in the cache.
"""

import json
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.data.audio_files import SUFFIXES
from pipelines.data.cache import cache_key, cached
from pipelines.data.folders import NAMED, Part, is_clutter
from pipelines.data.image_files import image_formats
from pipelines.data.members import Slice
from pipelines.data.packed import Found, Packed, PackedData, containers_of
from pipelines.files.atomic import write_atomically
from pipelines.files.errors import InputError
from pipelines.splits.describe import printable

VERSION = 1  # of the index
MOST_TEXT = 2**16  # bytes of a member that holds a label
ODD, TWICE, CUT, BAD = "member of an odd name", "second member of a key", "truncated member", "unreadable tar file"


class TarShards(PackedData):
    """Items are sorted by the path of their tar file, and lie in the order of their members in it.

    media: "image" or "audio"; None: what the first member of either kind is. labels: "cls", "txt" or "json.KEY": the
    member of an item whose text, or value under KEY, is its class; None: `cls` if any item has one; False: none.
    Damaged tar files, truncated members and members without a key are left out, counted, and named on stderr.

    Raises InputError for a folder without tar files, for tar files without images or audio, and for an item without a
    label where others have one.
    """

    def __init__(self, root: str, cache: str, name: str = "", media: str | None = None,
                 labels: str | bool | None = None, size: int | list[int] = 64, store_size: int | list[int] = 0,
                 channels: int = 3, range: str | list[float] | None = None, pad: int = 0, flip: bool = False,
                 sample_rate_hz: int = 16_000, crop: int = 7680, length: int = 65_536, peak: float = 0.0,
                 validation_fraction: float = 0.1, workers: int = 0, seed: int = 0, cache_bytes: int = 0):
        known = labels in ("cls", "txt") or (isinstance(labels, str) and labels.startswith("json.") and labels[5:])
        if not known and labels not in (None, False):
            raise InputError(f"data.labels: expected cls, txt, json.KEY, false or null, found {labels!r}")
        self._labels = labels
        images = {"size": size, "store_size": store_size, "channels": channels, "range": range, "pad": pad,
                  "flip": flip}
        audio = {"sample_rate_hz": sample_rate_hz, "crop": crop, "length": length, "peak": peak}
        super().__init__(root, cache, name, media, images, audio, validation_fraction=validation_fraction,
                         workers=workers, seed=seed, cache_bytes=cache_bytes)

    def _find(self, root: Path, cache: Path, media: str | None) -> Found:
        tars = containers_of(root, ".tar", "tar files")
        facts = {split: [part.folder.name, part.files] for split, part in tars.items()}
        target = cache / f"{self.name}-{cache_key([VERSION, facts])}.index"
        cached(target, lambda: write_atomically(target, json.dumps(
            {split: [index(part.folder / file.path) for file in part.files] for split, part in tars.items()}).encode()))
        indexed = json.loads(target.read_text())
        media = media or next((found for entries in indexed.values() for entry in entries
                               for _, suffix, *_ in entry["members"] if (found := _media(suffix))), None)
        if media is None:
            raise InputError(f"{root}: expected tar files with images or audio, found none in "
                             f"{sum(len(part.files) for part in tars.values())} tar files{_reasons(indexed)}")
        packed = {split: self._packed(part, indexed[split], media, facts[split]) for split, part in tars.items()}
        for split, part in packed.items():
            if not part.members:
                raise InputError(f"{tars[split].folder}: expected tar files with members of the kind {media}, found "
                                 f"none{_reasons(indexed)}")
        _warn(tars, indexed)
        return Found(media, self._labelled(packed))

    def _packed(self, part: Part, entries: list[dict[str, Any]], media: str, facts: list) -> Packed:
        """The items of a split; the members with their labels are looked at too."""
        members: list[Slice] = []
        names, texts = [], []
        left_out = Counter(part.left_out)
        for file, entry in zip(part.files, entries, strict=True):
            tar, keys = str(part.folder / file.path), set()
            left_out += Counter(reason for reason, _ in entry["left_out"])
            wanted = "cls" if self._labels is None else str(self._labels).split(".")[0]
            of_labels = {key: (offset, size) for key, suffix, offset, size in entry["members"] if suffix == wanted}
            for key, suffix, offset, size in entry["members"]:
                if _media(suffix) != media:
                    if suffix != wanted:
                        left_out[f".{suffix}"] += 1
                    continue
                if key in keys:
                    left_out[TWICE] += 1
                    continue
                keys.add(key)
                members.append(Slice(tar, f"{key}.{suffix}", offset, size))
                names.append(f"{file.path}/{key}.{suffix}")
                texts.append(self._text(members[-1], key, wanted, of_labels.get(key)))
        labels = None if not any(texts) else [text or "" for text in texts]
        return Packed(list(members), names, labels, facts, left_out)

    def _text(self, member: Slice, key: str, wanted: str, place: tuple[int, int] | None) -> str | None:
        """The class of an item; None without a member that says it."""
        if place is None or self._labels is False:
            return None
        label = Slice(member.container, f"{key}.{wanted}", *place)
        if label.size > MOST_TEXT:
            raise InputError(f"{label}: expected a label of at most {MOST_TEXT} bytes, found {label.size}")
        try:
            text = label.read().decode().strip()
            if wanted == "json":
                text = json.loads(text)[str(self._labels).removeprefix("json.")]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise InputError(f"{label}: expected {self._labels}, found {type(error).__name__} "
                             f"{printable(str(error))[:80]}") from None
        if not isinstance(text, str | int) or text == "":
            raise InputError(f"{label}: expected the name or number of a class, found {str(text)[:40]!r}")
        return str(text)

    def _labelled(self, parts: dict[str, Packed]) -> dict[str, Packed]:
        """Raises InputError where a training item has no label and another one has, or labels were asked for."""
        train = parts["train"]
        if train.labels is None:
            if self._labels:
                raise InputError(f"data.labels: expected a label {self._labels} of each item, found none in "
                                 f"{train.members[0]}")
            return parts
        for member, label in zip(train.members, train.labels, strict=True):
            if not label:
                raise InputError(f"{member}: expected a label as other items have one, found none; data.labels=false: "
                                 "all items, without labels")
        return parts


def index(path: Path) -> dict[str, Any]:
    """The members of a tar file by name: {"members": [[key, suffix, offset, bytes], ...], "left_out": [[reason, what],
    ...]}. What precedes a damage is kept."""
    members: list[tuple[str, str, int, int]] = []
    left_out: list[tuple[str, str]] = []
    seen: set[tuple[str, str]] = set()
    size = path.stat().st_size
    try:
        for member in _members(path):
            base = member.name.rpartition("/")[2]
            stem, dot, suffix = base.partition(".")
            if is_clutter(base):
                continue
            key = member.name[: len(member.name) - len(base)] + stem
            if not stem or not dot or not suffix or not member.name.isprintable():
                left_out.append((ODD, printable(member.name)[:80] or "''"))
            elif member.offset_data + member.size > size:
                left_out.append((CUT, f"{printable(member.name)[:80]}: {member.size} bytes, of which "
                                      f"{max(0, size - member.offset_data)} are there"))
            elif (key, suffix.lower()) in seen:
                left_out.append((TWICE, printable(member.name)[:80]))
            else:
                seen.add((key, suffix.lower()))
                members.append((key, suffix.lower(), member.offset_data, member.size))
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        if not left_out or left_out[-1][0] != CUT:
            left_out.append((BAD, f"after {len(members)} members: {' '.join(str(error).split())[:80]}"))
    return {"members": members, "left_out": left_out}


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    """The regular files of a tar file that is not compressed, as they lie in it. Raises ValueError where something else
    follows the last of them, which tarfile passes over."""
    with tarfile.open(path, "r:") as tar:
        while (member := tar.next()) is not None:
            if member.isreg() and not member.issparse():
                yield member
            tar.members = []  # type: ignore[attr-defined]  # else they would all stay in memory
        end = tar.offset
    with open(path, "rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise ValueError(f"no header at byte {end}")


def _media(suffix: str) -> str | None:
    """"image" or "audio" for a suffix without its dot; None for any other."""
    return "image" if f".{suffix}" in image_formats() else "audio" if f".{suffix}" in SUFFIXES else None


def _details(indexed: dict[str, list[dict[str, Any]]], tars: dict[str, Part]) -> list[str]:
    return [f"{tars[split].folder / file.path}: {reason}: {what}" for split, entries in indexed.items()
            for file, entry in zip(tars[split].files, entries, strict=True) for reason, what in entry["left_out"]]


def _reasons(indexed: dict[str, list[dict[str, Any]]]) -> str:
    found = [f"{reason}: {what}" for entries in indexed.values() for entry in entries
             for reason, what in entry["left_out"]]
    return f"; {found[0]}" if found else ""


def _warn(tars: dict[str, Part], indexed: dict[str, list[dict[str, Any]]]) -> None:
    """One line on stderr that names what is damaged or has no key."""
    if found := _details(indexed, tars):
        more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
        print(f"warning: left out {len(found)} members or tar files: {'; '.join(found[:NAMED])}{more}", file=sys.stderr)
