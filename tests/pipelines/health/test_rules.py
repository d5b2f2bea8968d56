"""Each rule on rows, codes and weights made by hand: what it finds, the setting it names, and where it keeps silent."""

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.health.diagnosis import all_rules, findings
from pipelines.health.evidence import Codebook, CodeUse, End, Evidence, Facts, PriorFacts
from pipelines.health.finding import Change

BOTTLENECK = "autoencoder.bottleneck"
GAUSSIAN = {"autoencoder.likelihood._target_": "stage1_vqvae.likelihoods.gaussian.Gaussian",
            "autoencoder.likelihood.sigma": "training_mse"}
STAGE1 = Facts("stage1", "objective", num_codes=64, positions=5000)
VAE = Facts("stage1", "bound")
STAGE2 = Facts("stage2", "bits")


def rows(split: str, name: str, values, every: int = 10, **more) -> list[dict]:
    return [{"step": every * number, "split": split, name: value} | more for number, value in enumerate(values, 1)]


def losses(objective: float, rate: float, number: int = 12) -> list[dict]:
    return [{"step": 10 * step, "split": "train", "loss": objective + rate + 0.1, "objective": objective,
             "auxiliary": 0.1} for step in range(1, number)]


def gap(validation: float) -> list[dict]:
    return [*rows("train", "objective", [1.0, *[0.1] * 20]), *rows("validation", "objective", [0.9, validation], 100)]


def used(share: float, num_codes: int = 64, items: int = 1000) -> CodeUse:
    counts = torch.zeros(1, num_codes, dtype=torch.int64)
    counts[:, : round(share * num_codes)] = 50
    return CodeUse(counts, items, 16.0, "a" * 64, "a" * 64)


def codebook(spacing: float, offset: float = 0.0) -> Codebook:
    grid = torch.cartesian_prod(*[torch.arange(4.0)] * 3)
    return Codebook((grid * spacing + offset)[None], torch.ones(1, 64, dtype=torch.bool))


def evidence(facts: Facts = STAGE1, **known: Any) -> Evidence:
    return Evidence(facts, **{"end": End(1000, 1000, 0.1)} | known)


