"""The head of a report: what the run is, on which data it was trained, for how long, when, and which weights it has."""

import math
from datetime import UTC, datetime

from torch import nn

from pipelines.reporting.html import Html, facts, join, tag
from pipelines.reporting.subject import Reported
from pipelines.runs.store import TrainedStage, stage1_hash, stage2_hash
from pipelines.splits.describe import NOUNS
from stage1_vqvae.bottlenecks.base import Quantizer

NETWORKS = {"image": "images", "video": "video", "audio": "audio", "codes": "the codes of another run"}


def head(reported: Reported) -> Html:
    """A sentence and a list of facts."""
    loaded, kind = reported.loaded, reported.kind
    stage1, stage2, example = loaded.stage1, loaded.stage2, loaded.stage1.example
    bottleneck, noun = stage1.module.bottleneck, NOUNS.get(kind.name, "items").removesuffix("s")
    grid = stage1.module.latent_grid(example.shape)
    rows = {
        "kind of data": kind.name,
        "data set": example.data,
        f"one {noun}": f"{sizes(kind.data_shape(loaded))} values",
        "labels": ", ".join(f"{name} ({len(classes)})" for name, classes in
                            zip(example.label_names, example.classes, strict=True)) or "none",
        "latents": f"grid of {sizes(grid)}",
    }
    if isinstance(bottleneck, Quantizer):
        count = math.prod(grid) * bottleneck.num_codebooks
        books = f", {bottleneck.num_codebooks} codebooks" if bottleneck.num_codebooks > 1 else ""
        rows |= {"latents": f"grid of {sizes(grid)}, {count:,} codes per {noun}",
                 "codebook": f"{bottleneck.num_codes:,} codes{books}",
                 f"bits per {noun}": f"{count * math.log2(bottleneck.num_codes):,.0f} by a uniform prior"}
    rows["stage 1"] = "none: the codes were imported" if example.imported else stage_in_words(stage1)
    rows["stage 2"] = "none was trained" if stage2 is None else stage_in_words(stage2)
    rows["decoder conditioned on"] = ", ".join(stage1.condition_on) or "codes alone"
    if stage2 is not None:
        rows["prior conditioned on"] = ", ".join(stage2.condition_on) or "earlier codes alone"
    rows["trained"] = trained(reported)
    rows["hash of stage 1"] = tag("code", stage1_hash(stage1)[:12])
    rows["hash of stage 2"] = None if stage2 is None else tag("code", stage2_hash(stage2)[:12])
    second = "" if stage2 is None else (" Stage 2 models these codes, so that new ones can be drawn: an autoregressive "
                                        "prior, conditioned on earlier codes"
                                        + (f" and on {' and '.join(stage2.condition_on)}." if stage2.condition_on
                                           else "."))
    first = "encodes each one as a grid of discrete codes" if isinstance(bottleneck, Quantizer) else (
        "encodes each one as a grid of continuous latents")
    what = NETWORKS.get(kind.name, kind.name)
    words = ("A generative model of codes that another program made: they were imported, and there is no stage 1."
             if example.imported else f"A generative model of {what}, in two stages: stage 1 {first} and decodes it.")
    return join(tag("p", words, second), facts(rows))


def stage_in_words(stage: TrainedStage) -> str:
    """"step 4,000 (6,000 asked for), 0.6 million parameters, 4 min"."""
    minutes = stage.state.seconds / 60
    lasted = f"{stage.state.seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else (
        f"{minutes / 60:.1f} h")
    parts = [f"step {stage.state.step:,} of {stage.config['train']['steps']:,}", parameters(stage.module)]
    return ", ".join([*parts, *([f"trained for {lasted}"] if stage.state.seconds else [])])


def parameters(module: nn.Module) -> str:
    """The size of a network in words."""
    count = sum(parameter.numel() for parameter in module.parameters())
    return f"{count:,} parameters" if count < 100_000 else f"{count / 1e6:.1f} million parameters"


def trained(reported: Reported) -> str | None:
    """The day on which stage 2 was trained last; without a stage 2, that of stage 1's newest checkpoint."""
    stage2 = reported.loaded.stage2
    if stage2 is not None and stage2.state.trained_at is not None:
        return in_words(datetime.fromisoformat(stage2.state.trained_at).astimezone(UTC))
    pointer = reported.run.stage1 / "checkpoints" / "latest"  # a published run has none: its files have other dates
    return in_words(datetime.fromtimestamp(pointer.stat().st_mtime, UTC)) if pointer.exists() else None


def in_words(when: datetime) -> str:
    return f"{when.day} {when:%B %Y, %H:%M} UTC"


def sizes(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
