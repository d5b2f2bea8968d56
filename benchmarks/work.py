"""What is measured: a `Work` at several sizes, each with its contenders and the floor below which no time can fall.

A new work is one file in works/ with one subclass of `Work`: sizes, contenders (the project's own first), floor. `Work`
is a dataclass whose fields are the sizes.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch

Sizes = dict[str, Any]


class Seconds(float):
    """The seconds of a run that measures itself: of a process that reports them, say."""


class Driven(ABC):
    """A loop that is not ours to call step by step: it calls `next_turn` before each, which returns when it may go on.

    The time of a run is that from one return of `next_turn` to its next call."""

    @abstractmethod
    def drive(self, next_turn: Callable[[], None]) -> None:
        """Runs until `next_turn` raises."""


Run = Callable[[], Any] | Driven  # what is timed


@dataclass(frozen=True)
class Floor:
    """The least that a run has to do. Its time is that of the slower of both at the rates that the machine reached.

    flops: multiplications and additions, two per multiply-accumulate. bytes: read and written at least once.
    dtype: that of the products. cached: the bytes fit into the processor's cache and are read again and again.
    """

    flops: float = 0.0
    bytes: float = 0.0
    dtype: torch.dtype = torch.float32
    cached: bool = False


@dataclass(frozen=True)
class Contender:
    """A way to do the work. `make` builds data and model and returns what is timed.

    count: what one run yields, where contenders yield different amounts (positions, say); times are then per unit.
    rival: another's, or a naive way; otherwise a variant of our own or a part of the work, for reference.
    threads: of this contender, where it is not all. needs: a package that may be missing. memory: bytes that it will
    take, where that is too much for many machines. long: takes minutes, so only with --long.
    """

    name: str
    make: Callable[[], Run]
    rival: bool = False
    count: float = 1.0
    threads: int | None = None
    needs: str = ""
    memory: float = 0.0
    long: bool = False


@dataclass(frozen=True)
class Estimate:
    """A rival that would take too long: `times` runs of the contender `of`."""

    name: str
    of: str
    times: float


@dataclass(frozen=True, kw_only=True)
class Work(ABC):
    """One thing that takes time, at given sizes: the fields that a subclass adds. runner.py measures it."""

    title: ClassVar[str]  # in the table
    settles: ClassVar[int] = 1  # runs before those that count: they compile, fill caches, take memory that is kept
    in_a_row: ClassVar[float] = 0.0  # seconds of a turn, for what users run again and again; 0: a turn is one run
    unit: ClassVar[str] = ""  # of a contender's `count`; times are then per unit, and speeds are shown too
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    device: torch.device = torch.device("cpu")

    @classmethod
    @abstractmethod
    def sizes(cls, quick: bool, long: bool) -> Iterable[Sizes]:
        """The fields of each work to measure. quick: tiny, a second in all; long: those that take minutes as well."""

    @abstractmethod
    def label(self) -> str:
        """The sizes in words, for the table."""

    @abstractmethod
    def contenders(self) -> Sequence[Contender | Estimate]:
        """The project's own way first. They take turns, each in its process."""

    @abstractmethod
    def floor(self) -> Floor | str:
        """Derived in a comment; or the name of the contender that is the floor."""

    def check(self) -> dict[str, float]:
        """Figures that say whether what was timed is right, such as the share of codes that differ from naive
        sampling; asked of the first sizes of a work. Default: none."""
        return {}


def names() -> list[str]:
    return sorted(path.stem for path in (Path(__file__).parent / "works").glob("*.py") if path.stem != "__init__")


def find(name: str) -> type[Work]:
    """The work of works/NAME.py."""
    module = importlib.import_module(f"benchmarks.works.{name}")
    found = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Work)
             and value.__module__ == module.__name__]
    assert len(found) == 1, f"works/{name}.py: expected one subclass of Work, found {len(found)}"
    return found[0]


def missing(contender: Contender, long: bool, free_memory: float) -> str:
    """Why a contender does not run here, or "". What is left out is said in table and JSON."""
    if contender.long and not long:
        return "takes minutes (--long)"
    if contender.needs and find_spec(contender.needs) is None:
        return f"{contender.needs} is not installed (pip install '.[bench]')"
    if contender.memory > free_memory:
        return f"needs {contender.memory / 2**30:.0f} GiB of memory, {free_memory / 2**30:.0f} are free"
    return ""