SICK = {  # rule: evidence and the setting that it names first; None: in words alone
    "constant data": [
        (evidence(rows=rows("train", "equal values", [0.999] * 8), settings={"data.range": None}), "data.range=auto"),
        (evidence(settings={"autoencoder.likelihood.variance": 0.3}), None)],
    "constant labels": [
        (evidence(STAGE2, prior=PriorFacts(1, 2, label_counts={"class": {"a": 9, "b": 0}, "of": {"x": 5, "y": 4}})),
         "condition_on=[of]")],
    "other stage1": [
        (evidence(codes=dataclasses.replace(used(1), made_by="b" * 64)), "extract.overwrite=true"),
        (evidence(STAGE2, prior=PriorFacts(1, 2, made_by="a" * 64, stage1="b" * 64)), None)],
    "few examples": [
        (evidence(codes=used(1, 1024, 300), settings={f"{BOTTLENECK}.num_codes": 1024}), f"{BOTTLENECK}.num_codes=64"),
        (evidence(codes=used(1, 1024, 300)), None)],
    "few codes": [
        (evidence(rows=rows("validation", "codes used", [1, 1], lr=0.1)), "stage1.lr=0.001"),
        (evidence(rows=rows("validation", "codes used", [20, 20]), settings={
            f"{BOTTLENECK}.rate_weight": 0.0, f"{BOTTLENECK}.revive_threshold": 0}),
         f"{BOTTLENECK}.revive_threshold=0.05"),
        (evidence(codes=used(0.4), settings={f"{BOTTLENECK}.commitment_weight": 100.0,
                                             f"{BOTTLENECK}.revive_threshold": 0.05}),
         f"{BOTTLENECK}.commitment_weight=0.25"),
        (evidence(codes=used(0.05), settings={f"{BOTTLENECK}.rate_weight": 8.0}), f"{BOTTLENECK}.rate_weight=1.0"),
        (evidence(codes=used(0.05), settings={f"{BOTTLENECK}.entropy_weight": 0.1, f"{BOTTLENECK}.num_bits": 6,
                                              f"{BOTTLENECK}.commitment_weight": 0.0}),
         f"{BOTTLENECK}.entropy_weight=0.4"),
        (evidence(codes=used(0.05), settings={f"{BOTTLENECK}.gradient": "diveq", f"{BOTTLENECK}.revive_threshold": 0,
                                              f"{BOTTLENECK}.commitment_weight": 0.0}),
         f"{BOTTLENECK}.revive_threshold=0.05"),
        (evidence(dataclasses.replace(VAE, num_codes=64, positions=64), rows=rows("validation", "codes used", [2, 2]),
                  settings={"autoencoder.beta": 5.0}), "autoencoder.beta=0.5")],
    "growing norm": [
        (evidence(rows=rows("train", "z_e norm", [1.03**step for step in range(120)]),
                  settings={f"{BOTTLENECK}.commitment_weight": 0.1}), f"{BOTTLENECK}.commitment_weight=0.4"),
        (evidence(rows=rows("train", "z_e norm", [1.0, *[30.0] * 40]),
                  settings={f"{BOTTLENECK}.commitment_weight": 0}), f"{BOTTLENECK}.commitment_weight=0.25")],
    "lagging codebook": [
        (evidence(rows=rows("train", "codebook lag", [0.3] * 12), settings={f"{BOTTLENECK}.decay": 0.9999}),
         f"{BOTTLENECK}.decay=0.99"),
        (evidence(rows=rows("train", "codebook lag", [0.3] * 12), settings={f"{BOTTLENECK}.codebook_weight": 1.0}),
         "autoencoder/bottleneck=ema")],
    "nothing learned": [
        (evidence(rows=[*rows("validation", "objective", [1.0, 0.97]), *rows("train", "lr", [1e-6] * 20)],
                  settings=GAUSSIAN | {"stage1.lr": 1e-6}), "stage1.lr=0.001"),
        (evidence(end=End(1000, 500, 1.0), settings=GAUSSIAN | {f"{BOTTLENECK}.commitment_weight": 100.0}),
         f"{BOTTLENECK}.commitment_weight=0.25")],
    "rate too low": [
        (evidence(VAE, rows=losses(0.5, 0.001), shape=(1, 8, 8), settings={"autoencoder.beta": 1.0}),
         "autoencoder.beta=0.1")],
    "rate too high": [
        (evidence(VAE, rows=losses(0.1, 7.0), shape=(1, 8, 8), grid=(4, 4), settings={"autoencoder.beta": 1.0}),
         "autoencoder.beta=10.0"),
        (evidence(shape=(1, 8, 8), grid=(4, 4), settings={f"{BOTTLENECK}.num_codebooks": 8}),
         f"{BOTTLENECK}.num_codebooks=2"),
        (evidence(shape=(1, 8, 8), grid=(8, 16), settings={"autoencoder.encoder.num_downsamplings": 1}),
         "autoencoder.encoder.num_downsamplings=2")],
    "ignored codes": [
        (evidence(figures={"latents": {"shuffled": {"nats_saved": 0.2, "standard_error": 0.1}}}), None)],
    "coarse precision": [
        (evidence(codebook=codebook(0.01, 100), settings={"stage1.precision": "bfloat16"}), "stage1.precision=float32"),
        (evidence(codebook=codebook(0.0, 1)), "stage1.precision=float32")],
    "unstable": [
        (evidence(rows=rows("train", "objective", [1 - 0.02 * step for step in range(40)] + [1.1] * 40),
                  settings={"stage1.lr": 0.01}), "stage1.lr=0.001"),
        (evidence(STAGE2, rows=rows("train", "bits", [6 - 0.1 * step for step in range(40)] + [6.0] * 40, lr=0.1)),
         "stage2.lr=0.01")],
    "validation gap": [
        (evidence(rows=gap(0.8)), None),
        (evidence(rows=gap(0.8), settings={"data.validation_fraction": 0.9}), "data.validation_fraction=0.1")],
    "overfitting": [
        (evidence(STAGE2, rows=rows("train", "bits", [4 - 0.05 * step for step in range(60)])
                  + rows("validation", "bits", [4, 3, 3.2, 3.4, 3.6, 3.8], 100)), "stage2.steps=200")],
    "weak prior": [
        (evidence(STAGE2, prior=PriorFacts(3.1, 3.0), rows=rows("train", "lr", [1e-6] * 20)), "stage2.lr=0.001"),
        (evidence(STAGE2, prior=PriorFacts(3.1, 3.0), rows=rows("train", "lr", [1.0] * 20)), "stage2.lr=0.001"),
        (evidence(STAGE2, prior=PriorFacts(3.1, 3.0), rows=rows("train", "lr", [1e-3] * 20)), "stage2.steps=4000")],
    "short reach": [
        (evidence(STAGE2, prior=PriorFacts(1, 2, (64, 64), (4, 9)), settings={"prior.num_layers": 2}),
         "prior.num_layers=11"),
        (evidence(STAGE2, prior=PriorFacts(1, 2, (2, 64, 64), (1, 4, 64)), settings={"prior.num_layers": 2}),
         "prior.num_layers=11")],
}
HEALTHY = [  # near the thresholds, and further from them than any healthy run
    evidence(rows=rows("train", "equal values", [0.98] * 8), settings={"autoencoder.likelihood.variance": 9}),
    evidence(STAGE2, prior=PriorFacts(1, 2, label_counts={"class": {"a": 900, "b": 1}})),
    evidence(STAGE2, prior=PriorFacts(1, 2, (32, 8, 8), (1, 8, 8))),  # of video one frame may be enough
    evidence(codes=used(1, 64, 100)),
    evidence(rows=rows("validation", "codes used", [7, 7])),
    evidence(codes=used(0.55), settings={f"{BOTTLENECK}.rate_weight": 0.0, f"{BOTTLENECK}.revive_threshold": 0.05}),
    evidence(codes=used(0.2), settings={f"{BOTTLENECK}.rate_weight": 0.65, f"{BOTTLENECK}.revive_threshold": 0.05}),
    evidence(codes=used(0.2), settings={f"{BOTTLENECK}.levels": [4, 4, 4]}),
    evidence(rows=rows("train", "z_e norm", [1 + 9 * (1 - 0.9**step) for step in range(80)])),
    *(evidence(rows=rows("train", "z_e norm", [1.03**step for step in range(120)]), settings={f"{BOTTLENECK}.{key}": 6})
      for key in ("levels", "num_bits")),
    evidence(rows=rows("train", "codebook lag", [0.4] * 12 + [0.1] * 6)),
    evidence(end=None, rows=rows("train", "codebook lag", [0.4] * 12)),  # while it runs
    evidence(end=None, rows=rows("validation", "objective", [1.0, 0.97]), settings=GAUSSIAN),
    evidence(rows=rows("validation", "objective", [1.0, 0.7]), settings=GAUSSIAN),
    evidence(rows=rows("validation", "objective", [1.0, 5.4])),  # nats of a level: no variance to compare with
    evidence(VAE, rows=losses(0.1, 0.2), shape=(1, 8, 8), grid=(4, 4), settings={"autoencoder.beta": 1.0}),
    evidence(shape=(1, 8, 8), grid=(4, 4), settings={f"{BOTTLENECK}.num_codebooks": 4}),
    evidence(shape=(1, 8, 8), grid=(8, 16), settings={"autoencoder.likelihood._target_": "likelihoods.codes.Codes"}),
    evidence(figures={"latents": {"shuffled": {"nats_saved": 9.0, "standard_error": 0.1}}}),
    evidence(figures={"latents": {"shuffled": None}}), evidence(figures={}),
    evidence(codebook=codebook(1.0, 5), settings={"stage1.precision": "bfloat16"}),
    evidence(codebook=codebook(0.01, 100), settings={"stage1.precision": "float32"}),
    evidence(rows=rows("train", "objective", [1 - 0.02 * step for step in range(40)] + [0.4] * 40)),
    evidence(rows=rows("train", "objective", [0.086, *[0.081] * 30, *[0.102] * 30])),  # the weight of the rate
    evidence(rows=gap(0.14)),
    evidence(STAGE2, rows=rows("train", "bits", [4 - 0.05 * step for step in range(60)])
             + rows("validation", "bits", [4, 3, 3.05, 3.4, 3.02, 3.05], 100)),
    evidence(STAGE2, prior=PriorFacts(2.9, 3.0)), evidence(STAGE2, prior=PriorFacts(2.9, None)),
    evidence(STAGE2, prior=PriorFacts(1, 2, (32, 32), (10, 10))),
    evidence(STAGE2, prior=PriorFacts(1, 2, (4, 4), (1, 1))),
    evidence(rows=[]), evidence(STAGE2, rows=[]),
]


