"""Token files of other programs: one file here for each format, found by looking.

A format is a subclass of `Format` (base.py): it opens a file as a `Source` of items, and writes `Tokens`.
"""

import importlib
from functools import cache
from pathlib import Path

from pipelines.files.errors import InputError
from pipelines.tokens.base import Format


@cache
def all_formats() -> dict[str, Format]:
    """Every format by its name."""
    modules = [importlib.import_module(f"{__name__}.{path.stem}")
               for path in sorted(Path(__file__).parent.glob("[a-z]*.py"))]
    found = [value for module in modules for value in vars(module).values()
             if isinstance(value, type) and issubclass(value, Format) and value.__module__ == module.__name__
             and value is not Format]
    return {kind.name: kind() for kind in found}


def format_of(name: str) -> Format:
    """The format of that name. Raises InputError for an unknown one."""
    if name not in all_formats():
        raise InputError(f"format: expected one of {', '.join(all_formats())}, found {name!r}")
    return all_formats()[name]


def format_at(path: Path, name: str | None = None) -> Format:
    """The format of that name; None: of a file with this suffix, or of a folder. Raises InputError."""
    if name is not None:
        return format_of(name)
    if not path.exists():
        raise InputError(f"{path}: expected a file or folder of tokens, found nothing")
    suffix = "" if path.is_dir() else path.suffix
    for own in all_formats().values():
        if own.suffix == suffix:
            return own
    known = ", ".join(own.suffix for own in all_formats().values() if own.suffix)
    raise InputError(f"{path}: expected a name that ends with {known}, or --format, found {path.name!r}")
