"""Codes of another run: int64 (g, h, w). Files and samples are images, through the encoders and decoders of the runs
below."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.files.errors import InputError
from pipelines.kinds.base import Items, Kind, Medium, Written
from pipelines.kinds.image import Image, draw_image_scores, read_images, reconstruct_files, value_range

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from torch import Tensor, nn

    from pipelines.generation.samples import Samples
    from pipelines.generation.scores import Scores
    from pipelines.runs.chain import LoadedRun
    from pipelines.runs.example import Example
    from pipelines.splits.base import Batch
    from pipelines.training.log import RunLog


class Codes(Kind):
    name = "codes"

    def show(self, model: nn.Module, batch: Batch, labels: Tensor | None, example: Example, log: RunLog,
             step: int) -> None:
        """Nothing: codes are not an image, and training does not load the decoders below."""

    def write_samples(self, folder: Path, samples: Samples, example: Example) -> Path:
        return Image().write_samples(folder, samples, example)

    def data_shape(self, loaded: LoadedRun) -> tuple[int, ...]:
        return loaded.parents[-1].example.shape

    def read(self, loaded: LoadedRun, x: Any) -> Items:
        """Images, as a run on images reads them, or int64 codes (g, h, w) with or without a batch axis."""
        import torch

        from pipelines.generation.decoding import climb

        shape = loaded.stage1.example.shape
        if isinstance(x, torch.Tensor) and x.dtype == torch.int64:
            if tuple(x.shape[-3:]) != shape or x.ndim not in (3, 4) or not len(x):
                raise InputError(f"codes: expected shape {shape} or (n, {', '.join(map(str, shape))}), found "
                                 f"{tuple(x.shape)}")
            num_codes = loaded.stage1.module.likelihood.params_per_value
            if x.min() < 0 or x.max() >= num_codes:
                raise InputError(f"codes: expected values from 0 to {num_codes - 1}, found {x.min()} to {x.max()}")
            return Items(x if x.ndim == 4 else x[None], single=x.ndim == 3)
        images = read_images(x, self.data_shape(loaded), value_range(loaded))
        device = next(loaded.stage1.module.parameters()).device
        return Items(climb(loaded.parents, images.x.to(device)).cpu(), images.single)

    def find_files(self, loaded: LoadedRun, source: Path) -> list[Path]:
        return Image().find_files(loaded, source)

    def load_files(self, loaded: LoadedRun, paths: list[Path]) -> tuple[list[Path], Items]:
        from pipelines.data.image_files import load_images

        readable, images = load_images(paths, self.data_shape(loaded), value_range(loaded))
        return readable, self.read(loaded, images)

    def write_item(self, stem: Path, x: Tensor, example: Example, exact: bool) -> Path:
        return Image().write_item(stem, x, example, exact)

    def media(self, x: Tensor, example: Example) -> list[Medium]:
        """Of the image that the runs below make of an item."""
        return Image().media(x, example)

    def draw_scores(self, loaded: LoadedRun, out: Path, names: list[str], captions: list[str], items: Items,
                    scores: Scores) -> Path:
        """Over the images that the runs below make of these codes."""
        from pipelines.generation.decoding import descend
        from pipelines.splits.noise import generator

        own = [generator(0, number) for number in range(len(items.x))]
        images = descend(loaded.parents, items.x.to(loaded.device), own)
        return draw_image_scores(out, names, captions, images, scores)

    def reconstruct(self, loaded: LoadedRun, source: Path, out: Path, labels: Mapping[str, str], seed: int,
                    batch_size: int, whole: bool = False) -> Written:
        """The overview shows all levels, and several decodings of the same codes."""
        from pipelines.evaluation import codes
        from pipelines.media.images import image_rows, write_image

        originals, made, figure = reconstruct_files(self, loaded, source, out, labels, seed, batch_size)
        levels = codes.levels(originals[: codes.SHOWN], loaded.stage1, loaded.parents, seed)
        write_image(out / "comparison.png", image_rows(levels))
        return Written(len(made), out / "comparison.png", figure)

    @property
    def evaluation(self) -> ModuleType:
        from pipelines.evaluation import codes

        return codes
