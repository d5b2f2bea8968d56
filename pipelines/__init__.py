"""Train, extract, sample, evaluate: the commands, and `from pipelines import load` for Python."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.api import load as load

__all__ = ["load"]


def __getattr__(name: str) -> object:
    """`load` is looked up when it is asked for, so that importing the package imports no torch."""
    if name == "load":
        from pipelines.api import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
