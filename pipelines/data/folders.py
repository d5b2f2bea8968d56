"""Files below a folder that a user names: found in a fixed order, and those that cannot be read counted and named."""

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pipelines.files.errors import InputError

FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}
NAMED = 5  # unreadable files that a warning names; all are counted


class FoundFile(NamedTuple):
    """A file as it was found below some folder."""

    path: str  # from that folder, with "/"
    bytes: int
    changed_ns: int


class Part(NamedTuple):
    """The files of one split, as found in its folder."""

    folder: Path
    files: list[FoundFile]


def find_parts(root: Path, suffixes: set[str], noun: str) -> dict[str, Part]:
    """The files of each split that has a folder of its own; where none has, all of root's are training's.

    noun: what the files hold (pictures, ...), for errors. Raises InputError for a folder that is missing or has none."""
    if not root.is_dir():
        raise InputError(f"{root}: expected a folder of {noun}, found {'a file' if root.exists() else 'nothing'}; "
                         "name it with data.root=FOLDER")
    present = {split: [root / name for name in names if (root / name).is_dir()] for split, names in FOLDERS.items()}
    folders = {split: found[0] for split, found in present.items() if found}
    if len(present["validation"]) > 1:
        found = " and ".join(folder.name for folder in present["validation"])
        raise InputError(f"{root}: expected one folder for validation, found {found}")
    if folders and "train" not in folders:
        raise InputError(f"{root}: expected a folder train beside {next(iter(folders.values())).name}, found none")
    parts = {split: Part(folder, list_files(folder, suffixes)) for split, folder in (folders or {"train": root}).items()}
    for part in parts.values():
        if not part.files:
            raise InputError(f"{part.folder}: expected {noun} ({', '.join(sorted(suffixes))}), found none")
    return parts


def class_folder(file: FoundFile) -> str:
    """The first folder on a file's path, "" if there is none."""
    return file.path.split("/")[0] if "/" in file.path else ""


def class_names(files: list[FoundFile]) -> tuple[str, ...]:
    """The folders that files lie in, sorted, if they are classes: two at least, and no file outside them."""
    names = sorted({class_folder(file) for file in files})
    return tuple(names) if len(names) > 1 and "" not in names else ()


def list_files(folder: Path, suffixes: set[str]) -> list[FoundFile]:
    """Files with these suffixes (lower case, with the dot) at any depth below a folder, sorted by path.

    Links are followed, hidden names are passed over."""
    seen, found = set(), []
    for inner, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(inner)) in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = "" if Path(inner) == folder else Path(inner).relative_to(folder).as_posix() + "/"
        for name in names:
            if name.startswith(".") or os.path.splitext(name)[1].lower() not in suffixes:
                continue
            with suppress(FileNotFoundError):  # a link that leads nowhere
                status = os.stat(os.path.join(inner, name))
                if stat.S_ISREG(status.st_mode):
                    found.append(FoundFile(prefix + name, status.st_size, status.st_mtime_ns))
    return sorted(found)


def warn_unreadable(noun: str, total: int, reasons: dict[str, str]) -> None:
    """One line on stderr that counts the files (pictures, ...) that were left out and names the first, with reasons."""
    if reasons:
        named = "; ".join(f"{path}: {reason}" for path, reason in list(reasons.items())[:NAMED])
        more = f"; and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
        print(f"warning: left out {len(reasons)} of {total} {noun}, which cannot be read: {named}{more}",
              file=sys.stderr)
