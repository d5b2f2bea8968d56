"""Finds the files of a user's folder in a fixed order; whatever is not taken is counted, by reason.

A file is taken once, whatever order the system lists folders in and wherever links lead: files and folders are taken
where they lie, and only then are links followed, sorted by path, to what was not taken yet.
"""

import os
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from pipelines.files.errors import InputError
from pipelines.splits.describe import counted

FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}
NAMED = 5  # how many files a warning names; all are counted
SHOWN_SUFFIXES = 12  # how many suffixes a refusal lists

# What systems put into folders of their own accord; like hidden names it is passed over in silence.
CLUTTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin",
           "system volume information", "lost+found"}

DUPLICATE, BROKEN, SPECIAL, FOLDER = "duplicate link", "broken link", "special file", "unreadable folder"
BESIDE = "file beside the folders of splits"


class FoundFile(NamedTuple):
    """A file found below a folder."""

    path: str  # relative to that folder, with "/"
    bytes: int
    changed_ns: int


class Part(NamedTuple):
    """The files of one split, as found in its folder, and what else is there."""

    folder: Path
    files: list[FoundFile]
    left_out: dict[str, int]  # how many, by reason: ".txt", or one of the reasons above
    details: dict[str, str]  # of those that have not just another suffix: path -> reason in words


def find_parts(root: Path, suffixes: Set[str], noun: str, hints: Mapping[str, str] | None = None) -> dict[str, Part]:
    """The files of each split that has its own folder; without such folders, all files belong to training.

    noun: the content of the files (images, ...), for messages. hints: what to say of a suffix that is left out
    (".heic": "the extra heic reads them"). Raises InputError for a missing or empty folder."""
    if not root.is_dir():
        raise InputError(f"{root}: expected a folder of {noun}, found {'a file' if root.exists() else 'nothing'}; "
                         "name it with data.root=FOLDER")
    present = {split: [root / name for name in names if (root / name).is_dir()] for split, names in FOLDERS.items()}
    folders = {split: found[0] for split, found in present.items() if found}
    if len(present["validation"]) > 1:
        found = " and ".join(folder.name for folder in present["validation"])
        raise InputError(f"{root}: expected one folder for validation, found {found}")
    if folders and "train" not in folders:
        raise InputError(f"{root}: expected a folder train next to {next(iter(folders.values())).name}, found none")
    walked = walk(list(folders.values()) or [root], suffixes, hints)
    parts = dict(zip(folders or ["train"], walked, strict=True))
    for part in parts.values():
        if not part.files:
            raise InputError(f"{part.folder}: expected {noun} ({shown(suffixes)}), found none"
                             + (f"; left out: {counted(part.left_out)}" if part.left_out else ""))
    if folders:
        beside = _beside(root, set(folders.values()), suffixes, hints)
        part = parts["train"]
        parts["train"] = part._replace(left_out=dict(Counter(part.left_out) + Counter(beside)))
    return parts


def class_folder(file: FoundFile) -> str:
    """The first folder of a file's path; "" if it has none."""
    return file.path.split("/")[0] if "/" in file.path else ""


def class_names(files: list[FoundFile]) -> tuple[str, ...]:
    """Sorted names of the folders of files if these are classes: at least two, and no file outside them."""
    names = sorted({class_folder(file) for file in files})
    return tuple(names) if len(names) > 1 and "" not in names else ()


def check_strays(part: Part, noun: str, cure: str) -> None:
    """Raises InputError where some files lie beside two or more folders: are these classes? `cure`: what helps."""
    strays = [file.path for file in part.files if not class_folder(file)]
    folders = {class_folder(file) for file in part.files} - {""}
    if strays and len(folders) > 1:
        raise InputError(f"{part.folder}: expected all {noun} in folders of classes, or none; found {len(strays)} of "
                         f"{len(part.files)} beside {len(folders)} folders, such as {strays[0]}: move them into a "
                         f"folder, or {cure}")


def list_files(folder: Path, suffixes: Set[str]) -> list[FoundFile]:
    """Files with these suffixes (lower case, with the dot) at any depth below a folder, sorted by path; none if there
    is no such folder. What cannot be read, and what is linked to twice, is named in a warning."""
    (part,) = walk([folder], suffixes)
    warn_left_out(part.folder, part.details)
    return part.files


def walk(folders: Sequence[Path], suffixes: Set[str], hints: Mapping[str, str] | None = None) -> list[Part]:
    """Files with these suffixes at any depth below each of the folders, sorted by path; no file is taken twice.

    Hidden names and `CLUTTER` are ignored. A link to a folder or file that is taken anyway, or to a folder around one
    of `folders`, is a duplicate. Raises OSError for one of `folders` that cannot be read."""
    return _Walk(folders, suffixes, hints or {}).parts()


