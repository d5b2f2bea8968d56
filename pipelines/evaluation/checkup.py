"""Gathers what the rules of pipelines/health look at: logs, configuration, codes, weights and metrics.json of a run.

No data are read, only a sample of the codes: a check after a training takes well under a second.

Axes: n items, t positions of an item, g codebooks, k codes.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.data.codes import CodeData, CodeSplit
from pipelines.data.manifest import MANIFEST
from pipelines.evaluation.table import mean
from pipelines.health.diagnosis import findings
from pipelines.health.evidence import Codebook, CodeUse, End, Evidence, Facts, PriorFacts, settings_of
from pipelines.health.finding import Change, Finding
from pipelines.metrics.ngrams import bigram_bits
from pipelines.runs.chain import LoadedRun
from pipelines.runs.figures import read_figures
from pipelines.runs.store import load_stage2, stage1_hash
from pipelines.splits.order import spread
from pipelines.training.autoencoder import AutoencoderTask
from pipelines.training.checkpoint import find_checkpoint, read_state
from pipelines.training.log import read_metrics
from pipelines.training.prior import PriorTask
from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.bottlenecks.base import Bottleneck, CodebookQuantizer
from stage1_vqvae.codebook import usage
from stage2_prior.prior import Prior

LOOKED_AT = 2**20  # codes of a split that are counted: 50 for each of K = 20,000; bigrams of them take 0.8 s
FARTHEST = 64  # positions of an axis of images and clips whose reach is measured


@dataclass(frozen=True)
class Checkup:
    """What was looked at, in words, and what was found."""

    findings: list[Finding]
    looked_at: list[str]


def check(loaded: LoadedRun) -> Checkup:
    """All that the rules find in a trained run. Raises InputError for parts of it that cannot be read."""
    run, stage1 = loaded.run, loaded.stage1
    model, seen = stage1.module, ["weights"]
    figures = read_figures(run) if (run.root / "metrics.json").exists() else None
    data = CodeData(run.codes) if (run.codes / MANIFEST).exists() else None
    now = stage1_hash(stage1)
    first = stage1_evidence(run.stage1, model, stage1.config, None if data is None else code_use(data, now), figures)
    parts = [] if stage1.example.imported else [first]  # codes that were imported, as they are: nothing was trained
    if any(find_checkpoint(run.stage2, which) for which in ("best", "latest")):
        stage2 = load_stage2(run, loaded.device)
        parts.append(stage2_evidence(run.stage2, stage2.module, stage2.config, data, figures, stage2.state.stage1_hash,
                                     now, first.settings))
    for evidence in parts:
        name = evidence.facts.stage.replace("stage", "stage ")
        seen.append(f"{len(evidence.rows)} rows of the log of {name}" if evidence.rows else f"no log of {name}")
    seen += ["codes"] if data is not None else ["no codes"]
    seen += ["metrics.json"] if figures is not None else ["no metrics.json"]
    return Checkup([finding for evidence in parts for finding in findings(evidence)], seen)


def stage1_evidence(folder: Path, model: Autoencoder, config: Mapping[str, Any], codes: CodeUse | None = None,
                    figures: Mapping[str, Any] | None = None, facts: Facts | None = None) -> Evidence:
    """Of stage 1 in `folder`, trained with the configuration that it has there. facts: of its training, if that ran
    just now."""
    shape = tuple(config["example"]["shape"])
    return Evidence(
        facts=facts or AutoencoderTask(model, [], show=_nothing).facts(),
        rows=read_metrics(folder / "metrics.jsonl") or None,
        end=_end(folder), settings=settings_of("stage1", config), shape=shape, grid=tuple(model.latent_grid(shape)),
        codebook=_codebook(model.bottleneck), codes=codes, figures=figures)


def stage2_evidence(folder: Path, prior: Prior, config: Mapping[str, Any], data: CodeData | None,
                    figures: Mapping[str, Any] | None = None, made_by: str | None = None, stage1: str | None = None,
                    settings: Mapping[str, Any] | None = None) -> Evidence:
    """Of stage 2 in `folder`. made_by, stage1: hashes of the stage 1 whose codes the prior models, and of the run's;
    settings: those of stage 1, where they are known."""
    spec, names, end = config["codes"], config["condition_on"], _end(folder)
    grid, bits, bigram = tuple(spec["grid"]), None if end is None else end.best_score, None
    if data is not None:
        bigram = _bigram_bits(data)
    elif figures and figures.get("codes"):
        bits, bigram = mean(figures["codes"]["prior_bits"]), mean(figures["codes"]["bigram_bits"])
    counts = {name: dict(zip(spec["classes"][column], spec["label_counts"][column], strict=True))
              for column, name in enumerate(spec["label_names"]) if name in names}
    return Evidence(
        facts=PriorTask(prior, [], {}, False).facts(), rows=read_metrics(folder / "metrics.jsonl") or None, end=end,
        settings=dict(settings or {}) | settings_of("stage2", config), shape=grid, grid=grid, figures=figures,
        prior=PriorFacts(bits, bigram, grid, reach(prior, grid), counts, made_by, stage1))


def code_use(data: CodeData, stage1: str) -> CodeUse:
    """How the codes are used over the training split, or many evenly spaced items of it. stage1: hash of the run's."""
    codes, real = _some(data.split("train"))
    books = codes.movedim(-1, 0)
    counts = torch.stack([usage(book, data.num_codes, real) for book in books])
    items = len(data.split("train"))
    return CodeUse(counts, items // data.manifest.views, float(real.double().sum(1).mean()), data.stage1_hash, stage1)


@torch.no_grad()
def reach(prior: Prior, grid: tuple[int, ...]) -> tuple[int, ...]:
    """How many positions further on along each axis the logits depend on one code: it is changed, in the middle of the
    first slice, and the logits are compared."""
    size = grid if len(grid) == 1 else tuple(min(own, FARTHEST) for own in grid)
    model = copy.deepcopy(prior).cpu().double().eval()
    books = [prior.num_codebooks] if prior.num_codebooks > 1 else []
    codes = torch.zeros(2, *size, *books, dtype=torch.int64)
    place = [0, *(own // 2 for own in size[1:])]
    codes[(1, *place)] = 1
    labels = torch.zeros(2, len(prior.num_classes), dtype=torch.int64) if prior.num_classes else None
    local = torch.zeros(2, prior.local_channels, *size, dtype=torch.float64) if prior.local_channels else None
    logits = model(codes, labels, local)
    changed = (logits[0] - logits[1]).abs().amax(0)
    if changed.ndim > len(size):  # codebooks, or sub-codes
        changed = changed.amax(-1)
    where = (changed > 1e-9 * logits.abs().max()).nonzero()
    farthest = (where - torch.tensor(place)).abs().amax(0).tolist() if len(where) else [0] * len(size)
    # whatever reaches the end of what was looked at may reach further
    return tuple(whole if far >= own - 1 - start else far
                 for far, own, start, whole in zip(farthest, size, place, grid, strict=True))


def report(run: Path, checkup: Checkup) -> str:
    """Findings in words, each with the command that changes the setting; of a healthy run one line."""
    seen = f"looked at: {', '.join(checkup.looked_at)}"
    if not checkup.findings:
        return f"{run}: nothing found; {seen}"
    count = len(checkup.findings)
    lines = [f"{run}: {count} finding{'s' if count > 1 else ''}"]
    for number, finding in enumerate(checkup.findings, 1):
        lines += ["", f"{number}. {finding.rule} ({finding.stage.replace('stage', 'stage ')})",
                  f"   found    {finding.evidence}", f"   meaning  {finding.meaning}"]
        lines += [f"   change   {finding.advice}"] if finding.advice else []
        lines += [f"   command  {command(finding.changes[0], run.name)}"] if finding.changes else []
    return "\n".join([*lines, "", seen])


def after_training(evidence: Evidence) -> None:
    """Prints what the rules find in a stage that was trained just now: nothing, or a line for each."""
    for finding in findings(evidence):
        print(f"doctor: {finding.rule}: {finding}")


def command(change: Change, run: str) -> str:
    """The command that makes this change to the run of that name. Stage 1 with other settings is another run; stage 2
    can be trained anew in the same one."""
    section, arguments = change.key.partition(".")[0], f'ARGS="{change.typed}"'
    if section == "extract":
        return f"make extract-codes RUN={run} {arguments}"
    if section in ("prior", "stage2", "condition_on", "condition_on_length"):
        return f"make stage2 RUN={run} {arguments}   (remove the run's folder stage2 first)"
    return f"make stage1 EXPERIMENT=<as before> RUN=<another name> {arguments}"


def _nothing(*_: Any, **__: Any) -> None:
    """Shows nothing: no training runs."""


def _end(folder: Path) -> End | None:
    """Where the training in `folder` ended, as its newest checkpoint says; of a published run its only one."""
    newest = find_checkpoint(folder) or find_checkpoint(folder, "best")
    if newest is None:
        return None
    state = read_state(newest)
    return End(state.step, state.best_step, state.best_score)


def _codebook(bottleneck: Bottleneck) -> Codebook | None:
    """None where codes have no vectors of one codebook."""
    if not isinstance(bottleneck, CodebookQuantizer):
        return None
    vectors = bottleneck.vectors().detach().cpu()
    counts = getattr(bottleneck, "counts", None)
    used = torch.ones(vectors.shape[:2], dtype=torch.bool) if counts is None else (
        counts.cpu() > 1e-3 * counts.cpu().mean(1, keepdim=True))
    return Codebook(vectors, used)


def _some(split: CodeSplit) -> tuple[Tensor, Tensor]:
    """Codes (n, t, g) of evenly spaced items, about `LOOKED_AT` codes, and which positions (n, t) are not padding."""
    items = spread(max(2, LOOKED_AT // math.prod(split.x.shape[1:])), len(split))
    batch = split.batch(items)
    codes = batch.x.reshape(len(items), -1, split.num_codebooks)
    whole = torch.full((len(items),), codes.shape[1]) if batch.lengths is None else batch.lengths
    return codes, torch.arange(codes.shape[1]) < whole[:, None]


def _bigram_bits(data: CodeData) -> float:
    """Bits per code of the validation split under counted pairs of codes, a mean over codebooks."""
    (train, real), (held, real_held) = (_some(data.split(name)) for name in ("train", "validation"))
    return float(bigram_bits(train, held, data.num_codes, (real, real_held)).mean())
