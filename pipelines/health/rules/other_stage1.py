"""The codes, or the prior, are those of another stage 1 than the run has now: it was trained again since.

By the hash of its weights, so exactly.
"""

from pipelines.health.evidence import CodeUse, Facts, PriorFacts
from pipelines.health.finding import Change, Finding

ORDER, STAGES = 0, ("stage1", "stage2")


def find(facts: Facts, codes: CodeUse | None = None, prior: PriorFacts | None = None) -> Finding | None:
    if facts.stage == "stage1" and codes is not None and codes.made_by != codes.stage1:
        return Finding(f"the extracted codes are of stage 1 {codes.made_by[:12]}, and the run has {codes.stage1[:12]}",
                       "stage 1 was trained on since, so these codes mean something else to its decoder",
                       (Change("extract.overwrite", True),), "extract the codes again: make extract-codes")
    if facts.stage == "stage2" and prior is not None and prior.stage1 is not None and (
            prior.made_by != prior.stage1):
        return Finding(f"the prior models codes of stage 1 {str(prior.made_by)[:12]}, and the run has "
                       f"{str(prior.stage1)[:12]}", "its samples mean something else to this decoder", (),
                       "remove the folder stage2 and train the prior again: make extract-codes, make stage2")
    return None