class _Walk:
    def __init__(self, folders: Sequence[Path], suffixes: Set[str], hints: Mapping[str, str]):
        self.suffixes, self.hints = suffixes, hints
        self.roots = [os.path.realpath(folder) for folder in folders]
        self.taken: set[str] = set()  # real paths of folders, and of files that links led to
        self.found = [Part(folder, [], {}, {}) for folder in folders]

    def parts(self) -> list[Part]:
        links = []
        for part, root in zip(self.found, self.roots, strict=True):
            if root in self.taken:
                self._leave_out(part, "", DUPLICATE, f"{root} is read already")
            else:
                links += [(part, path) for path in self._read(part, "", root)]
        to_files = []
        while links:  # each pass follows the links that the one before found
            following, links = links, []
            for part, path in following:
                target = self._target(part, path)
                if target is None:
                    continue
                if not os.path.isdir(target):
                    to_files.append((part, path, target))
                elif target in self.taken:
                    self._leave_out(part, path, DUPLICATE, f"a link to {target}, which is read anyway")
                elif any(_inside(root, target) for root in self.roots):
                    self._leave_out(part, path, DUPLICATE, f"a link to {target}, in which this folder lies")
                else:
                    links += [(part, inner) for inner in self._read(part, f"{path}/", target)]
        for part, path, target in to_files:
            self._take_linked(part, path, target)
        return [part._replace(files=sorted(part.files)) for part in self.found]

    def _read(self, part: Part, prefix: str, real: str) -> list[str]:
        """Takes the files in a folder and in all folders inside it. Returns the paths of links there, sorted."""
        links, waiting = [], [(prefix, real)]
        while waiting:  # not by recursion: folders may be thousands deep
            prefix, real = waiting.pop()
            if real in self.taken:  # of a folder that a link led to, a folder inside may have been read by another link
                self._leave_out(part, prefix.rstrip("/"), DUPLICATE, f"{real} is read already")
                continue
            self.taken.add(real)
            try:
                with os.scandir(real) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name)
            except FileNotFoundError:
                continue  # no such root, or removed meanwhile
            except OSError as error:
                if real in self.roots:
                    raise
                self._leave_out(part, prefix.rstrip("/"), FOLDER, f"a folder that cannot be read ({error.strerror})")
                continue
            for entry in entries:
                path = prefix + entry.name
                if is_clutter(entry.name):
                    continue
                if entry.is_symlink():
                    links.append(path)
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append((f"{path}/", os.path.join(real, entry.name)))
                else:
                    self._take(part, path, os.path.join(real, entry.name))
        return sorted(links)

    def _take(self, part: Part, path: str, real: str) -> None:
        suffix = os.path.splitext(path)[1].lower()
        if suffix not in self.suffixes:
            hint = f" ({self.hints[suffix]})" if suffix in self.hints else ""
            reason = f"{suffix}{hint}" if suffix else "without a suffix"
            part.left_out[reason] = part.left_out.get(reason, 0) + 1
            return
        try:
            status = os.stat(real)
        except OSError as error:
            self._leave_out(part, path, BROKEN, f"a file that is not there ({error.strerror})")
            return
        if stat.S_ISREG(status.st_mode):
            part.files.append(FoundFile(path, status.st_size, status.st_mtime_ns))
        else:
            self._leave_out(part, path, SPECIAL, "not a regular file")

    def _target(self, part: Part, path: str) -> str | None:
        """The real path that a link leads to; None if it leads nowhere, or round in a circle."""
        try:
            return os.path.realpath(part.folder / path, strict=True)
        except OSError as error:
            self._leave_out(part, path, BROKEN, f"a link that leads nowhere ({error.strerror})")
            return None

    def _take_linked(self, part: Part, path: str, target: str) -> None:
        folder, name = os.path.split(target)
        itself = folder in self.taken and not is_clutter(name) and os.path.splitext(name)[1].lower() in self.suffixes
        if os.path.splitext(path)[1].lower() in self.suffixes and (itself or target in self.taken):
            self._leave_out(part, path, DUPLICATE, f"a link to {target}, which is read anyway")
            return
        self.taken.add(target)
        self._take(part, path, target)

    @staticmethod
    def _leave_out(part: Part, path: str, reason: str, detail: str) -> None:
        part.left_out[reason] = part.left_out.get(reason, 0) + 1
        part.details[path] = detail


def is_clutter(name: str) -> bool:
    """Whether a file or folder of this name is passed over: hidden, or made by a system of its own accord."""
    return name.startswith(".") or name.lower() in CLUTTER


def _inside(path: str, folder: str) -> bool:
    return os.path.join(path, "").startswith(os.path.join(folder, ""))


def _beside(root: Path, folders: set[Path], suffixes: Set[str], hints: Mapping[str, str] | None) -> dict[str, int]:
    """What lies in `root` beside the folders of splits, by reason."""
    left_out: Counter[str] = Counter()
    inner = []
    for path in sorted(root.iterdir()):
        if path in folders or is_clutter(path.name) or path.is_symlink():
            continue
        if path.is_dir():
            inner.append(path)
        elif (suffix := path.suffix.lower()) in suffixes:
            left_out[BESIDE] += 1
        else:
            left_out[suffix or "without a suffix"] += 1
    for part in walk(inner, suffixes, hints):
        left_out += Counter(part.left_out) + Counter({BESIDE: len(part.files)})
    return left_out


def shown(suffixes: Iterable[str]) -> str:
    """The first suffixes, sorted."""
    names = sorted(suffixes)
    return ", ".join(names[:SHOWN_SUFFIXES]) + (", ..." if len(names) > SHOWN_SUFFIXES else "")


def warn_unreadable(noun: str, total: int, reasons: dict[str, str]) -> None:
    """Prints one line to stderr: how many files (images, ...) were left out, and the first of them with reasons."""
    if reasons:
        print(f"warning: left out {len(reasons)} of {total} {noun}, which cannot be read: {_named(reasons)}",
              file=sys.stderr)


def warn_left_out(folder: Path, details: dict[str, str]) -> None:
    """Prints one line to stderr: how many links and folders were left out below `folder`, the first with reasons."""
    if details:
        print(f"warning: {folder}: left out {len(details)} links or folders: {_named(details)}", file=sys.stderr)


def _named(reasons: dict[str, str]) -> str:
    named = "; ".join(f"{path}: {reason}" for path, reason in list(reasons.items())[:NAMED])
    return named + (f"; and {len(reasons) - NAMED} more" if len(reasons) > NAMED else "")
