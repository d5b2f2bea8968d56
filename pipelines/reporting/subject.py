"""What the sections of a report ask of a run: figures, data, held-out items, samples, codes. Each is found when it is
first asked for; what cannot be had raises `LeftOut`, which says why."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.data.codes import CodeData
from pipelines.data.manifest import MANIFEST
from pipelines.files.errors import InputError
from pipelines.generation.samples import Sampler, Samples
from pipelines.kinds.base import Kind, Medium
from pipelines.reporting.html import Html, data_url, picture, tag
from pipelines.runs.chain import LoadedRun
from pipelines.runs.data import load_data
from pipelines.runs.figures import read_figures
from pipelines.runs.store import Run, check_same_stage1
from pipelines.splits.base import Batch, Data
from pipelines.splits.order import spread
from stage1_vqvae.bottlenecks.base import Quantizer

ITEM_BYTES = 850_000  # of the media of one section: a page of four such sections stays below 5 MB in base64
LEAST_WIDTH = 84  # CSS pixels of a picture: smaller ones are enlarged by whole factors


class LeftOut(Exception):
    """Something that cannot be shown, and why, in words."""


@dataclass(frozen=True)
class Reported:
    """A run that is reported on."""

    loaded: LoadedRun
    kind: Kind
    data_root: Path | None = None
    count: int = 16  # samples, and items beside their reconstructions
    seed: int = 0
    batch_size: int = 64
    _kept: dict[str, Any] = field(default_factory=dict)

    @property
    def run(self) -> Run:
        return self.loaded.run

    @property
    def quantizer(self) -> Quantizer:
        """Raises LeftOut for latents that are no codes."""
        bottleneck = self.loaded.stage1.module.bottleneck
        if not isinstance(bottleneck, Quantizer):
            raise LeftOut(f"the latents of {type(bottleneck).__name__} are not codes")
        return bottleneck

    @cached_property
    def figures(self) -> dict[str, Any] | None:
        """metrics.json; None for a run that was not evaluated."""
        return read_figures(self.run) if (self.run.root / "metrics.json").exists() else None

    @property
    def data(self) -> Data:
        """The data set that the run was trained on. Raises LeftOut where it is not at hand, and InputError where it is
        not in the folder that was named."""
        if "data" not in self._kept:
            try:
                self._kept["data"] = load_data(self.run, self.loaded.stage1, self.data_root)
            except InputError as error:
                if self.data_root is not None:
                    raise
                why = str(error).partition(";")[0]
                self._kept["data"] = LeftOut(f"the run's data are not at hand; --data-root FOLDER names them ({why})")
        if isinstance(self._kept["data"], LeftOut):
            raise self._kept["data"]
        return self._kept["data"]

    @cached_property
    def shown_data(self) -> Data:
        """The data that a reader sees: of a run on codes the images below."""
        data = self.data
        for _ in self.loaded.parents:
            data = data.parent_data
        return data

    @property
    def held_out(self) -> str:
        return "test" if "test" in self.data.splits else "validation"

    def held_out_items(self, count: int) -> Batch:
        """Evenly spaced held-out items, as a reader sees them, on the CPU."""
        split = self.shown_data.split(self.held_out)
        return split.batch(spread(count, len(split)))

    def as_read(self, batch: Batch) -> Tensor:
        """The same items as stage 1 reads them: of a run on codes, the codes of the runs below."""
        return self.kind.read(self.loaded, batch.x).x if self.loaded.parents else batch.x

    @property
    def codes(self) -> CodeData | None:
        """The extracted codes of this stage 1; None where there are none, as in a published run."""
        if "codes" not in self._kept:
            found = CodeData(self.run.codes) if (self.run.codes / MANIFEST).exists() else None
            if found is not None:
                check_same_stage1(found.stage1_hash, self.loaded.stage1, self.run.codes)
            self._kept["codes"] = found
        return self._kept["codes"]

    @property
    def samples(self) -> Samples:
        """The first samples of the run. Raises LeftOut where there is nothing to sample from."""
        if "samples" not in self._kept:
            try:
                options = {} if self.loaded.stage2 is None else self.kind.sampler_options(self.loaded)
                self._kept["samples"] = Sampler(self.loaded, self.seed, self.batch_size, **options).draw(self.count)
            except InputError as error:
                self._kept["samples"] = LeftOut(str(error))
        if isinstance(self._kept["samples"], LeftOut):
            raise self._kept["samples"]
        return self._kept["samples"]

    def media(self, x: Tensor, length: int | None = None) -> list[Medium]:
        """One item as files. Raises LeftOut for a kind of data that a page does not show."""
        if type(self.kind).media is Kind.media:
            raise LeftOut(f"a page does not show items of the kind {self.kind.name}")
        return self.kind.media(x if length is None else x[..., :length], self.loaded.stage1.example)


def items_of(x: Tensor, lengths: Tensor | None) -> list[tuple[Tensor, int | None]]:
    """Each item of (n, *shape) with its length."""
    return list(zip(x.cpu(), [None] * len(x) if lengths is None else lengths.tolist(), strict=True))


def within_budget(groups: Sequence[list[Medium]], share: float = 1.0) -> int:
    """How many of the groups of media, one after another, a section may show; one at least."""
    total = 0
    for number, group in enumerate(groups):
        total += sum(len(medium.content) for medium in group)
        if total > share * ITEM_BYTES:
            return max(number, 1)
    return len(groups)


def shown(media: Sequence[Medium], words: str, caption: Any = None) -> Html:
    """An item: its pictures and sounds, and a caption. words: what it is, for those who do not see it."""
    parts = []
    for medium in media:
        if medium.mime.startswith("audio"):
            parts.append(tag("audio", src=data_url(medium.mime, medium.content), controls=True, preload="metadata",
                             aria_label=words))
        else:
            factor = max(1, math.ceil(LEAST_WIDTH / medium.width))
            parts.append(picture(medium.mime, medium.content, words, factor * medium.width, pixelated=factor > 1))
    return tag("figure", parts, tag("figcaption", caption) if caption is not None else None)


def not_all(count: int, total: int) -> str:
    """The end of a sentence on what is shown, where the page has no room for all."""
    return "" if count == total else f" The first {count} of {total} are shown, so that the page stays below 5 MB."


def classes_in_words(names: Sequence[str], classes: Sequence[Sequence[str]], row: Sequence[int]) -> str:
    """"digit 7, speaker theo" of one item."""
    return ", ".join(f"{name} {own[number]}" for name, own, number in zip(names, classes, row, strict=True))


def first_items(reported: Reported, x: Tensor, lengths: Tensor | None) -> list[list[Medium]]:
    """The media of each item."""
    return [reported.media(item, length) for item, length in items_of(x, lengths)]


def kept_picture(path: Path, words: str) -> Html | None:
    """A picture that another command wrote into the run; None where there is none."""
    if not path.is_file() or path.stat().st_size > ITEM_BYTES:
        return None
    return tag("figure", picture("image/png", path.read_bytes(), words))


@torch.no_grad()
def encoded(reported: Reported, x: Tensor) -> Tensor:
    """Items as stage 1 reads them -> codes (n, *grid[, g]), on the CPU."""
    model, device = reported.loaded.stage1.module, reported.loaded.device
    return torch.cat([model.encode(part.to(device)).cpu() for part in x.split(reported.batch_size)])
