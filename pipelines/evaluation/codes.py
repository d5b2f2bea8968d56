"""What `evaluate.py` measures of a run on the codes of another run: how much a decoder that could do without the codes
uses them, what can be read from them, and what they look like.

Axes: n items, c channels, g codebooks, m codes of an item.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipelines.evaluation.bounds import saved
from pipelines.evaluation.code_classifier import code_classifiers, targets
from pipelines.evaluation.image import FEATURES as FEATURES
from pipelines.evaluation.image import draw_rows as draw_rows
from pipelines.evaluation.image import features as features
from pipelines.evaluation.measured import Measured, Subject, shared_batches
from pipelines.files.errors import InputError
from pipelines.generation.decoding import climb, decode, descend
from pipelines.media.images import image_rows, write_image
from pipelines.runs.store import Run, TrainedStage, load_stage1
from pipelines.splits.noise import generator
from pipelines.splits.order import spread

SHOWN = 8  # items in the figure
DECODINGS = 4  # of the same codes
TITLES = {"own": "nats per frame: own codes", "shuffled": "nats per frame: shuffled codes",
          "unconditional": "nats per frame: unconditional decoder"}
SAVED = {"own_against_shuffled": "nats saved: own against shuffled codes",
         "own_against_unconditional": "nats saved: own codes against unconditional",
         "unconditional_against_shuffled": "nats saved: unconditional against shuffled"}


def check(subject: Subject) -> None:
    """Raises InputError for a run evaluate.unconditional that this run cannot be compared with."""
    if subject.options.unconditional is not None:
        load_unconditional(subject)


def figures(measured: Measured, subject: Subject, shared: dict) -> dict:
    """How many nats the codes save, and classifiers of them. Pixel errors are no measure of a decoder that samples."""
    model, data = subject.loaded.stage1.module, subject.data
    train = torch.cat(list(shared_batches(
        data.split("train").to(subject.device), subject.options.batch_size, "training codes",
        lambda _, batch: model.encode(batch.x).flatten(1).cpu())))
    found = code_classifiers(train, measured.codes.flatten(1), model.bottleneck.num_codes,
                             targets(data, subject.split_name), subject.device)
    return {"frame_nats": frame_nats(measured, subject), "classifiers": found}


def frame_nats(measured: Measured, subject: Subject) -> dict:
    """-log p(data of an item) in nats: conditioned on its own codes, on another item's codes, and by the unconditional
    decoder of the run evaluate.unconditional. Differences are paired, each with its standard error; items count as
    independent, which neighbouring frames of a walk are not quite.

    m codes of K classes save at most m log K nats for a decoder that models everything. More can be saved where the
    unconditional decoder sees too little context, or was trained too short, to infer at every position what they
    say."""
    own, others = measured.nll_nats, measured.others_nats
    found = {"own": float(own.mean()), "shuffled": None, "unconditional": None}
    if others is not None:
        found |= {"shuffled": float(others.mean()), "own_against_shuffled": saved(others, own)}
    if subject.options.unconditional is not None:
        unconditional = unconditional_nats(subject)
        found |= {"unconditional": float(unconditional.mean()), "own_against_unconditional": saved(unconditional, own)}
        if others is not None:
            found["unconditional_against_shuffled"] = saved(others, unconditional)
    return found


@torch.no_grad()
def unconditional_nats(subject: Subject) -> Tensor:
    """-log p of each item (n,) under the unconditional decoder."""
    model = load_unconditional(subject).module
    return torch.cat(list(shared_batches(subject.split, subject.options.batch_size, "unconditional",
                                         lambda _, batch: model.evaluate(batch.x).nll_nats.cpu())))


def load_unconditional(subject: Subject) -> TrainedStage:
    """The stage 1 of the run evaluate.unconditional, whose codebooks have one code each.

    Raises InputError where that run's decoder is conditioned on more than one code, was trained on other codes, or has
    another size."""
    run, stage1 = Run(Path(subject.options.unconditional)), subject.loaded.stage1
    other = load_stage1(run, subject.device)
    if other.example.facts.get("parent") != stage1.example.facts["parent"]:
        raise InputError(f"evaluate.unconditional: expected a run on the same codes, found {run.root} on others")
    if (levels := getattr(other.module.bottleneck, "num_codes", None)) != 1:
        raise InputError("evaluate.unconditional: expected a run with autoencoder.bottleneck.num_codes=1, found "
                         f"{run.root} with {levels}")
    sizes = [sum(parameter.numel() for parameter in stage.module.decoder.parameters()) for stage in (stage1, other)]
    if sizes[0] != sizes[1]:
        raise InputError(f"evaluate.unconditional: expected a decoder of {sizes[0]} parameters, found {run.root} with "
                         f"{sizes[1]}")
    return other


def rows(result: dict) -> list[tuple[str, float | None, str]]:
    """Of the printed table: name, figure, format."""
    nats = result["frame_nats"]
    table = [(title, nats[name], ".2f") for name, title in TITLES.items()]
    for name, title in SAVED.items():
        if name in nats:
            table += [(title, nats[name]["nats_saved"], ".2f"),
                      ("  standard error", nats[name]["standard_error"], ".2f")]
    for name, found in result["classifiers"].items():
        table += [(f"{name} accuracy from the codes", found["accuracy"], ".1%"),
                  (f"{name} accuracy: commonest class", found["guess"], ".1%")]
    return table


def draw(measured: Measured, subject: Subject, result: dict) -> dict[str, Path]:
    """Some items of the split as pixels, at every level."""
    figures, pixels = subject.run.figures, subject.data
    for _ in subject.loaded.parents:
        pixels = pixels.parent_data
    originals = pixels.split(subject.split_name).batch(spread(SHOWN, len(subject.split))).x
    made = levels(originals, subject.loaded.stage1, subject.loaded.parents, subject.seed)
    write_image(figures / "levels.png", image_rows(made))
    return {"originals and every level": figures / "levels.png"}


@torch.inference_mode()
def levels(originals: Tensor, stage1: TrainedStage, parents: Sequence[TrainedStage], seed: int) -> dict[str, Tensor]:
    """Images uint8 (n, c, h, w) -> named rows of them: originals, decodings of each parent's codes, and `DECODINGS`
    samples of the decoder given the run's codes, whose differences are what the codes leave open."""
    device = next(stage1.module.parameters()).device
    own, made = [generator(seed, number) for number in range(len(originals))], {"original": originals}
    for first in range(len(parents) - 1, -1, -1):
        used = parents[first:]
        x = climb(used, originals.to(device))
        made[f"{x[0].numel()} codes"] = descend(used, x, own)
    codes = stage1.module.encode(x)
    for number in range(1, DECODINGS + 1):
        drawn = decode(stage1, codes, None, None, own)
        made[f"{codes[0].numel()} codes, {number}"] = descend(parents, drawn.to(device), own)
    return made
