"""The prior is no better than counted pairs of neighbouring codes (bigrams), which see one code back and nothing else.

On the same held-out codes. The healthy runs need from 0.55 to 0.90 of the bigram's bits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.health.causes import learning_rate
from pipelines.health.evidence import End, Facts, PriorFacts, Row
from pipelines.health.finding import Change, Finding, change

ORDER, STAGES = 4, ("stage2",)


def find(prior: PriorFacts, facts: Facts, settings: Mapping[str, Any], end: End, rows: Sequence[Row] = ()
         ) -> Finding | None:
    if prior.bits is None or prior.bigram_bits is None or prior.bits < prior.bigram_bits:
        return None
    changes: list[Change] = learning_rate(rows, settings, facts.stage)
    if not changes:
        changes.append(Change(f"{facts.stage}.steps", 4 * end.step, settings.get(f"{facts.stage}.steps", end.step)))
        changes += [change(settings, key, 2 * settings[key]) for key in ("prior.channels", "prior.residual_channels")
                    if isinstance(settings.get(key), int)]
    return Finding(
        f"the prior needs {prior.bits:.4g} bits per code on validation, counted pairs of codes {prior.bigram_bits:.4g}",
        "the prior has learned less than which code follows which, so samples have no structure", tuple(changes))
