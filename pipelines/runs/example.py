"""What a trained stage knows of its data: `Example` of stage 1's, `CodeSpec` of the codes that stage 2 models.

Both are read from the stage's config.yaml and checked here, once; everything else uses their fields.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

from pipelines.files.checks import (
    SIZES,
    expect,
    expect_classes,
    expect_counts,
    expect_keys,
    is_hash,
    is_integer,
    is_names,
    is_sizes,
)
from pipelines.files.errors import InputError
from pipelines.splits.base import Data
from pipelines.tokens.base import Layout


@dataclass(frozen=True)
class Example:
    """One item of the data that stage 1 was trained on."""

    data: str  # name of the data set
    kind: str  # "image", "audio", "video", "codes", or a kind of the user's own
    shape: tuple[int, ...]  # (c, *grid)
    label_names: tuple[str, ...]  # one per column of the labels
    classes: tuple[tuple[str, ...], ...]  # sorted class names of each label
    facts: dict[str, Any]  # of this kind alone: range and digest of images, sample_rate_hz of audio, ...

    @property
    def imported(self) -> bool:
        """Whether the items are codes that were made elsewhere: stage 1 leaves them as they are."""
        return "tokens" in self.facts

    @classmethod
    def from_config(cls, config: dict, path: Path) -> Self:
        """The section `example` of stage 1's configuration, which was read from `path`."""
        content = config.get("example")
        expect_keys(path, "example", content, {"data", "kind", "shape", "label_names", "classes", "facts"})
        for key in ("data", "kind"):
            expect(path, f"example.{key}", content[key], isinstance(content[key], str), "a name")
        expect(path, "example.shape", content["shape"], is_sizes(content["shape"]), SIZES)
        expect_classes(path, "example.", content["label_names"], content["classes"])
        _check_facts(path, content["facts"])
        return cls(content["data"], content["kind"], tuple(content["shape"]), tuple(content["label_names"]),
                   tuple(map(tuple, content["classes"])), Facts(content["facts"], path))

    def to_config(self) -> dict[str, Any]:
        """The section `example`, as plain lists and dicts."""
        return {"data": self.data, "kind": self.kind, "shape": list(self.shape), "label_names": list(self.label_names),
                "classes": [list(names) for names in self.classes], "facts": dict(self.facts)}


def refuse_imported(where: object) -> NoReturn:
    """Raises InputError for a run whose codes were imported, where its stage 1 is asked for."""
    raise InputError(f"{where}: expected a run with a stage 1 of its own, found one whose codes were imported: it has "
                     "no stage 1")


def example_of(data: Data) -> Example:
    """What stage 1 notes of the data set that it is trained on."""
    facts = dict(data.saved_facts) | ({} if data.digest is None else {"digest": data.digest})
    return Example(data.name, data.kind, tuple(data.shape), tuple(data.label_names), tuple(data.classes), facts)


