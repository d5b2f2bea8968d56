"""The prior's receptive field covers less than an eighth of an axis of the grid: codes further apart are drawn as if
they had nothing to do with each other.

The healthy runs cover a third of it or more. Frames of video do not count: given the actions, one frame may be enough
(RESULTS.md, doom_video).
"""

import math
from collections.abc import Mapping
from typing import Any

from pipelines.health.evidence import PriorFacts
from pipelines.health.finding import Change, Finding, change

ORDER, STAGES = 3, ("stage2",)
SHARE, ENOUGH = 8, 3  # an eighth of the axis; a third


def find(prior: PriorFacts, settings: Mapping[str, Any]) -> Finding | None:
    within = len(prior.grid) - 2  # the first axis within a frame of video
    short = [axis for axis, (reach, size) in enumerate(zip(prior.reach, prior.grid))
             if axis >= within and SHARE * reach < size - 1]
    if not short:
        return None
    axis = max(short, key=lambda axis: prior.grid[axis] / max(prior.reach[axis], 1))
    reach, size = prior.reach[axis], prior.grid[axis]
    layers, changes = settings.get("prior.num_layers"), list[Change]()
    if isinstance(layers, int):
        changes.append(change(settings, "prior.num_layers", math.ceil(layers * size / ENOUGH / max(reach, 1))))
    if isinstance(first := settings.get("prior.first_kernel_size"), int):
        changes.append(change(settings, "prior.first_kernel_size", max(7, first)))
    return Finding(f"the prior's receptive field reaches {reach} back along an axis of {size} positions",
                   "it is smaller than the grid: samples are right in small parts only",
                   tuple(changes[: 1 + (changes[-1].value != changes[-1].before)]) if changes else (),
                   "" if changes else "a prior of more layers")
