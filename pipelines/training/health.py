"""Rules that say, from a training's figures alone, what is wrong with it, what that means and which setting to change.

A rule is a pure function of the rows of metrics.jsonl, in order, and of `Facts`; training asks after every validation
and prints each finding once. The rules are few and sure rather than many: each threshold is far from what a healthy
training shows.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]  # step, split ("train" or "validation"), figures by name

LEAST_USE = 0.1  # share of the codes that could be in use; a random choice of as many positions as codes uses 0.63
GROWTH = 1.25  # from one span to the next, three times in a row: 1.25^3, about 2; what settles grows less and less
SPANS, ROWS_PER_SPAN = 4, 5  # of the training's rows so far
RISE, VALIDATIONS = 0.03, 3  # validation above its best by this share, at this many validations in a row


@dataclass(frozen=True)
class Facts:
    """What the figures leave out."""

    stage: str  # "stage1", "stage2": the section of the settings
    criterion: str  # the validation figure that `best` minimises
    settled_from: int = 0  # earlier steps are not comparable with later ones
    num_codes: int | None = None  # K; None without codes
    positions: int | None = None  # codes of each codebook in the validation split, so that no more can be in use


@dataclass(frozen=True)
class Finding:
    """Something wrong, in words."""

    rule: str
    evidence: str
    meaning: str
    advice: str  # the settings to change

    def __str__(self) -> str:
        return f"{self.evidence}: {self.meaning}; {self.advice}"


def findings(rows: Sequence[Row], facts: Facts) -> list[Finding]:
    """All that the rules find in the rows so far, the most basic first."""
    found = [few_codes(rows, facts), growing_norm(rows, facts), overfitting(rows, facts)]
    return [finding for finding in found if finding is not None]


def few_codes(rows: Sequence[Row], facts: Facts) -> Finding | None:
    """Less than a tenth of the codes that could be are in use, at two validations in a row, or one code alone."""
    latest = [row for row in rows if row["split"] == "validation" and row.get("codes used") is not None
              and row["step"] >= facts.settled_from][-2:]
    if len(latest) < 2 or facts.num_codes is None or facts.num_codes < 2:
        return None
    possible = min(facts.num_codes, facts.positions or facts.num_codes)
    if not all(row["codes used"] <= max(LEAST_USE * possible, 1) for row in latest):
        return None
    used, step = latest[-1]["codes used"], latest[-1]["step"]
    return Finding(
        "few codes",
        f"step {step}: {used:.4g} of {facts.num_codes} codes in use on validation, expected more than "
        f"{max(LEAST_USE * possible, 1):.4g}",
        "the codes carry almost no information, so reconstructions are poor and samples all alike",
        f"lower {facts.stage}.lr{_now(rows, 'lr')} or autoencoder.bottleneck.num_codes, or take "
        "autoencoder/bottleneck=fsq, which has no codebook to lose",
    )


def growing_norm(rows: Sequence[Row], facts: Facts) -> Finding | None:
    """The norm of the encodings grows by a quarter or more from each fourth of the training to the next."""
    norms = [(row["step"], row["z_e norm"]) for row in rows if row["split"] == "train"
             and row.get("z_e norm") is not None and row["step"] >= facts.settled_from]
    size = len(norms) // SPANS
    if size < ROWS_PER_SPAN:
        return None
    norms = norms[-SPANS * size :]
    medians = [statistics.median(norm for _, norm in norms[start : start + size])
               for start in range(0, len(norms), size)]
    if any(later < GROWTH * earlier or earlier <= 0 for earlier, later in zip(medians, medians[1:])):
        return None
    return Finding(
        "growing norm",
        f"step {norms[-1][0]}: the norm of the encodings grew from {medians[0]:.3g} to {medians[-1]:.3g} and goes on",
        "encodings run away from their codes, which cannot follow",
        f"raise autoencoder.bottleneck.commitment_weight, or lower {facts.stage}.lr{_now(rows, 'lr')}",
    )


def overfitting(rows: Sequence[Row], facts: Facts) -> Finding | None:
    """Validation stays above its best at several validations in a row, while training goes on falling."""
    scores = [(row["step"], row[facts.criterion]) for row in rows if row["split"] == "validation"
              and row.get(facts.criterion) is not None and row["step"] >= facts.settled_from]
    if len(scores) <= VALIDATIONS:
        return None
    best_step, best = min(scores, key=lambda score: score[1])
    latest = scores[-VALIDATIONS:]
    if best_step >= latest[0][0] or not all(score > best + RISE * abs(best) for _, score in latest):
        return None
    steps = [step for step, _ in scores]
    before, after = (_training_before(rows, facts.criterion, steps, step) for step in (best_step, steps[-1]))
    if not before or not after or statistics.median(after) >= statistics.median(before):
        return None
    remedy = ("prior.dropout, extract.views=8 (images) or a smaller prior" if facts.stage == "stage2"
              else "augmentation (data.flip, data.pad), a smaller autoencoder.encoder.hidden")
    return Finding(
        "overfitting",
        f"step {latest[-1][0]}: validation {facts.criterion} rose from {best:.4g} at step {best_step} to "
        f"{latest[-1][1]:.4g}, while training fell from {statistics.median(before):.4g} to "
        f"{statistics.median(after):.4g}",
        f"the model memorises its training data; the checkpoint of step {best_step} is kept as best",
        f"fewer {facts.stage}.steps or {facts.stage}.patience=3 save the time, more data or {remedy} help",
    )


def _training_before(rows: Sequence[Row], criterion: str, validated: list[int], step: int) -> list[float]:
    """The training's scores between the validation at `step` and the one before it."""
    earlier = max((other for other in validated if other < step), default=0)
    return [row[criterion] for row in rows if row["split"] == "train" and row.get(criterion) is not None
            and earlier < row["step"] <= step]


def _now(rows: Sequence[Row], name: str) -> str:
    """" (highest so far X)" of a figure of training."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return f" (highest so far {max(values):.3g})" if values else ""


class Watch:
    """The findings of a training that were not reported yet."""

    def __init__(self, rows: Sequence[Row]):
        self.rows = list(rows)  # those from before a resume: what they showed has been reported
        self.earlier = len(self.rows)
        self.reported: set[str] = set()

    def see(self, row: Row) -> None:
        """One more row."""
        self.rows.append(row)

    def news(self, facts: Facts) -> list[Finding]:
        """What the rules find in all rows so far, and have not found before."""
        for count in range(1, self.earlier + 1):
            if self.rows[count - 1]["split"] == "validation":
                self.reported |= {finding.rule for finding in findings(self.rows[:count], facts)}
        self.earlier = 0
        found = [finding for finding in findings(self.rows, facts) if finding.rule not in self.reported]
        self.reported |= {finding.rule for finding in found}
        return found
