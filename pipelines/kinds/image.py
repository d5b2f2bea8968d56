"""Images: uint8 (c, h, w), c = 1 grey or 3 RGB."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.files.errors import InputError
from pipelines.files.places import expanded
from pipelines.kinds.base import Items, Kind, Written

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from types import ModuleType

    from torch import Tensor, nn

    from pipelines.generation.samples import Samples
    from pipelines.generation.scores import Scores
    from pipelines.runs.chain import LoadedRun
    from pipelines.runs.example import Example
    from pipelines.splits.base import Batch
    from pipelines.training.log import RunLog

SHOWN = 64  # reconstructions in an overview


class Image(Kind):
    name = "image"
    sample_flags = ("complete", "keep")

    def show(self, model: nn.Module, batch: Batch, labels: Tensor | None, example: Example, log: RunLog,
             step: int) -> None:
        from pipelines.media.images import image_pairs

        made = reconstructions(model, batch, labels)
        log.image(step, "validation", image_pairs(batch.x.cpu(), made.cpu()))

    def add_sample_flags(self, parser: argparse._ArgumentGroup) -> None:
        parser.add_argument("--complete", type=expanded, metavar="IMAGE",
                            help="keep the upper rows of an image, sample the rest")
        parser.add_argument("--keep", type=float, metavar="FRACTION",
                            help="with --complete: the fraction of rows to keep (default: 0.5)")

    def sampler_options(self, loaded: LoadedRun, **flags: Any) -> dict[str, Any]:
        image, keep = flags.get("complete"), flags.get("keep")
        if image is None:
            if keep is not None:
                raise InputError("keep: expected an image to complete, found none")
            return {}
        keep = 0.5 if keep is None else keep
        if not isinstance(keep, int | float):
            raise InputError(f"keep: expected a fraction between 0 and 1, found {keep!r}")
        if not 0 <= keep <= 1:
            raise InputError(f"keep: expected a fraction between 0 and 1, found {keep}")
        x = self.read(loaded, image).x.to(next(loaded.stage1.module.parameters()).device)
        codes = loaded.stage1.module.encode(x)
        codes[:, round(keep * codes.shape[1]) :] = -1
        return {"known": codes}

    def write_samples(self, folder: Path, samples: Samples, example: Example) -> Path:
        from pipelines.media.images import image_grid, write_image

        for number, image in enumerate(samples.x):
            write_image(folder / f"{number:05d}.png", image)
        write_image(folder / "grid.png", image_grid(samples.x))
        return folder / "grid.png"

    def read(self, loaded: LoadedRun, x: Any) -> Items:
        return read_images(x, self.data_shape(loaded), value_range(loaded))

    def read_files(self, loaded: LoadedRun, source: Path) -> tuple[list[str], Items]:
        from pipelines.data.image_files import find_images, load_images

        paths, images = load_images(find_images(source), self.data_shape(loaded), value_range(loaded))
        return [path.stem for path in paths], self.read(loaded, images)

    def codec_bits(self, loaded: LoadedRun, x: Tensor, lengths: Tensor | None) -> Tensor | None:
        from pipelines.media.lossless import image_bits

        return image_bits(x)

    def draw_scores(self, loaded: LoadedRun, out: Path, names: list[str], captions: list[str], items: Items,
                    scores: Scores) -> Path:
        return draw_image_scores(out, names, captions, items.x, scores)

    def reconstruct(self, loaded: LoadedRun, source: Path, out: Path, labels: Mapping[str, str], seed: int,
                    batch_size: int) -> Written:
        from pipelines.media.images import image_pairs, write_image

        originals, made, figure = reconstruct_files(self, loaded, source, out, labels, seed, batch_size)
        write_image(out / "comparison.png", image_pairs(originals[:SHOWN], made[:SHOWN]))
        return Written(len(made), out / "comparison.png", figure)

    def plot_latents(self, loaded: LoadedRun, data_root: Path | None, out: Path, split: str | None, example: int,
                     seed: int, batch_size: int) -> dict[str, Path | str]:
        from pipelines.evaluation.latents import plot_latents
        from pipelines.runs.data import load_data

        data = load_data(loaded.run, loaded.stage1, data_root)
        return plot_latents(loaded.stage1, data, out, split, example, seed, batch_size)

    @property
    def evaluation(self) -> ModuleType:
        from pipelines.evaluation import image

        return image


def reconstructions(model: nn.Module, batch: Batch, labels: Tensor | None) -> Tensor:
    """Reconstructions of a batch; a decoder that draws its data takes the uniforms of the first generator."""
    import torch

    from pipelines.splits.noise import generator
    from stage1_vqvae.autoregressive import AutoregressiveDecoder

    uniforms = None
    if isinstance(model.decoder, AutoregressiveDecoder):
        drawn = generator(0, 0).random((len(batch.x), *batch.x.shape[2:]))
        uniforms = torch.from_numpy(drawn).to(batch.x.device)
    return model.evaluate(batch.x, labels, uniforms).reconstruction


def reconstruct_files(kind: Kind, loaded: LoadedRun, source: Path, out: Path, labels: Mapping[str, str], seed: int,
                      batch_size: int) -> tuple[Tensor, Tensor, str]:
    """Writes the reconstruction of each image file. Returns originals and reconstructions, uint8 (n, c, h, w), and
    their PSNR in words."""
    from pipelines.data.image_files import find_images, load_images
    from pipelines.generation.labels import decoder_labels
    from pipelines.generation.reconstruction import reconstruct
    from pipelines.media.images import write_image
    from pipelines.metrics.psnr import psnr_db
    from pipelines.metrics.squares import squared_errors

    paths, originals = load_images(find_images(source), kind.data_shape(loaded), value_range(loaded))
    given = decoder_labels(loaded.stage1, labels, len(paths))
    made = reconstruct(loaded, kind.read(loaded, originals).x, given, seed, batch_size)
    out.mkdir(parents=True, exist_ok=True)
    for number, (path, image) in enumerate(zip(paths, made, strict=True)):
        write_image(out / f"{number:05d}-{path.stem}.png", image)
    return originals, made, f"PSNR {psnr_db(squared_errors(made, originals)).mean():.2f} dB"


def draw_image_scores(out: Path, names: list[str], captions: list[str], images: Tensor, scores: Scores) -> Path:
    """Of each of images uint8 (n, c, h, w) a file: the image, the bits of its codes over it, and those of its pixels
    given the codes. An overview of the most and the least surprising ones."""
    import torch

    from pipelines.media.heat import caption_below, overlay, overview, scale
    from pipelines.media.images import image_grid, write_image

    maps = scores.code_map.reshape(len(images), -1, scores.code_map.shape[-1])
    tops = scale(maps), scale(scores.data_map)
    for number, (name, words) in enumerate(zip(names, captions, strict=True)):
        own = images[number : number + 1]
        panels = [own.expand(-1, 3, -1, -1), *(overlay(own, found[number : number + 1], top) for found, top in
                                               zip((maps, scores.data_map), tops, strict=True))]
        write_image(out / f"{number:05d}-{name}.png", caption_below(image_grid(torch.cat(panels), 3), words))
    overview(out / "overview.png", captions, images, maps, tops[0])
    return out / "overview.png"


def value_range(loaded: LoadedRun) -> tuple[float, float] | None:
    """The values of pixels with more than 8 bits that were 0 and 255 in training, of a run on codes its images'."""
    stage1 = loaded.parents[-1] if loaded.parents else loaded.stage1
    found = stage1.example.facts.get("range")
    return None if found is None else (found[0], found[1])


