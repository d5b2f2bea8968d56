"""The pages, one file each, found by looking."""

import importlib
from pathlib import Path

from pipelines.explorer.page import Page


def all_pages() -> dict[str, Page]:
    """Every page by its name, in the order in which they are listed."""
    found: list[Page] = []
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        module = importlib.import_module(f"{__name__}.{path.stem}")
        found += [value() for value in vars(module).values() if isinstance(value, type) and issubclass(value, Page)
                  and value.__module__ == module.__name__]
    return {page.name: page for page in sorted(found, key=lambda page: page.place)}
