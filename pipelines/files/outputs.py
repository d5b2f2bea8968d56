"""The folder that a call writes its files to holds the files of that call, and none of an earlier one.

A call lists what it wrote in `.written-by-VERB`. The next call of the same verb removes what is listed, once its own
files are whole, and nothing else: files of the user's own, and those of other verbs, stay.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.files.atomic import write_atomically
from pipelines.files.errors import InputError
from pipelines.files.locks import only_writer

OVERVIEWS = {"grid", "comparison", "overview", "predictions", "spectrograms"}  # file names, without suffix


@contextmanager
def one_call(folder: Path, verb: str) -> Iterator[Path]:
    """An empty folder to write into; what is there at the end replaces the files of the last call in `folder`.

    After an error `folder` has the files that it had. Raises InputError where `folder` is a file, and where another
    process writes there now."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder, found a file")
    inside = folder / f".{verb}.tmp"
    with only_writer(folder, verb):
        shutil.rmtree(inside, ignore_errors=True)  # of a killed call
        inside.mkdir()
        try:
            yield inside
            names = sorted(path.name for path in inside.iterdir())
            listed = folder / f".written-by-{verb}"
            for name in set(read_names(listed)) - set(names):
                (folder / name).unlink(missing_ok=True)
            # first the list: what a kill leaves behind is known to the next call
            write_atomically(listed, "".join(f"{name}\n" for name in names).encode("utf-8", "surrogateescape"))
            for name in names:
                os.replace(inside / name, folder / name)
        finally:
            shutil.rmtree(inside, ignore_errors=True)


def overviews(folder: Path) -> set[str]:
    """Names of overviews that calls wrote to a folder beside one file per item: they are no items."""
    listed = {name for path in folder.glob(".written-by-*") for name in read_names(path)}
    return {name for name in listed if Path(name).stem in OVERVIEWS}


def read_names(listed: Path) -> list[str]:
    """Names of files beside the list; a line that is none, or names a folder or another place, counts for nothing."""
    if not listed.is_file():
        return []
    lines = listed.read_bytes().decode("utf-8", "surrogateescape").splitlines()
    return [name for name in lines
            if name and Path(name).name == name and "\0" not in name and (listed.parent / name).is_file()]
