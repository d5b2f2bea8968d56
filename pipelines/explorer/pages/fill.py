"""A hidden part of an item, filled in several ways, the likeliest first."""

from typing import Any

import torch
from torch import Tensor

from pipelines.api import TrainedRun
from pipelines.explorer.items import Given, clip, given_item, layout, shown
from pipelines.explorer.page import Arguments, Context, Page, call, png
from pipelines.files.errors import InputError
from pipelines.kinds import kind_of
from stage1_vqvae.bottlenecks.base import Quantizer

MOST, MOST_PARTICLES = 16, 512  # of one call
COLUMNS = 256  # of a mask over a sound
LARGEST_SEED = 2**53 - 1


class Fill(Page):
    name, title, place = "fill", "Fill", 30

    def why_not(self, run: TrainedRun) -> str | None:
        if not kind_of(run.kind).completes:
            return f"a part of an item on {run.kind} cannot be filled"
        if run._loaded.stage1.example.imported and len(run.grid) != 2:
            return "here only imported codes on a grid (h, w) are painted on; sample.py --complete --mask fills others"
        if run.stage2 is None or not isinstance(run.stage1.bottleneck, Quantizer):
            return "this run has no prior of codes that could fill a part: make extract-codes stage2"
        return None

    @call
    def about(self, context: Context, arguments: Arguments) -> dict[str, Any]:
        frames = context.run.shape[1] if context.kind.name == "video" else None
        return layout(context) | {"most": MOST, "frames": frames}

    @call
    def item(self, context: Context, arguments: Arguments) -> dict[str, Any]:
        """An item to paint on."""
        return self._opened(context, given_item(context, arguments))

    @call
    def sample(self, context: Context, arguments: Arguments) -> dict[str, Any]:
        """A sample of the prior, for who has no file at hand."""
        seed, actions = arguments.integer("seed", 0, LARGEST_SEED, 0), arguments.text("actions", "") or None
        made = context.run.sample(1, seed=seed, labels=arguments.named_texts("labels"),
                                  **({"actions": actions} if actions else {}))
        length = None if made.lengths is None else int(made.lengths[0])
        labels = {name: rows[0] for name, rows in made.labels.items()}
        return self._opened(context, Given(made.x, length, labels, f"sample of seed {seed}"))

    @call
    def fill(self, context: Context, arguments: Arguments) -> list[dict[str, Any]]:
        """Candidates, the likeliest first, with bits of their codes and labels."""
        given = context.session.get("fill")
        if given is None:
            raise InputError("item: expected one that was opened in this tab, found none: choose it again")
        actions = arguments.text("actions", "") or None
        x = given.x[0, ..., : given.length]
        made = context.run.sample(
            arguments.integer("n", 1, MOST, 6), seed=arguments.integer("seed", 0, LARGEST_SEED, 0),
            temperature=arguments.number("temperature", 0, 100, 1.0), labels=arguments.named_texts("labels"),
            complete=x, mask=self._mask(context, x, arguments), **({"actions": actions} if actions else {}),
            particles=arguments.integer("particles", 1, MOST_PARTICLES, 32))
        return [shown(context, made.x[number], given.length) | {
            "bits": float(made.bits[number]), "effective": float(made.effective[number]),
            "labels": {name: rows[number] for name, rows in made.labels.items()}} for number in made.ranking]

    @staticmethod
    def _opened(context: Context, given: Given) -> dict[str, Any]:
        context.session["fill"] = given
        x = given.x[0, ..., : given.length]
        size = (1, COLUMNS) if context.kind.name == "audio" else x.shape[-2:]
        still = {"image": png(x[:, 0]), "clip": clip(x)} if context.kind.name == "video" else shown(context, x)
        return still | {"rows": size[0], "columns": size[1], "labels": given.labels, "words": given.words}

    @staticmethod
    def _mask(context: Context, x: Tensor, arguments: Arguments) -> Tensor:
        """What the user painted, flat 0 and 1, as booleans of the item's size: of a sound in columns, of a clip in the
        frames from "first" up to "last"."""
        size = (1, COLUMNS) if context.kind.name == "audio" else tuple(x.shape[-2:])
        painted = torch.tensor(arguments.integers("mask", 0, 1), dtype=torch.bool)
        if len(painted) != size[0] * size[1]:
            raise InputError(f"mask: expected {size[0]} x {size[1]} values, found {len(painted)}")
        painted = painted.view(size)
        if context.kind.name == "audio":
            return painted[0, torch.arange(x.shape[-1]) * COLUMNS // x.shape[-1]]
        if context.kind.name == "video":
            frames = x.shape[1]
            first = arguments.integer("first", 0, frames - 1, 0)
            last = arguments.integer("last", first, frames - 1, frames - 1)
            times = torch.arange(frames)
            return painted & ((times >= first) & (times <= last))[:, None, None]
        return painted