@pytest.mark.parametrize(("rule", "case"), [(rule, case) for rule, cases in SICK.items() for case in cases])
def test_a_rule_finds_its_fault_and_names_the_setting(rule, case):
    found = {finding.rule: finding for finding in findings(case[0])}
    assert rule in found, found
    finding = found[rule]
    assert any(character.isdigit() for character in finding.evidence) and finding.meaning and finding.advice
    typed = [f"{change.key}={change.value}".replace("True", "true") for change in finding.changes]
    assert typed[:1] == ([] if case[1] is None else [case[1]])
    assert str(finding) == f"{finding.evidence}: {finding.meaning}; {finding.advice}"


@pytest.mark.parametrize("healthy", HEALTHY)
def test_what_a_healthy_run_may_show_is_no_finding(healthy):
    assert findings(healthy) == []


def test_every_rule_is_tested_and_declares_what_it_needs():
    fields = {field.name for field in dataclasses.fields(Evidence)}
    assert SICK.keys() == all_rules().keys()
    for name, rule in all_rules().items():
        assert rule.__doc__ and set(rule.STAGES) <= {"stage1", "stage2"} and rule.STAGES, name
        assert set(inspect.signature(rule.find).parameters) <= fields, name


def test_a_rule_whose_need_is_not_known_is_not_asked():
    assert findings(evidence(STAGE2, prior=PriorFacts(3.1, 3.0), end=None)) == []


