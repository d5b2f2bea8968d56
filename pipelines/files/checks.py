"""Checks of what was read from a file: each refusal names the file, the key, what was expected and what was found."""

import math
import re
from collections.abc import Set
from pathlib import Path
from typing import Any

from pipelines.files.errors import InputError

HASH = re.compile(r"[0-9a-f]{64}")
LARGEST_SIZE = 2**28  # values of one item: an hour of sound at 48 kHz has 2**27
SIZES = f"a list of positive integers whose product is at most {LARGEST_SIZE}"


def expect(path: Path, key: str, found: Any, accepted: Any, expected: str) -> None:
    """Raises InputError that names file and key, unless `accepted`; what was found is cut where it is long."""
    if not accepted:
        raise InputError(f"{path}: {key}: expected {expected}, found {brief(found)}")


def expect_keys(path: Path, key: str, found: Any, names: Set[str], optional: Set[str] = frozenset()) -> None:
    """Raises InputError unless `found` is a mapping with all of `names`, and nothing else but some of `optional`."""
    accepted = isinstance(found, dict) and names <= found.keys() <= names | optional
    shown = sorted(map(str, found)) if isinstance(found, dict) else found
    expect(path, key, shown, accepted, f"{'at least' if optional else 'exactly'} {', '.join(sorted(names))}")


def expect_classes(path: Path, prefix: str, label_names: Any, classes: Any) -> None:
    """Raises InputError unless there are different label names, each with a sorted list of its classes."""
    expect(path, f"{prefix}label_names", label_names, is_names(label_names), "a list of different names")
    accepted = isinstance(classes, list) and len(classes) == len(label_names)
    expect(path, f"{prefix}classes", classes, accepted, f"a list for each of {label_names}")
    for number, own in enumerate(classes):
        accepted = is_names(own) and own and own == sorted(own)
        expect(path, f"{prefix}classes[{number}]", own, accepted, "a sorted list of names")


def expect_counts(path: Path, prefix: str, classes: list, counts: Any) -> None:
    """Raises InputError unless there is a count for each class of each label."""
    accepted = isinstance(counts, list) and len(counts) == len(classes)
    expect(path, f"{prefix}label_counts", counts, accepted, f"{len(classes)} lists of counts")
    for number, (own, names) in enumerate(zip(counts, classes, strict=True)):
        accepted = isinstance(own, list) and len(own) == len(names) and all(map(is_integer, own))
        expect(path, f"{prefix}label_counts[{number}]", own, accepted, f"{len(names)} counts")


def brief(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        text = "an integer of thousands of digits"
    return text if len(text) <= 80 else text[:77] + "..."


def is_integer(value: Any, lowest: int = 0, highest: int = 2**62) -> bool:
    return type(value) is int and lowest <= value <= highest  # a bool is no integer here


def is_sizes(value: Any) -> bool:
    """Whether it is such a list, the shape of an array."""
    return (isinstance(value, list) and 1 <= len(value) <= 8 and all(is_integer(size, 1) for size in value)
            and math.prod(value) <= LARGEST_SIZE)


def is_names(value: Any) -> bool:
    """Whether it is a list of different strings."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value) and len(set(value)) == len(value)


def is_hash(value: Any) -> bool:
    """Whether it is a SHA-256 in hexadecimal digits."""
    return isinstance(value, str) and HASH.fullmatch(value) is not None
