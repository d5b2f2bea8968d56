"""What `evaluate.py` measures of a run on the codes of another one: whether its few codes matter to a decoder that
could do without them, what they know, and what they look like.

Axes: n items, c channels, g codebooks, m codes of an item.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipelines.evaluation.bounds import gain
from pipelines.evaluation.code_classifier import knowledge, targets
from pipelines.evaluation.measured import Measured, Subject, batches, spread
from pipelines.files.errors import InputError
from pipelines.generation.decoding import climb, decode, descend
from pipelines.media.images import image_rows, write_image
from pipelines.runs.store import Run, TrainedStage, load_parents, load_stage1
from pipelines.splits.noise import generator

SHOWN = 8  # items in the picture
DECODINGS = 4  # of the same codes


def check(subject: Subject) -> None:
    """Raises InputError for a run evaluate.unconditional that cannot be compared with."""
    if subject.options.unconditional is not None:
        load_untold(subject)


def figures(measured: Measured, subject: Subject, shared: dict) -> dict:
    """What the codes are worth and what they know. Errors of pixels say nothing of a decoder that draws, nor of codes."""
    model, data = subject.stage1.module, subject.data
    training = batches(data.split("train").to(subject.device), subject.options.batch_size, "training codes")
    train = torch.cat([model.encode(batch.x).flatten(1).cpu() for _, batch in training])
    known = knowledge(train, measured.codes.flatten(1), model.bottleneck.num_codes, targets(data, subject.split_name),
                      subject.device)
    return {"frame_nats": frame_nats(measured, subject), "probe": known}


def frame_nats(measured: Measured, subject: Subject) -> dict:
    """-log p(data of an item) in nats: told its own codes, another item's, and of the decoder of the run
    evaluate.unconditional, which is told nothing. Gains are of paired differences, each with its standard error; items
    count as independent of each other, which neighbours in a walk are not quite.

    m codes of K tell a decoder that models all there is m log K nats at most. More is gained where the other one sees
    too little, or has learned too short, to find out for itself what they say: at every position anew."""
    own, others = measured.nll_nats, measured.others_nats
    found = {"own": float(own.mean()), "others": None, "unconditional": None}
    if others is not None:
        found |= {"others": float(others.mean()), "own_over_others": gain(others, own)}
    if subject.options.unconditional is not None:
        told_nothing = unconditional_nats(subject)
        found |= {"unconditional": float(told_nothing.mean()), "own_over_unconditional": gain(told_nothing, own)}
        if others is not None:
            found["unconditional_over_others"] = gain(others, told_nothing)
    return found


@torch.no_grad()
def unconditional_nats(subject: Subject) -> Tensor:
    """-log p of each item (n,) under the decoder that is told nothing."""
    model = load_untold(subject).module
    return torch.cat([model.evaluate(batch.x).nll_nats.cpu()
                      for _, batch in batches(subject.split, subject.options.batch_size, "unconditional")])


def load_untold(subject: Subject) -> TrainedStage:
    """The stage 1 of the run evaluate.unconditional, whose codebooks have one code each.

    Raises InputError where that run is told something, was trained on other codes, or has a decoder of another size."""
    run, stage1 = Run(Path(subject.options.unconditional)), subject.stage1
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
    nats, table = result["frame_nats"], []
    for name, title in (("own", "nats: own codes"), ("others", "nats: another's codes"),
                        ("unconditional", "nats: told nothing")):
        table.append((title, nats[name], ".2f"))
    for name, title in (("own_over_others", "own over another's"), ("own_over_unconditional", "own over nothing"),
                        ("unconditional_over_others", "nothing over another's")):
        if name in nats:
            table += [(f"nats gained: {title}", nats[name]["nats_gained"], ".2f"),
                      ("  its standard error", nats[name]["standard_error"], ".2f")]
    for name, known in result["probe"].items():
        table += [(f"{name} read from the codes", known["accuracy"], ".1%"),
                  (f"{name}: always the commonest", known["guess"], ".1%")]
    return table


def draw(measured: Measured, subject: Subject, result: dict) -> dict[str, Path]:
    """Some items of the split as pixels, at every level."""
    figures, pixels = subject.run.figures, subject.data
    figures.mkdir(parents=True, exist_ok=True)
    while pixels.kind == "codes":
        pixels = pixels.parent_data
    originals = pixels.split(subject.split_name).batch(spread(SHOWN, len(subject.split))).x
    parents = load_parents(subject.run, subject.stage1, subject.device, subject.data.parent)
    made = levels(originals, subject.stage1, parents, subject.seed)
    write_image(figures / "levels.png", image_rows(made))
    return {"originals and every level": figures / "levels.png"}


@torch.inference_mode()
def levels(originals: Tensor, stage1: TrainedStage, parents: Sequence[TrainedStage], seed: int) -> dict[str, Tensor]:
    """Pictures uint8 (n, c, h, w) -> the same, named: themselves, from the codes of each parent, and `DECODINGS` times
    from the codes of the run: what differs between these the codes leave open."""
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
