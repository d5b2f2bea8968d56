"""Files below a folder that a user names: found in a fixed order, and those that cannot be read counted and named."""

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

NAMED = 5  # unreadable files that a warning names; all are counted


class FoundFile(NamedTuple):
    """A file as it was found below some folder."""

    path: str  # from that folder, with "/"
    bytes: int
    changed_ns: int


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
