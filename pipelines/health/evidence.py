"""What the rules look at. A rule names what it needs by the names of the fields of `Evidence`.

Axes: g codebooks, k codes of one, d dimensions of one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Row = dict[str, Any]  # step, split ("train" or "validation"), figures by name


@dataclass(frozen=True)
class Facts:
    """What the figures of a training leave out."""

    stage: str  # "stage1", "stage2": the section of the settings
    criterion: str  # the validation figure that `best` minimises
    settled_from: int = 0  # earlier steps are not comparable with later ones
    num_codes: int | None = None  # K; None without codes
    positions: int | None = None  # codes of each codebook in the validation split, so that no more can be in use


@dataclass(frozen=True)
class End:
    """Where a training ended."""

    step: int
    best_step: int | None
    best_score: float | None  # of `Facts.criterion`, on the validation split


@dataclass(frozen=True)
class Codebook:
    """The vectors of the codes, as they are stored."""

    vectors: Tensor  # (g, k, d)
    used: Tensor  # (g, k) bool


@dataclass(frozen=True)
class CodeUse:
    """The extracted codes of the training split."""

    counts: Tensor  # (g, k) int64: how often each code occurs
    items: int  # training items, each counted once however many views of it were encoded
    positions: float  # mean number of positions of an item, padding excluded
    made_by: str  # hash of the stage 1 that they were made by
    stage1: str  # hash of the run's stage 1


@dataclass(frozen=True)
class PriorFacts:
    """What a prior reaches, and what it has to beat."""

    bits: float | None  # per code on the validation split, the best
    bigram_bits: float | None  # of counted pairs of neighbouring codes, on the same split; None without codes
    grid: tuple[int, ...] = ()
    reach: tuple[int, ...] = ()  # how many later positions along each axis of the grid one code influences
    label_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # of those it is conditioned on:
    # label -> class -> training items
    made_by: str | None = None  # hash of the stage 1 whose codes it models
    stage1: str | None = None  # hash of the run's stage 1


@dataclass(frozen=True)
class Evidence:
    """All that is known of one stage of a run; None: not known."""

    facts: Facts
    rows: Sequence[Row] | None = None  # of metrics.jsonl, in order
    end: End | None = None  # None while it runs
    settings: Mapping[str, Any] = field(default_factory=dict)  # by dotted key, as typed: stage1.lr, prior.dropout
    shape: tuple[int, ...] | None = None  # of one item of the data
    grid: tuple[int, ...] | None = None  # of its latents
    codebook: Codebook | None = None
    codes: CodeUse | None = None
    prior: PriorFacts | None = None
    figures: Mapping[str, Any] | None = None  # metrics.json


SECTIONS = {"stage1": {"train": "stage1", "condition_on": "decoder_condition_on"}, "stage2": {"train": "stage2"}}


def settings_of(stage: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a stage by keys as they are typed: `train` of stage1/config.yaml is stage1."""
    known = {key: config[key] for key in ("data", "autoencoder", "prior", "train", "condition_on") if key in config}
    if isinstance(inner := known.get("prior", {}).get("prior"), Mapping):  # of sub-codes, as it is given
        known["prior"] = inner
    return flat({SECTIONS[stage].get(key, key): value for key, value in known.items()})


def flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    found: dict[str, Any] = {}
    for name, value in section.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        found |= flat(value, key) if isinstance(value, Mapping) else {key: value}
    return found
