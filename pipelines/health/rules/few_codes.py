"""The codebook has collapsed: one code, less than a tenth of the codes that could be in use, or, once the training is
over, less than half.

A random choice of as many positions as codes uses 0.63 of them. A `rate_weight` above 0 asks for few codes, down to a
third in healthy runs, and FSQ and categorical codes are not kept in use, so that half is no limit for these. Healthy
vector quantisers without such a weight use 97 % of their codes or more.

The causes, likeliest first: a weight of the rate that makes rare codes too dear, a commitment term that draws encodings
together or does not hold them, a learning rate that throws them away from all codes but one, a codebook that neither
starts at the data nor revives dead codes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.health.evidence import CodeUse, End, Facts, Row
from pipelines.health.finding import Change, Finding, change
from pipelines.health.series import highest_rate

ORDER, STAGES = 2, ("stage1",)
LEAST_USE = 0.1  # of the codes that could be in use, at two validations in a row
HALF = 0.5  # over a split of at least ENCODINGS per code
ENCODINGS = 10
STRONG, WEAK = 5.0, 0.01  # commitment_weight: the paper found no difference from 0.1 to 2
HEAVY = 2.0  # rate_weight: at 1.18 the pretrained mnist still uses 106 of 128 codes
FAST, USUAL = 3e-3, 1e-3  # learning rates of Adam
BOTTLENECK = "autoencoder.bottleneck"
ENTROPY = f"{BOTTLENECK}.entropy_weight"


def find(facts: Facts, rows: Sequence[Row] = (), settings: Mapping[str, Any] = {}, codes: CodeUse | None = None,
         end: End | None = None) -> Finding | None:
    found = in_training_split(codes, settings) if codes else in_validation(
        rows, facts, share(settings, over=end is not None))
    if found is None:
        return None
    used, num_codes, evidence = found
    meaning = ("all latents are the same, so they carry no information" if used <= 1 else
               "the codes carry little information, so reconstructions are poor and samples alike")
    return Finding(evidence, meaning, causes(facts, rows, settings, num_codes),
                   "fewer or smaller autoencoder.bottleneck.levels" if f"{BOTTLENECK}.levels" in settings else
                   f"a smaller {BOTTLENECK}.num_bits" if ENTROPY in settings else
                   "autoencoder/bottleneck=fsq, which has no codebook to lose")


def share(settings: Mapping[str, Any], over: bool) -> float:
    """The least share of the codes to expect in use. over: whether the training is."""
    learned = f"{BOTTLENECK}.revive_threshold" in settings  # a codebook of vectors that are kept in use
    return HALF if over and learned and (settings.get(f"{BOTTLENECK}.rate_weight") or 0) <= 0 else LEAST_USE


def in_validation(rows: Sequence[Row], facts: Facts, least_share: float) -> tuple[float, int, str] | None:
    """Codes in use, K and the words of it, where the latest two validations agree that they are few."""
    latest = [row for row in rows if row["split"] == "validation" and row.get("codes used") is not None
              and row["step"] >= facts.settled_from][-2:]
    if len(latest) < 2 or facts.num_codes is None or facts.num_codes < 2:
        return None
    if facts.positions is None or facts.positions < ENCODINGS * facts.num_codes:
        least_share = LEAST_USE
    least = max(least_share * min(facts.num_codes, facts.positions or facts.num_codes), 1)
    if not all(row["codes used"] <= least for row in latest):
        return None
    used, step = latest[-1]["codes used"], latest[-1]["step"]
    return used, facts.num_codes, (f"step {step}: {used:.4g} of {facts.num_codes} codes in use on validation, expected "
                                   f"more than {least:.4g}")


def in_training_split(codes: CodeUse, settings: Mapping[str, Any]) -> tuple[float, int, str] | None:
    """The same of the extracted codes, where the mean over codebooks is too low."""
    num_codes = codes.counts.shape[1]
    if num_codes < 2:
        return None
    used = float((codes.counts > 0).sum(1).double().mean())
    least = max(share(settings, over=True) * min(num_codes, codes.items * codes.positions / ENCODINGS), 1)
    if used > least:
        return None
    return used, num_codes, (f"{used:.4g} of {num_codes} codes occur among the {codes.items} training items, expected "
                             f"more than {least:.4g}")


def causes(facts: Facts, rows: Sequence[Row], settings: Mapping[str, Any], num_codes: int) -> tuple[Change, ...]:
    """What to change, the likeliest cause first."""
    changes = []
    weight, lr = settings.get(f"{BOTTLENECK}.rate_weight") or 0, settings.get("stage1.lr") or highest_rate(rows) or 0
    beta = settings.get("autoencoder.beta") or 0
    if weight > HEAVY:
        changes.append(change(settings, f"{BOTTLENECK}.rate_weight", min(1.0, weight / 4)))
    if ENTROPY in settings:  # BSQ, which no commitment term holds
        changes.append(change(settings, ENTROPY, 4 * settings[ENTROPY] or 0.1))
    commitment = settings.get(f"{BOTTLENECK}.commitment_weight")
    if commitment == 0 and (ENTROPY in settings or settings.get(f"{BOTTLENECK}.gradient") == "diveq"):
        commitment = None  # as published
    if commitment is not None and not WEAK <= commitment <= STRONG:
        changes.append(change(settings, f"{BOTTLENECK}.commitment_weight", 0.25))
    if lr > FAST:
        changes.append(Change("stage1.lr", min(USUAL, lr / 10), lr))
    if settings.get(f"{BOTTLENECK}.initialise_from_data") is False:
        changes.append(change(settings, f"{BOTTLENECK}.initialise_from_data", True))
    if settings.get(f"{BOTTLENECK}.revive_threshold") == 0:
        changes.append(change(settings, f"{BOTTLENECK}.revive_threshold", 0.05))
    if facts.criterion == "bound" and beta > 0:
        changes.append(change(settings, "autoencoder.beta", beta / 10))
    if 0 < weight <= HEAVY:
        changes.append(change(settings, f"{BOTTLENECK}.rate_weight", weight / 2))
    if 0 < lr <= FAST:
        changes.append(Change("stage1.lr", lr / 3, lr))
    if f"{BOTTLENECK}.num_codes" in settings:
        changes.append(change(settings, f"{BOTTLENECK}.num_codes", max(2, num_codes // 4)))
    return tuple(changes[:3])
