"""Codes of one item: where they lie, what each costs and stands for, where else it occurs, what another would change.

Axes: n items, *grid positions, g codebooks, t codes of an item in raster order (codebooks included).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipelines.api import TrainedRun
from pipelines.explorer.items import difference, flat, given_item, laid_out, layout, real_data, sample_rate_hz
from pipelines.explorer.page import Arguments, Context, Page, call
from pipelines.explorer.training import TrainingCodes, training_codes, training_item
from pipelines.files.errors import InputError
from pipelines.generation.labels import class_number, classes_of
from pipelines.generation.scores import prior_bits
from pipelines.splits.order import spread
from stage1_vqvae.autoregressive import AutoregressiveDecoder
from stage1_vqvae.bottlenecks.base import Quantizer

NEAR, OCCURRENCES = 8, 8  # codes and training items that are shown
ALONE = 8  # positions of a sequence that a code alone is decoded for: a short sound
LARGEST_SEED = 2**53 - 1


@dataclass
class Looked:
    """The item that a tab looks at."""

    length: int | None  # of its first axis, where items are padded
    original: Tensor  # (*grid[, g]) int64, without padding
    codes: Tensor  # the same, with what the user changed
    made: Tensor  # decoded from `original`, as `run.decode` gives it
    labels: dict[str, str]  # that the user or the data gave
    actions: str | None


class Codes(Page):
    name, title, place = "codes", "Codes", 10

    def why_not(self, run: TrainedRun) -> str | None:
        if run._loaded.stage1.example.imported:
            return "the codes of this run were imported: it has no stage 1 that could say what they stand for"
        if not isinstance(run.stage1.bottleneck, Quantizer):
            return f"the latents of this run are no codes: {type(run.stage1.bottleneck).__name__}"
        return None

    @call
    def about(self, context: Context, arguments: Arguments) -> dict[str, Any]:
        """What the form offers. Labels that the decoder is conditioned on have to be given."""
        hop = self._hop(context) / sample_rate_hz(context) if context.kind.name == "audio" else None
        return layout(context) | {"hop_seconds": hop, "prior": context.loaded.stage2 is not None}

    @call
    def item(self, context: Context, arguments: Arguments) -> dict[str, Any]:
        """An uploaded item, or a held-out one with its own labels."""
        given = given_item(context, arguments)
        actions = arguments.text("actions", "") or None
        with torch.no_grad():
            codes = context.run.stage1.encode(given.x.to(context.loaded.device))[0].cpu()
        codes = codes if given.length is None else codes[: -(-given.length // self._hop(context))]
        made = self._decode(context, codes, given.labels, given.length)
        looked = Looked(given.length, codes, codes.clone(), made, given.labels, actions)
        context.session["codes"] = looked
        original = self._pixels(context, given.x)[..., : given.length]
        return self._codes(context, looked) | {
            "item": laid_out(context, original, given.length), "made": laid_out(context, made, given.length),
            "error": difference(context, original, made, given.length), "labels": given.labels, "words": given.words}

    @call
    def sample(self, context: Context, arguments: Arguments) -> dict[str, Any]:
        """A sample of the prior, for who has no file at hand."""
        seed = arguments.integer("seed", 0, LARGEST_SEED, 0)
        labels, actions = arguments.named_texts("labels"), arguments.text("actions", "") or None
        made = context.run.sample(1, seed=seed, labels=labels, **({"actions": actions} if actions else {}))
        own = {name: rows[0] for name, rows in made.labels.items()}
        length = None if made.lengths is None else int(made.lengths[0])
        codes = made.codes[0] if length is None else made.codes[0, : -(-length // self._hop(context))]
        looked = Looked(length, codes, codes.clone(), made.x[0, ..., :length], own, actions)
        context.session["codes"] = looked
        return self._codes(context, looked) | {"made": laid_out(context, looked.made, length), "labels": own,
                                               "words": f"sample of seed {seed}"}

    @call
    def click(self, context: Context, arguments: Arguments) -> dict[str, Any]:
        """The code of a position, and those that lie nearest to it, each decoded alone: among codes that are all the
        commonest of the item; of a sequence, in a row."""
        looked = self._looked(context)
        position, book = self._place(context, looked, arguments)
        row = self._rows(context, looked.codes)[position]
        codes, distances = self._near(context, row, book)
        images: list[Any] = [None] * len(codes)
        if context.kind.name != "video" and not isinstance(context.run.stage1.decoder, AutoregressiveDecoder):
            rows = row.repeat(len(codes), 1)
            rows[:, book] = codes
            images = [laid_out(context, x) for x in self._decoded_alone(context, looked, rows, position)]
        else:
            images[0] = laid_out(context, self._decoded_alone(context, looked, row[None], position)[0])
        return {"code": int(row[book]), "alone": images[0],
                "near": [{"code": int(code), "distance": float(distance)} | (image or {}) for code, distance, image in
                         zip(codes[1:], distances[1:], images[1:], strict=True)]}

    @call
    def where(self, context: Context, arguments: Arguments) -> dict[str, Any]:
        """Training items in which a code occurs, and how often it does in all."""
        book = arguments.integer("book", 0, self._books(context) - 1, 0)
        code = arguments.integer("code", 0, context.run.num_codes - 1)
        try:
            training = training_codes(context)
        except InputError as error:
            return {"why": str(error)}
        real_data(context)  # the examples are decoded ones while they are being read
        at = self._column(context, training, book) == code
        places = at.any(1).nonzero().flatten()
        count, real = int(at.sum()), int((self._column(context, training, book) >= 0).sum())
        chosen = places[spread(min(OCCURRENCES, len(places)), len(places))] if len(places) else places
        return {"of": training.words, "items": len(places), "share": count / real,
                "examples": [training_item(context, int(place)) | {"positions": at[place].nonzero().flatten().tolist()}
                             for place in chosen]}

    @call
    def replace(self, context: Context, arguments: Arguments) -> dict[str, Any]:
        """Another code at a position: decoded again, beside what it was before, with the bits of both."""
        looked = self._looked(context)
        position, book = self._place(context, looked, arguments)
        rows = self._rows(context, looked.codes).clone()
        rows[position, book] = arguments.integer("code", 0, context.run.num_codes - 1)
        return self._change(context, looked, rows.reshape(looked.codes.shape))

    @call
    def reset(self, context: Context, arguments: Arguments) -> dict[str, Any]:
        """The item's own codes again."""
        looked = self._looked(context)
        return self._change(context, looked, looked.original.clone())

    def _change(self, context: Context, looked: Looked, codes: Tensor) -> dict[str, Any]:
        before = self._bits(context, looked, looked.original)
        looked.codes = codes
        made = self._decode(context, codes, looked.labels, looked.length)
        return self._codes(context, looked) | {
            "before_bits": None if isinstance(before, str) else float(before.sum()),
            "made": laid_out(context, made, looked.length),
            "changed": int((codes != looked.original).sum()),
            "difference": difference(context, looked.made, made, looked.length)}

    def _codes(self, context: Context, looked: Looked) -> dict[str, Any]:
        """The codes, and the bits of each position."""
        bits = self._bits(context, looked, looked.codes)
        known = not isinstance(bits, str)
        return {"codes": flat(looked.codes), "grid": list(looked.codes.shape[: len(context.run.grid)]),
                "bits": bits.flatten().tolist() if known else None, "why_no_bits": None if known else bits}

    def _bits(self, context: Context, looked: Looked, codes: Tensor) -> Tensor | str:
        """Bits of each position (*grid) by the prior, given the labels that are known; or why there are none."""
        loaded = context.loaded
        if loaded.stage2 is None:
            return "this run has no prior"
        if loaded.stage1.example.facts.get("action_names") and looked.actions is None:
            return "the prior is conditioned on actions: choose one"
        local = context.kind.local(loaded, looked.actions, 1)
        padding = [0, 0] * (codes.ndim - 1) + [0, context.run.grid[0] - len(codes)]
        whole = torch.nn.functional.pad(codes, padding)[None].to(loaded.device)
        positions = None if looked.length is None else torch.tensor([len(codes)])
        given = {name: torch.tensor([class_number(name, own, classes_of(loaded.stage1.example, name))])
                 for name, own in looked.labels.items() if name in loaded.stage2.condition_on}
        return prior_bits(loaded, whole, positions, given, local)[0, : len(codes)]

    def _decode(self, context: Context, codes: Tensor, labels: dict[str, str], length: int | None) -> Tensor:
        needed = {name: labels[name] for name in context.loaded.stage1.condition_on if name in labels}
        return context.run.decode(codes, **needed)[..., :length]

    def _decoded_alone(self, context: Context, looked: Looked, rows: Tensor, position: int) -> Tensor:
        """Codes (m, g) -> items (m, *shape), each with its codes at this position, and the commonest around it."""
        books = self._books(context)
        if looked.length is not None:
            codes = rows[:, None].expand(-1, min(ALONE, *context.run.grid), -1)
        else:
            common = self._rows(context, looked.original).mode(0).values
            codes = common.repeat(len(rows), math.prod(context.run.grid), 1)
            codes[:, position] = rows
            codes = codes.view(len(rows), *context.run.grid, books)
        return self._decode(context, codes if books > 1 else codes[..., 0], looked.labels, None)

    def _near(self, context: Context, row: Tensor, book: int) -> tuple[Tensor, Tensor]:
        """Of codes (g,) at a position -> codes for the codebook `book`, the nearest first, which is its own, and the
        distances of what the decoder reads."""
        bottleneck = context.run.stage1.bottleneck
        rows = row.repeat(context.run.num_codes, 1)
        rows[:, book] = torch.arange(context.run.num_codes)
        with torch.no_grad():
            grid = rows if self._books(context) > 1 else rows[:, 0]
            vectors = bottleneck.lookup(grid[None].to(context.loaded.device))[0].T.double().cpu()
        distances = (vectors - vectors[row[book]]).norm(dim=1)
        distances[row[book]] = -1  # first, even where two codes have one vector
        order = distances.argsort(stable=True)[: NEAR + 1]
        return order, distances[order].clamp(min=0)

    def _column(self, context: Context, training: TrainingCodes, book: int) -> Tensor:
        """Training codes (n, positions) of one codebook, -1 in padding where there is any."""
        return training.rows.view(len(training.rows), -1, self._books(context))[..., book]

    def _rows(self, context: Context, codes: Tensor) -> Tensor:
        """Codes (*grid[, g]) -> (positions, g)."""
        return codes.reshape(-1, self._books(context))

    def _place(self, context: Context, looked: Looked, arguments: Arguments) -> tuple[int, int]:
        books = self._books(context)
        return (arguments.integer("position", 0, looked.codes.numel() // books - 1),
                arguments.integer("book", 0, books - 1, 0))

    def _pixels(self, context: Context, x: Tensor) -> Tensor:
        """An item (1, *shape) as the run reads it -> as people look at it: of a run on codes through the decoders
        below."""
        from pipelines.generation.decoding import descend
        from pipelines.splits.noise import generator

        parents = context.loaded.parents
        return descend(parents, x.to(context.loaded.device), [generator(0, 0)])[0] if parents else x[0]

    @staticmethod
    def _looked(context: Context) -> Looked:
        if "codes" not in context.session:
            raise InputError("item: expected one that was opened in this tab, found none: choose it again")
        return context.session["codes"]

    @staticmethod
    def _books(context: Context) -> int:
        return context.run.stage1.bottleneck.num_codebooks

    @staticmethod
    def _hop(context: Context) -> int:
        return context.loaded.stage1.example.shape[-1] // math.prod(context.run.grid)
