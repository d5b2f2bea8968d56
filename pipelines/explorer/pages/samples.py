"""Samples: drawn while one watches, each with its likelihood and the nearest training item."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pipelines.api import SampledItems, TrainedRun
from pipelines.explorer.items import flat, layout, real_data, shown
from pipelines.explorer.page import Arguments, Context, Page, call
from pipelines.explorer.training import training_codes, training_item
from pipelines.files.errors import InputError
from pipelines.generation.actions import local_actions, wanted_actions
from pipelines.generation.labels import class_number, classes_of
from pipelines.generation.scores import prior_bits

MOST = 64  # samples of one call
LARGEST_SEED = 2**53 - 1  # what JavaScript holds exactly


class Samples(Page):
    name, title, place = "samples", "Samples", 20

    def why_not(self, run: TrainedRun) -> str | None:
        if run.stage2 is None and not run.stage1.bottleneck.prior_draws:
            return "this run has no prior to sample from: make stage2 trains one"
        return None

    @call
    def about(self, context: Context, arguments: Arguments) -> dict[str, Any]:
        """What the form offers."""
        return layout(context) | {"most": MOST, "seconds": context.kind.name == "audio"}

    @call
    def draw(self, context: Context, arguments: Arguments) -> Iterator[dict[str, Any]]:
        """The codes so far, whenever there are more of them; then the samples; then, one by one, their nearest
        training items."""
        n = arguments.integer("n", 1, MOST, 8)
        labels = arguments.named_texts("labels")
        options = {name: own for name, own in (
            ("temperature", arguments.number("temperature", 0, 100, 1.0)),
            ("top_k", arguments.integer("top_k", 1, 2**31) if arguments.has("top_k") else None),
            ("top_p", arguments.number("top_p", 0, 1) if arguments.has("top_p") else None),
            ("seconds", arguments.number("seconds", 0, 3600) if arguments.has("seconds") else None),
            ("actions", arguments.text("actions") if arguments.has("actions") else None)) if own is not None}
        seed = arguments.integer("seed", 0, LARGEST_SEED, 0)
        made: Tensor | SampledItems | None = None
        for made in context.run.sample_steps(n, seed=seed, labels=labels, **options):
            if isinstance(made, Tensor):
                yield {"codes": [flat(own) for own in made.cpu()]}
        assert isinstance(made, SampledItems)
        lengths = made.lengths
        bits = self._bits(context, made, options.get("actions"))
        yield {"samples": [
            shown(context, x, None if lengths is None else int(lengths[number])) | {
                "codes": None if made.codes is None else flat(made.codes[number]),
                "labels": {name: own[number] for name, own in made.labels.items()},
                "bits": bits[number] if isinstance(bits, list) else None,
                "why_no_bits": bits if isinstance(bits, str) else None}
            for number, x in enumerate(made.x)]}
        yield from self._nearest(context, made)

    @staticmethod
    def _bits(context: Context, made: SampledItems, actions: Any) -> list[float] | str:
        """-log2 of the prior's probability of each sample's codes, given its labels; or why they are not known."""
        if made.codes is None:
            return "latents without codes"
        loaded = context.loaded
        local = None
        if names := loaded.stage1.example.facts.get("action_names", ()):
            if actions is None:
                return "actions drawn from training clips"
            local = local_actions(wanted_actions(actions, names, loaded.stage2.codes.shape[1])[None], len(names),
                                  loaded.stage1.grid[0]).expand(len(made), -1, -1, -1, -1)
        given = {name: torch.tensor([class_number(name, own, classes_of(loaded.stage1.example, name)) for own in rows])
                 for name, rows in made.labels.items() if name in loaded.stage2.condition_on}
        found = prior_bits(loaded, made.codes.to(loaded.device), positions_of(context, made.lengths), given, local)
        return found.flatten(1).sum(1).tolist()

    @staticmethod
    def _nearest(context: Context, made: SampledItems) -> Iterator[dict[str, Any]]:
        if made.codes is None:
            return
        try:
            training = training_codes(context)
        except InputError as error:
            yield {"no_nearest": str(error)}
            return
        real_data(context)  # the items are decoded ones while they are being read
        places, shares = training.nearest(made.codes, positions_of(context, made.lengths))
        for number, (place, share) in enumerate(zip(places.tolist(), shares.tolist(), strict=True)):
            yield {"nearest": number, "differ": share, "of": training.words} | training_item(context, place)


def positions_of(context: Context, lengths: Tensor | None) -> Tensor | None:
    """Lengths of waves -> of their codes."""
    if lengths is None:
        return None
    hop = context.loaded.stage1.example.shape[-1] // math.prod(context.run.grid)
    return -(-lengths // hop)


