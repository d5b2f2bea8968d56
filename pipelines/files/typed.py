"""Settings as dataclasses: the annotation of a field states its type and range, and every value is held against it.

    @dataclass
    class Extraction(Typed):
        views: Count = 1
        overwrite: bool = False

`Extraction(views=0)` raises InputError, "views: expected an integer >= 1, found 0". What is not asked for is never
guessed: a number is no name, a name no number. Words that YAML 1.1 reads as true or false (yes, no, on, off) are that.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pipelines.files.checks import brief
from pipelines.files.errors import InputError

LARGEST = 2**31 - 1  # of a count: what an index of 32 bits holds
LARGEST_SEED = 2**63 - 1
BOOLEANS = {"true": True, "yes": True, "on": True, "y": True, "false": False, "no": False, "off": False, "n": False}


@dataclass(frozen=True)
class Range:
    """The numbers from `least` to `most`; an `open_` end is not one of them. `most` is named where it is passed."""

    least: float
    most: float = math.inf
    open_least: bool = False
    open_most: bool = False

    def holds(self, number: float) -> bool:
        return (self.least < number if self.open_least else self.least <= number) and (
            number < self.most if self.open_most else number <= self.most)

    def words(self, noun: str, found: float) -> str:
        upper = self.most < (math.inf if found > self.most else LARGEST)
        noun = "a finite number" if noun == "a number" and self.most == math.inf else noun
        return (f"{noun} {'>' if self.open_least else '>='} {self.least}"
                + (f" and {'<' if self.open_most else '<='} {self.most}" if upper else ""))


Count = Annotated[int, Range(1, LARGEST)]
CountOrZero = Annotated[int, Range(0, LARGEST)]
Seed = Annotated[int, Range(0, LARGEST_SEED)]
Size = Annotated[float, Range(0, math.inf, open_most=True)]  # finite, not negative
Share = Annotated[float, Range(0, 1, open_most=True)]  # below 1
Part = Annotated[float, Range(0, 1, open_least=True)]  # above 0


@dataclass
class Typed:
    """Base of dataclasses of settings."""

    def __post_init__(self) -> None:
        """Raises InputError for a value that is not of its field's type, or out of range."""
        for name, kind in hints(type(self)).items():
            setattr(self, name, typed(name, getattr(self, name), kind))


S = TypeVar("S", bound=Typed)


def hints(settings: type) -> dict[str, Any]:
    """The annotation of each field of a dataclass."""
    found = get_type_hints(settings, include_extras=True)
    return {field.name: found[field.name] for field in fields(settings)}


def read(settings: type[S], key: str, content: Any) -> S:
    """The settings that a section of the configuration holds. Raises InputError that names KEY.FIELD."""
    if not isinstance(content, Mapping):
        raise InputError(f"{key}: expected settings, {key}.KEY=VALUE, found {'none' if content is None else content}")
    for name in content:
        if name not in hints(settings):
            raise InputError(unknown(f"{key}.{name}", [f"{key}.{field}" for field in hints(settings)]))
    try:
        return settings(**content)
    except InputError as error:
        raise InputError(f"{key}.{error}") from None


def typed(key: str, found: Any, kind: Any) -> Any:
    """`found` as a value of the annotated type `kind`. Raises InputError at `key` for one that is not of it."""
    if get_origin(kind) in (Union, UnionType):
        optional = NoneType in get_args(kind)
        if found is None and optional:
            return None
        (kind,) = (member for member in get_args(kind) if member is not NoneType)
    limits = None
    if get_origin(kind) is Annotated:
        kind, limits = get_args(kind)
    if get_origin(kind) is Literal:
        _expect(key, found, isinstance(found, str) and found in get_args(kind), _any_of(get_args(kind)))
    elif get_origin(kind) is list:
        accepted = isinstance(found, list | tuple) and all(isinstance(name, str) for name in found)
        _expect(key, found, accepted, "a list of names, as in [first,second]")
    elif kind is bool:
        word = str(found).lower() if isinstance(found, bool | str) or found in (0, 1) else ""
        word = {"1": "true", "0": "false"}.get(word, word)
        _expect(key, found, word in BOOLEANS, "true or false")
        return BOOLEANS[word]
    elif kind is str:
        _expect(key, found, isinstance(found, str) and bool(found), "a name")
    else:
        noun = "an integer" if kind is int else "a number"
        accepted = isinstance(found, int if kind is int else int | float) and not isinstance(found, bool)
        _expect(key, found, accepted, limits.words(noun, math.nan) if limits else noun)
        _expect(key, found, limits is None or limits.holds(found), limits.words(noun, found) if limits else noun)
        return kind(found)
    return found


def unknown(key: str, known: Iterable[str]) -> str:
    """A message for a key that is not one of the known ones, with the one that is most like it."""
    known = list(known)
    close = nearest(key, known)
    return f"{key}: expected {close or _any_of(known)}, found a key that the configuration lacks"


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that is the name, or ends in `.name`, or else is most like it; None where none is close."""
    candidates = list(dict.fromkeys(candidates))
    if name in candidates:
        return name
    for candidate in candidates:
        if candidate.rpartition(".")[2] == name:
            return candidate
    close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
    return close[0] if close else None


def _any_of(names: Iterable[str]) -> str:
    return f"one of {', '.join(names)}"


def _expect(key: str, found: Any, accepted: bool, expected: str) -> None:
    if not accepted:
        raise InputError(f"{key}: expected {expected}, found {brief(found)}")
