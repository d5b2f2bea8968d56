"""Images: uint8 (c, h, w), c = 1 grey or 3 RGB."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.files.errors import InputError
from pipelines.kinds.base import Items, Kind, Medium, Written, write_ranking

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence
    from types import ModuleType

    from torch import Tensor, nn

    from pipelines.generation.filling import Gap
    from pipelines.generation.samples import Samples
    from pipelines.generation.scores import Scores
    from pipelines.runs.chain import LoadedRun
    from pipelines.runs.example import Example
    from pipelines.splits.base import Batch
    from pipelines.training.log import RunLog

SHOWN = 64  # reconstructions in an overview
SHOWN_WHOLE = 16  # in an overview of reconstructions of any size
MOST_WIDTH = 256  # pixels of the longer side on a page
HIDDEN = 128  # the grey level of a hidden part


class Image(Kind):
    name = "image"
    hub_task = "unconditional-image-generation"
    any_size = any_grid = True
    sample_flags = ("keep",)
    completes = True

    def show(self, model: nn.Module, batch: Batch, labels: Tensor | None, example: Example, log: RunLog,
             step: int) -> None:
        from pipelines.media.images import image_pairs

        made = reconstructions(model, batch, labels)
        log.image(step, "validation", image_pairs(batch.x.cpu(), made.cpu()))

    def add_sample_flags(self, parser: argparse._ArgumentGroup) -> None:
        parser.add_argument("--keep", type=float, metavar="FRACTION",
                            help="with --complete and without --mask: the fraction of rows to keep (default: 0.5)")

    def sampler_options(self, loaded: LoadedRun, **flags: Any) -> dict[str, Any]:
        image, keep, size = flags.get("complete"), flags.get("keep"), self.size(loaded, flags)
        if (gap := self.gap(loaded, flags)) is not None:
            if keep is not None:
                raise InputError("keep: expected none with a mask, found " + repr(keep))
            return {"gap": gap}
        if image is None:
            if keep is not None:
                raise InputError("keep: expected an image to complete, found none")
            return size
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
        import torch

        from pipelines.media.images import image_grid, image_pairs, write_image

        files = [f"{number:05d}.png" for number in range(len(samples.x))]
        for file, image in zip(files, samples.x, strict=True):
            write_image(folder / file, image)
        if samples.gap is None:
            overview = image_grid(samples.x)
        else:
            write_ranking(folder, samples, example, files)
            given = with_hidden(samples.gap)
            if len(given) == 1:  # it, and its candidates, the likeliest first
                overview = image_grid(torch.cat([given, samples.x[samples.ranking]]))
            else:
                overview = image_pairs(given[:SHOWN], samples.x[:SHOWN], captions=("given", "filled"))
        write_image(folder / "grid.png", overview)
        return folder / "grid.png"

    def read(self, loaded: LoadedRun, x: Any) -> Items:
        return read_images(x, self.data_shape(loaded), value_range(loaded))

    def read_any(self, loaded: LoadedRun, x: Any, whole: bool = False) -> Items:
        return read_images(x, self.data_shape(loaded), value_range(loaded), any_size=True, whole=whole)

    def load_any(self, loaded: LoadedRun, paths: list[Path], whole: bool = False
                 ) -> Iterator[tuple[list[Path], Items]]:
        from pipelines.data.image_files import load_whole_images

        if not whole:
            yield self.load_files(loaded, paths)
            return
        for path, image in load_whole_images(paths, self.data_shape(loaded)[0], value_range(loaded)):
            yield [path], Items(image[None], single=False)

    def find_files(self, loaded: LoadedRun, source: Path) -> list[Path]:
        from pipelines.data.image_files import find_images

        return find_images(source)

    def load_files(self, loaded: LoadedRun, paths: list[Path]) -> tuple[list[Path], Items]:
        from pipelines.data.image_files import load_images

        readable, images = load_images(paths, self.data_shape(loaded), value_range(loaded))
        return readable, Items(images, single=False)

    def write_item(self, stem: Path, x: Tensor, example: Example, exact: bool) -> Path:
        from pipelines.media.images import write_image

        path = stem.with_name(f"{stem.name}.png")
        write_image(path, x)
        return path

    def media(self, x: Tensor, example: Example) -> list[Medium]:
        """Large ones are reduced to `MOST_WIDTH` pixels."""
        from pipelines.media.images import image_bytes, reduced

        x = reduced(x[None], MOST_WIDTH)[0]
        return [Medium("image/png", image_bytes(x), x.shape[-1])]

    def read_mask(self, loaded: LoadedRun, mask: Any, item: Any, items: Items) -> Tensor:
        return read_region(mask, self.data_shape(loaded)[1:], item)

    def codec_bits(self, loaded: LoadedRun, x: Tensor, lengths: Tensor | None) -> Tensor | None:
        from pipelines.media.lossless import image_bits

        return image_bits(x)

    def draw_scores(self, loaded: LoadedRun, out: Path, names: list[str], captions: list[str], items: Items,
                    scores: Scores) -> Path:
        return draw_image_scores(out, names, captions, items.x, scores)

    def reconstruct(self, loaded: LoadedRun, source: Path, out: Path, labels: Mapping[str, str], seed: int,
                    batch_size: int, whole: bool = False) -> Written:
        from pipelines.media.images import image_pairs, write_image

        if whole:
            return reconstruct_whole_files(self, loaded, source, out, labels, seed)
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
    from pipelines.ranks.shares import leave_to_first

    paths, originals = load_images(find_images(source), kind.data_shape(loaded), value_range(loaded))
    given = decoder_labels(loaded.stage1, labels, len(paths))
    made = reconstruct(loaded, kind.read(loaded, originals).x, given, seed, batch_size)
    leave_to_first()
    out.mkdir(parents=True, exist_ok=True)
    for number, (path, image) in enumerate(zip(paths, made, strict=True)):
        write_image(out / f"{number:05d}-{path.stem}.png", image)
    return originals, made, f"PSNR {psnr_db(squared_errors(made, originals)).mean():.2f} dB"


def reconstruct_whole_files(kind: Image, loaded: LoadedRun, source: Path, out: Path, labels: Mapping[str, str],
                            seed: int) -> Written:
    """Writes the reconstruction of each image file at its own size, one after the other; an overview shows the first
    ones, reduced."""
    import torch

    from pipelines.generation.labels import decoder_labels
    from pipelines.generation.reconstruction import reconstruct
    from pipelines.media.images import image_pairs, on_square, write_image
    from pipelines.metrics.psnr import psnr_db
    from pipelines.metrics.squares import squared_errors

    shown: list[tuple[Tensor, Tensor]] = []
    figures: list[float] = []
    for given in kind.load_any(loaded, kind.find_files(loaded, source), whole=True):
        (path,), x = given[0], given[1].x
        made = reconstruct(loaded, x, decoder_labels(loaded.stage1, labels, 1), seed, 1, first=len(figures))
        out.mkdir(parents=True, exist_ok=True)
        write_image(out / f"{len(figures):05d}-{path.stem}.png", made[0])
        figures.append(float(psnr_db(squared_errors(made, x))))
        if len(shown) < SHOWN_WHOLE:
            shown.append((on_square(x, MOST_WIDTH), on_square(made, MOST_WIDTH)))
    originals, others = (torch.cat(images) for images in zip(*shown, strict=True))
    write_image(out / "comparison.png", image_pairs(originals, others))
    return Written(len(figures), out / "comparison.png", f"PSNR {sum(figures) / len(figures):.2f} dB")


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


def read_images(x: Any, shape: tuple[int, ...], values: tuple[float, float] | None = None, any_size: bool = False,
                whole: bool = False) -> Items:
    """Files, Pillow images, uint8 arrays and tensors, or lists of these -> uint8 (n, c, h, w).

    Files and Pillow images are cropped and resized to `shape` (c, h, w) as training images are, and their pixels of
    more than 8 bits reduced by `values` (pipelines/data/image_files.py). Tensors are (c, h, w);
    NumPy arrays (h, w, c), (h, w) or (c, h, w); both may have a batch axis in front.
    any_size: of tensors and arrays h and w may be any. whole: files and Pillow images keep their own size.
    Raises InputError for another type, dtype or shape, and for several sizes in a list or a folder."""
    import torch
    from PIL import Image as Pillow

    from pipelines.data.image_files import find_images, fit_image, load_images, load_whole_images

    channels, height, width = shape
    if isinstance(x, (list, tuple)):
        if not x:
            raise InputError("images: expected at least one, found an empty list")
        return Items(joined([read_images(one, shape, values, any_size, whole).x for one in x], "images"), single=False)
    if isinstance(x, (str, Path)):
        path = Path(x)
        if whole:
            images = [image[None] for _, image in load_whole_images(find_images(path), channels, values)]
            return Items(joined(images, str(path)), single=not path.is_dir())
        return Items(load_images(find_images(path), shape, values)[1], single=not path.is_dir())
    if isinstance(x, Pillow.Image):
        try:
            size = (None, None) if whole else (height, width)
            return Items(torch.from_numpy(fit_image(x, (channels, *size), values).copy())[None], single=True)
        except ValueError as error:
            raise InputError(f"images: expected an image that can be converted, found {error}") from None
    return read_pixels(x, shape, "images", "a path, a Pillow image", any_size)


def joined(parts: Sequence[Tensor], name: str) -> Tensor:
    """Items (n, c, *grid) of one size in one tensor. Raises InputError that starts with `name` for several sizes."""
    import torch

    for part in parts:
        if part.shape[1:] != parts[0].shape[1:]:
            one, other = ("x".join(map(str, own.shape[2:])) for own in (parts[0], part))
            raise InputError(f"{name}: expected items of one size, found {one} and {other}: give each by itself")
    return torch.cat(list(parts))


def read_region(mask: Any, size: tuple[int, ...], item: Any = None) -> Tensor:
    """A mask -> bool (n, h, w), of `size` (h, w), True where the item is to be filled: white, grey levels from 128, in
    an image; True in booleans (h, w), with or without a batch axis.

    item: what the mask is of. Of a file and a Pillow image the mask has to have the size: both are cropped and resized
    together. Raises InputError for anything else."""
    import numpy as np
    import torch
    from PIL import Image as Pillow

    if isinstance(mask, (np.ndarray, torch.Tensor)) and str(mask.dtype).removeprefix("torch.") == "bool":
        hidden = torch.as_tensor(mask)
        if tuple(hidden.shape[-2:]) != tuple(size) or hidden.ndim not in (2, 3) or not hidden.numel():
            raise InputError(f"mask: expected booleans of shape {tuple(size)} or (n, {size[0]}, {size[1]}), found "
                             f"shape {tuple(hidden.shape)}")
        return hidden.cpu().reshape(-1, *size)
    if isinstance(mask, (str, Path, Pillow.Image)) and isinstance(item, (str, Path, Pillow.Image)):
        sizes = [displayed_size(image) for image in (mask, item)]
        if None not in sizes and sizes[0] != sizes[1]:
            raise InputError(f"mask: expected the size of the image, {sizes[1][0]} x {sizes[1][1]}, found "
                             f"{sizes[0][0]} x {sizes[0][1]}")
    try:
        return read_images(mask, (1, *size)).x[:, 0] >= 128
    except InputError as error:
        raise InputError(f"mask: {error}") from None


def displayed_size(image: Any) -> tuple[int, int] | None:
    """Width and height of a file or a Pillow image as it is shown; None of a folder and of what cannot be read."""
    from PIL import Image as Pillow
    from PIL import ImageOps

    from pipelines.data.image_files import open_image

    try:
        if isinstance(image, Pillow.Image):
            return ImageOps.exif_transpose(image).size
        with open_image(image) as opened:
            turned = opened.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8 exchange width and height
            return opened.size[::-1] if turned else opened.size
    except Exception:  # reading it says what is wrong
        return None


def with_hidden(gap: Gap) -> Tensor:
    """The items (n, c, ..., h, w) with what is hidden in grey."""
    import torch

    return torch.where(gap.hidden[:, None], torch.tensor(HIDDEN, dtype=torch.uint8), gap.x)


def read_pixels(x: Any, shape: tuple[int, ...], noun: str, others: str, any_size: bool = False) -> Items:
    """uint8 tensors and NumPy arrays of `shape` (c, *grid), arrays also with the channels last or, of one channel,
    without them; each with or without a batch axis. any_size: the grid may be any, of a batch with all its axes.
    Raises InputError that names `noun` and what `others` are read."""
    import numpy as np
    import torch

    named: tuple[int | str, ...] = shape
    channels = shape[0]
    if not isinstance(x, (np.ndarray, torch.Tensor)):
        raise InputError(f"{noun}: expected {others}, a NumPy array, a tensor or a list of these, found "
                         f"{type(x).__name__}")
    if str(x.dtype).removeprefix("torch.") != "uint8":
        raise InputError(f"{noun}: expected uint8 values from 0 to 255, found {x.dtype}")
    if any_size:
        shape, named = own_shape(x, shape), (channels, *"thw"[-len(shape) + 1 :])
    grid = shape[1:]
    expected = f"shape ({', '.join(map(str, named))}) or (n, {', '.join(map(str, named))})"
    if isinstance(x, np.ndarray):
        expected += f", or channels last (..., {', '.join(map(str, [*named[1:], channels]))})"
        x, axes = torch.from_numpy(np.ascontiguousarray(x)), len(shape)
        if tuple(x.shape[-axes:]) != shape and tuple(x.shape[-axes:]) == (*grid, channels):
            x = x.movedim(-1, -axes)
        elif channels == 1 and tuple(x.shape[-len(grid) :]) == tuple(grid) and x.ndim <= axes and x.shape != shape:
            x = x.unsqueeze(-axes)
    if tuple(x.shape[-len(shape) :]) != shape or x.ndim not in (len(shape), len(shape) + 1) or not len(x):
        raise InputError(f"{noun}: expected {expected}, found shape {tuple(x.shape)}")
    single = x.ndim == len(shape)
    return Items(x[None] if single else x, single)


def own_shape(x: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The (c, *grid) of items of any size, where the axes of a tensor or an array say it; else `shape`, of the run's
    items. An array with channels at both ends has them last, as files have."""
    import numpy as np

    channels, axes, size = shape[0], len(shape), tuple(x.shape)
    if 0 in size or size[-axes:] == shape:
        return shape
    items = len(size) in (axes, axes + 1)
    if isinstance(x, np.ndarray):
        if items and size[-1] == channels and (channels > 1 or size[-axes] != channels):
            return (channels, *size[-axes:-1])
        if channels == 1 and len(size) == axes - 1:
            return (1, *size)
    return size[-axes:] if items and size[-axes] == channels else shape
