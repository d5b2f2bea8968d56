"""The rules that watch a training: silent on a healthy one, one line of words on each kind of bad one, and once."""

import pytest

from pipelines.health.evidence import Facts
from pipelines.health.rules import few_codes, growing_norm, overfitting
from pipelines.health.watch import Watch

FACTS = Facts("stage1", "objective", num_codes=512, positions=4096)
PRIOR = Facts("stage2", "bits")


def validation(step: int, **figures) -> dict:
    return {"step": step, "split": "validation"} | figures


def train(step: int, **figures) -> dict:
    return {"step": step, "split": "train"} | figures


@pytest.mark.parametrize(("used", "positions", "num_codes", "warned"), [
    ((1, 1), 4096, 512, True), ((51, 50), 4096, 512, True), ((52, 50), 4096, 512, False), ((1, 400), 4096, 512, False),
    ((1,), 4096, 512, False), ((9, 9), 64, 65_536, False), ((6, 6), 64, 65_536, True), ((1, 1), 4096, 2, True),
    ((2, 2), 4096, 3, False), ((1, 1), 4096, 1, False)])
def test_codes_in_use_below_a_tenth_of_those_that_could_be_are_a_finding(used, positions, num_codes, warned):
    rows = [train(1, lr=0.1), *(validation(number, **{"codes used": count}) for number, count in enumerate(used))]
    found = few_codes.find(Facts("stage1", "objective", num_codes=num_codes, positions=positions), rows)
    assert (found is not None) == warned
    if found:
        assert f"{used[-1]} of {num_codes} codes in use" in str(found)
        assert "lower stage1.lr from 0.1 to 0.001" in str(found)


def norms(values) -> list[dict]:
    return [train(50 * number, **{"z_e norm": value}) for number, value in enumerate(values, start=1)]


@pytest.mark.parametrize(("values", "warned"), [
    ([1.0 + 0.1 * step for step in range(80)], True), ([1.02**step for step in range(80)], True),
    ([5 - 4 * 0.9**step for step in range(80)], False), ([1.0 + 0.1 * step for step in range(16)], False),
    ([step**0.25 for step in range(1, 80)], False), ([100.0] * 80, False), ([0.0] * 80, False)])
def test_a_norm_that_grows_without_end_is_a_finding_and_one_that_settles_is_not(values, warned):
    found = growing_norm.find(norms(values), FACTS, {})
    assert (found is not None) == warned
    if found:
        assert "raise autoencoder.bottleneck.commitment_weight" in found.advice


def course(validations, trainings, name="bits") -> list[dict]:
    rows = []
    for number, (own, other) in enumerate(zip(validations, trainings, strict=True), start=1):
        rows += [train(100 * number - 50, **{name: other}), validation(100 * number, **{name: own})]
    return rows


@pytest.mark.parametrize(("validations", "trainings", "warned"), [
    ([5, 4, 3, 3.2, 3.4, 3.6], [5, 4, 3, 2.5, 2, 1.5], True), ([5, 4, 3, 3.2, 3.4], [5, 4, 3, 2.5, 2], False),
    ([5, 4, 3, 3.05, 3.05, 3.05], [5, 4, 3, 2.5, 2, 1.5], False),
    ([5, 4, 3, 3.2, 3.4, 2.9], [5, 4, 3, 2.5, 2, 1.5], False),
    ([5, 4, 3, 3.2, 3.4, 3.6], [5, 4, 3, 3.3, 3.4, 3.5], False),
    ([-5, -6, -7, -6, -6, -6], [-5, -6, -7, -8, -8, -8], True)])
def test_validation_that_leaves_training_is_a_finding(validations, trainings, warned):
    found = overfitting.find(course(validations, trainings), PRIOR, {})
    assert (found is not None) == warned
    if found:
        assert "the checkpoint of step 300 is kept as best" in found.meaning and "stage2.patience" in found.advice
        assert "300 updates after its best" in found.evidence


def test_steps_before_the_objective_has_settled_are_not_counted():
    rows = course([1, 4, 3, 2.9, 2.8, 2.7], [5, 4, 3, 2, 1.9, 1.8])
    settled = Facts("stage2", "bits", settled_from=200)
    assert overfitting.find(rows, PRIOR, {}) and not overfitting.find(rows, settled, {})


def test_a_finding_is_reported_once_also_after_a_resume():
    rows = [validation(step, **{"codes used": 1}) for step in (10, 20, 30, 40)]
    watch, reported = Watch([]), []
    for row in rows:
        watch.see(row)
        reported.append([finding.rule for finding in watch.news(FACTS)])
    assert reported == [[], ["few codes"], [], []]
    resumed = Watch(rows[:2])
    resumed.see(rows[2])
    assert resumed.news(FACTS) == [] and few_codes.find(FACTS, rows)


def test_a_warning_names_the_setting_with_the_value_of_the_run():
    rows = [validation(step, **{"codes used": 1}) for step in (10, 20)]
    watch = Watch([])
    for row in rows:
        watch.see(row)
    (found,) = watch.news(FACTS, {"stage1.lr": 0.2})
    assert "lower stage1.lr from 0.2 to 0.001" in str(found)