def read_images(x: Any, shape: tuple[int, ...], values: tuple[float, float] | None = None) -> Items:
    """Files, Pillow images, uint8 arrays and tensors, or lists of these -> uint8 (n, c, h, w).

    Files and Pillow images are cropped and resized to `shape` (c, h, w) as training images are, and their pixels of
    more than 8 bits reduced by `values` (pipelines/data/image_files.py). Tensors are (c, h, w);
    NumPy arrays (h, w, c), (h, w) or (c, h, w); both may have a batch axis in front.
    Raises InputError for another type, dtype or shape."""
    import torch
    from PIL import Image as Pillow

    from pipelines.data.image_files import find_images, fit_image, load_images

    channels, height, width = shape
    if isinstance(x, (list, tuple)):
        if not x:
            raise InputError("images: expected at least one, found an empty list")
        return Items(torch.cat([read_images(one, shape, values).x for one in x]), single=False)
    if isinstance(x, (str, Path)):
        path = Path(x)
        return Items(load_images(find_images(path), shape, values)[1], single=not path.is_dir())
    if isinstance(x, Pillow.Image):
        try:
            return Items(torch.from_numpy(fit_image(x, shape, values).copy())[None], single=True)
        except ValueError as error:
            raise InputError(f"images: expected an image that can be converted, found {error}") from None
    return read_pixels(x, shape, "images", "a path, a Pillow image")


def read_pixels(x: Any, shape: tuple[int, ...], noun: str, others: str) -> Items:
    """uint8 tensors and NumPy arrays of `shape` (c, *grid), arrays also with the channels last or, of one channel,
    without them; each with or without a batch axis. Raises InputError that names `noun` and what `others` are read."""
    import numpy as np
    import torch

    channels, *grid = shape
    if not isinstance(x, (np.ndarray, torch.Tensor)):
        raise InputError(f"{noun}: expected {others}, a NumPy array, a tensor or a list of these, found "
                         f"{type(x).__name__}")
    if str(x.dtype).removeprefix("torch.") != "uint8":
        raise InputError(f"{noun}: expected uint8 values from 0 to 255, found {x.dtype}")
    expected = f"shape {shape} or (n, {', '.join(map(str, shape))})"
    if isinstance(x, np.ndarray):
        expected += f", or channels last (..., {', '.join(map(str, [*grid, channels]))})"
        x, axes = torch.from_numpy(np.ascontiguousarray(x)), len(shape)
        if tuple(x.shape[-axes:]) != shape and tuple(x.shape[-axes:]) == (*grid, channels):
            x = x.movedim(-1, -axes)
        elif channels == 1 and tuple(x.shape[-len(grid) :]) == tuple(grid) and x.ndim <= axes and x.shape != shape:
            x = x.unsqueeze(-axes)
    if tuple(x.shape[-len(shape) :]) != shape or x.ndim not in (len(shape), len(shape) + 1) or not len(x):
        raise InputError(f"{noun}: expected {expected}, found shape {tuple(x.shape)}")
    single = x.ndim == len(shape)
    return Items(x[None] if single else x, single)