def test_findings_come_in_order_the_most_basic_first():
    both = evidence(rows=rows("train", "equal values", [1.0] * 8) + rows("validation", "codes used", [1, 1]),
                    codes=dataclasses.replace(used(1, 1024, 300), made_by="b" * 64))
    names = [finding.rule for finding in findings(both)]
    assert names == ["constant data", "other stage1", "few examples"]


def test_every_rule_is_documented():
    text = (Path(__file__).resolve().parents[3] / "docs" / "doctor.md").read_text()
    table = text.partition("\n| --- |")[2].partition("\n\n")[0]
    listed = [line.split("|")[1].strip() for line in table.splitlines()[1:]]
    assert listed == list(all_rules())


@pytest.mark.parametrize(("change", "words"), [
    (Change("stage1.lr", 0.001, 0.1), "lower stage1.lr from 0.1 to 0.001"),
    (Change("prior.num_layers", 8, 2), "raise prior.num_layers from 2 to 8"),
    (Change("a.b", True, False), "set a.b from false to true"),
    (Change("autoencoder/bottleneck", "ema"), "set autoencoder/bottleneck=ema"),
    (Change("stage1.lr", 0.001 / 3, 0.001), "lower stage1.lr from 0.001 to 0.000333")])
def test_a_change_in_words(change, words):
    assert str(change) == words
