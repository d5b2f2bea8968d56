"""A label that the prior is conditioned on has one class alone among the training items: it says nothing.

A label with two classes or more, however rare, is no finding.
"""

from collections.abc import Mapping
from typing import Any

from pipelines.health.evidence import PriorFacts
from pipelines.health.finding import Change, Finding

ORDER, STAGES = 0, ("stage2",)


def find(prior: PriorFacts, settings: Mapping[str, Any]) -> Finding | None:
    constant = {name: counts for name, counts in prior.label_counts.items() if sum(map(bool, counts.values())) == 1}
    if not constant:
        return None
    words = []
    for name, counts in constant.items():
        (only,) = (own for own, count in counts.items() if count)
        words.append(f"all {counts[only]} training items have {name}={only}")
    left = ",".join(name for name in prior.label_counts if name not in constant)
    before = settings.get("condition_on")
    return Finding(", ".join(words), "the prior is conditioned on a label that is the same for every item: samples do "
                   "not depend on it", (Change("condition_on", f"[{left}]", f"[{','.join(before or [])}]"),),
                   "labels that differ: images and clips are labelled by their folders")
