"""Finds the files of a user's folder in a fixed order; counts and names those that cannot be read."""

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pipelines.files.errors import InputError

FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}
NAMED = 5  # how many unreadable files a warning names; all are counted


class FoundFile(NamedTuple):
    """A file found below a folder."""

    path: str  # relative to that folder, with "/"
    bytes: int
    changed_ns: int


class Part(NamedTuple):
    """The files of one split, as found in its folder."""

    folder: Path
    files: list[FoundFile]


def find_parts(root: Path, suffixes: set[str], noun: str) -> dict[str, Part]:
    """The files of each split that has its own folder; without such folders, all files belong to training.

    noun: the content of the files (images, ...), for messages. Raises InputError for a missing or empty folder."""
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
    folders = folders or {"train": root}
    parts = {split: Part(folder, list_files(folder, suffixes)) for split, folder in folders.items()}
    for part in parts.values():
        if not part.files:
            raise InputError(f"{part.folder}: expected {noun} ({', '.join(sorted(suffixes))}), found none")
    return parts


def class_folder(file: FoundFile) -> str:
    """The first folder of a file's path; "" if it has none."""
    return file.path.split("/")[0] if "/" in file.path else ""


def class_names(files: list[FoundFile]) -> tuple[str, ...]:
    """Sorted names of the folders of files if these are classes: at least two, and no file outside them."""
    names = sorted({class_folder(file) for file in files})
    return tuple(names) if len(names) > 1 and "" not in names else ()


def list_files(folder: Path, suffixes: set[str]) -> list[FoundFile]:
    """Files with these suffixes (lower case, with the dot) at any depth below a folder, sorted by path.

    Links are followed, hidden names are ignored."""
    seen, found = set(), []
    for inner, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(inner)) in seen:  # a link to a parent folder
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = "" if Path(inner) == folder else Path(inner).relative_to(folder).as_posix() + "/"
        for name in names:
            if name.startswith(".") or os.path.splitext(name)[1].lower() not in suffixes:
                continue
            with suppress(FileNotFoundError):  # a broken link
                status = os.stat(os.path.join(inner, name))
                if stat.S_ISREG(status.st_mode):
                    found.append(FoundFile(prefix + name, status.st_size, status.st_mtime_ns))
    return sorted(found)


def warn_unreadable(noun: str, total: int, reasons: dict[str, str]) -> None:
    """Prints one line to stderr: how many files (images, ...) were left out, and the first of them with reasons."""
    if reasons:
        named = "; ".join(f"{path}: {reason}" for path, reason in list(reasons.items())[:NAMED])
        more = f"; and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
        print(f"warning: left out {len(reasons)} of {total} {noun}, which cannot be read: {named}{more}",
              file=sys.stderr)
