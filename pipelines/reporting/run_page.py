"""The report of a run: its head, and one section for each file of `sections/`.

A section defines TITLE, ORDER (sections are shown in ascending order) and `section(reported)`, which returns HTML, or
raises `LeftOut` with the reason for which there is nothing to show. Files are found by looking.
"""

import importlib
import pkgutil
import sys
from functools import cache
from types import ModuleType
from typing import Any

from pipelines.reporting import sections
from pipelines.reporting.head import head
from pipelines.reporting.html import tag
from pipelines.reporting.page import page
from pipelines.reporting.subject import LeftOut, Reported


@cache
def all_sections() -> tuple[ModuleType, ...]:
    """In the order in which they are shown."""
    names = [found.name for found in pkgutil.iter_modules(sections.__path__)]
    modules = [importlib.import_module(f"{sections.__name__}.{name}") for name in names]
    return tuple(sorted(modules, key=lambda module: (module.ORDER, module.__name__)))


def run_page(reported: Reported) -> tuple[bytes, dict[str, str]]:
    """The page, and for each section that is left out its reason, by title."""
    bodies: list[tuple[str, Any]] = []
    missing: dict[str, str] = {}
    for module in all_sections():
        try:
            bodies.append((module.TITLE, module.section(reported)))
        except LeftOut as reason:
            missing[module.TITLE] = str(reason)
            bodies.append((module.TITLE, tag("p", f"Left out: {reason}.", class_="out")))
    return page(f"Report on {reported.run.root.resolve().name}", head(reported), bodies), missing


def note_missing(missing: dict[str, str]) -> None:
    """A line on stderr for each reason for which sections are left out."""
    for reason in dict.fromkeys(missing.values()):
        titles = [title.lower() for title, own in missing.items() if own == reason]
        print(f"note: left out: {', '.join(titles)}: {reason}", file=sys.stderr)
