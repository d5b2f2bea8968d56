"""One object for each kind of data: image, audio, video, codes. Verbs and the Python API ask it; lower rooms are handed
it.

A new kind is one file here, or in `kinds/` of a folder that NDR_PLUGINS names: it defines one subclass of `Kind`. Files
are found by looking, and import torch only where they use it, since verbs ask for flags before they compute.
"""

import sys
from functools import cache
from pathlib import Path

from pipelines.files.errors import InputError
from pipelines.kinds.base import Kind
from pipelines.runs import plugins


@cache
def all_kinds() -> dict[str, Kind]:
    """Every kind by its name, the project's own first."""
    found: list[type[Kind]] = plugins.subclasses(plugins.found_modules(sys.modules[__name__], "kinds"), Kind)
    return {kind.name: kind() for kind in found}


def kind_of(name: str) -> Kind:
    """The kind of that name. Raises InputError for an unknown one."""
    if name not in all_kinds():
        raise InputError(f"kind: expected one of {', '.join(all_kinds())}, found {name!r}")
    return all_kinds()[name]


def check_able(kind: Kind, method: str, run: Path) -> None:
    """Raises InputError where a kind leaves out a method, and names the kinds that have it."""
    able = [name for name, other in all_kinds().items() if getattr(type(other), method) is not getattr(Kind, method)]
    if kind.name not in able:
        raise InputError(f"{run}: expected a run on {' or '.join(able)}, found one on {kind.name}")