@dataclass(frozen=True)
class CodeSpec:
    """The code data set that stage 2 was trained on."""

    grid: tuple[int, ...]
    num_codes: int
    num_codebooks: int
    label_names: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]  # sorted class names of each label
    label_counts: tuple[tuple[int, ...], ...]  # training items of each class
    extraction: str | None  # hash of all that the code data set depends on; None: the run is older than that hash
    data: str  # name of the data set that was encoded
    shape: tuple[int, ...]  # of one of its items
    length_counts: tuple[tuple[int, ...], ...] | None  # rows (label of each column, length in codes, count), if padded

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of one item's codes: (*grid) or, with g > 1 codebooks, (*grid, g)."""
        return self.grid if self.num_codebooks == 1 else (*self.grid, self.num_codebooks)

    @classmethod
    def from_config(cls, config: dict, path: Path) -> Self:
        """The section `codes` of stage 2's configuration, which was read from `path`."""
        content = config.get("codes")
        names = {"grid", "num_codes", "num_codebooks", "label_names", "classes", "label_counts", "extraction", "data",
                 "shape", "length_counts"}
        expect_keys(path, "codes", content, names)
        for key, lowest in (("num_codes", 2), ("num_codebooks", 1)):
            expect(path, f"codes.{key}", content[key], is_integer(content[key], lowest), f"an integer >= {lowest}")
        for key in ("grid", "shape"):
            expect(path, f"codes.{key}", content[key], is_sizes(content[key]), SIZES)
        expect(path, "codes.data", content["data"], isinstance(content["data"], str), "a name")
        extraction = content["extraction"]
        expect(path, "codes.extraction", extraction, extraction is None or is_hash(extraction), "64 hexadecimal digits")
        expect_classes(path, "codes.", content["label_names"], content["classes"])
        expect_counts(path, "codes.", content["classes"], content["label_counts"])
        _check_length_counts(path, content)
        rows = content["length_counts"]
        return cls(tuple(content["grid"]), content["num_codes"], content["num_codebooks"],
                   tuple(content["label_names"]), tuple(map(tuple, content["classes"])),
                   tuple(map(tuple, content["label_counts"])), content["extraction"], content["data"],
                   tuple(content["shape"]), None if rows is None else tuple(map(tuple, rows)))

    def to_config(self) -> dict[str, Any]:
        """The section `codes`, as plain lists."""
        return {"grid": list(self.grid), "num_codes": self.num_codes, "num_codebooks": self.num_codebooks,
                "label_names": list(self.label_names), "classes": [list(names) for names in self.classes],
                "label_counts": [list(counts) for counts in self.label_counts], "extraction": self.extraction,
                "data": self.data, "shape": list(self.shape),
                "length_counts": None if self.length_counts is None else [list(row) for row in self.length_counts]}


class Facts(dict[str, Any]):
    """Facts of one kind of data, by name, as config.yaml states them. Raises InputError for one that is not there."""

    def __init__(self, facts: dict[str, Any], path: Path):
        super().__init__(facts)
        self.path = path

    def __missing__(self, name: str) -> NoReturn:
        raise InputError(f"{self.path}: example.facts.{name}: expected a value, found none")


def _check_facts(path: Path, facts: Any) -> None:
    """Of the facts that are there; a kind of data asks for those that it needs."""
    expect(path, "example.facts", facts, isinstance(facts, dict), "a mapping")
    if "sample_rate_hz" in facts:
        rate = facts["sample_rate_hz"]
        expect(path, "example.facts.sample_rate_hz", rate, is_integer(rate, 1), "a positive integer")
    if "action_names" in facts:
        names = facts["action_names"]
        expect(path, "example.facts.action_names", names, is_names(names), "a list of different names")
    if "range" in facts:
        values = facts["range"]
        accepted = isinstance(values, list) and len(values) == 2 and all(
            type(value) in (int, float) and math.isfinite(value) for value in values) and values[0] < values[1]
        expect(path, "example.facts.range", values, accepted, "two numbers, the lower one first")
    if "digest" in facts:
        expect(path, "example.facts.digest", facts["digest"], is_hash(facts["digest"]), "64 hexadecimal digits")
    if "tokens" in facts:
        try:
            Layout.from_facts(facts["tokens"])
        except (ValueError, TypeError) as error:
            expect(path, "example.facts.tokens", facts["tokens"], False, f"how codes lie in files ({error})")
    if "parent" in facts:
        parent = facts["parent"]
        expect_keys(path, "example.facts.parent", parent, {"stage1_hash", "extraction"})
        for key, value in parent.items():
            expect(path, f"example.facts.parent.{key}", value, is_hash(value), "64 hexadecimal digits")


def _check_length_counts(path: Path, content: dict) -> None:
    rows, classes = content["length_counts"], content["classes"]
    if rows is None:
        return
    expect(path, "codes.length_counts", rows, isinstance(rows, list) and rows, "rows of integers, or null")
    expect(path, "codes.grid", content["grid"], len(content["grid"]) == 1, "one axis, since codes have lengths")
    for number, row in enumerate(rows):
        accepted = isinstance(row, list) and len(row) == len(classes) + 2 and all(map(is_integer, row)) and (
            1 <= row[-2] <= content["grid"][0] and row[-1] >= 1 and all(
                label < len(names) for label, names in zip(row, classes)))
        expect(path, f"codes.length_counts[{number}]", row, accepted,
               f"{len(classes)} labels, a length from 1 to {content['grid'][0]} and a count")
