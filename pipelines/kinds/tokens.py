"""Tokens: codes of which only the numbers are known, int64 (g, *grid), as import_codes.py brought them in. Files and
samples are token files, in the format that came in."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.files.errors import InputError
from pipelines.kinds.base import Items, Kind, Medium, ranges, write_ranking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from torch import Tensor, nn

    from pipelines.generation.samples import Samples
    from pipelines.generation.scores import Scores
    from pipelines.runs.chain import LoadedRun
    from pipelines.runs.example import Example
    from pipelines.splits.base import Batch
    from pipelines.tokens.base import Label, Layout, Source
    from pipelines.training.log import RunLog

PIXELS = 8  # of a code's square in an overview
SHOWN = 64  # items in an overview


class TokenKind(Kind):
    name = "tokens"
    completes = True

    def show(self, model: nn.Module, batch: Batch, labels: Tensor | None, example: Example, log: RunLog,
             step: int) -> None:
        """Nothing: there is no stage 1 to train."""

    def sampler_options(self, loaded: LoadedRun, **flags: Any) -> dict[str, Any]:
        gap = self.gap(loaded, flags)
        if gap is None and flags.get("complete") is not None:
            raise InputError("complete: expected a mask of what is to be filled, found none")
        return {} if gap is None else {"gap": gap}

    def write_samples(self, folder: Path, samples: Samples, example: Example) -> Path:
        from pipelines.media.images import image_grid, write_image
        from pipelines.media.mosaic import mosaic
        from pipelines.tokens.base import Label

        labels = {name: Label(samples.label(name).numpy(), example.classes[example.label_names.index(name)])
                  for name in samples.label_names}
        path = write(folder, "samples", samples.x, samples.lengths, labels, layout_of(example))
        if samples.gap is not None:
            write_ranking(folder, samples, example, [f"{path.name}: {number}" for number in range(len(samples.x))])
        shown = mosaic(with_ends(samples.x[:SHOWN], samples.lengths))
        write_image(folder / "overview.png", image_grid(enlarged(shown)))
        return path

    def read(self, loaded: LoadedRun, x: Any) -> Items:
        """Token files, or integers of shape (*grid[, g]) with or without a batch axis, or a list of these; items of a
        run on sequences may be shorter than its grid."""
        import torch

        if isinstance(x, str | Path):
            paths = self.find_files(loaded, Path(x))
            return replace(self.load_files(loaded, paths)[1], single=len(paths) == 1)
        if isinstance(x, list | tuple):
            if not x:
                raise InputError("codes: expected at least one item, found an empty list")
            parts = [self.read(loaded, one) for one in x]
            lengths = None if parts[0].lengths is None else torch.cat([part.lengths for part in parts])
            return Items(torch.cat([part.x for part in parts]), False, lengths)
        return read_arrays(loaded, x)

    def find_files(self, loaded: LoadedRun, source: Path) -> list[Path]:
        """A path for each item: of a folder its files, of a file with many items FILE/00017, for the item of that
        number."""
        layout = layout_of(loaded.stage1.example)
        if source.is_dir():
            from pipelines.tokens.items_folder import FolderSource

            return FolderSource(source).files
        from pipelines.tokens.npy import Npy

        if source.suffix == Npy.suffix and source.is_file() and is_item(source, layout):
            return [source]
        return [source / f"{number:05d}" for number in range(opened(source, stamp(source), layout).count)]

    def load_files(self, loaded: LoadedRun, paths: list[Path]) -> tuple[list[Path], Items]:
        import numpy as np
        import torch

        layout, parts = layout_of(loaded.stage1.example), []
        place = 0
        while place < len(paths):
            parent, end = paths[place].parent, place + 1
            if parent.is_dir():
                parts.append(item_of(loaded, paths[place]))
            else:
                while end < len(paths) and paths[end].parent == parent:
                    end += 1
                numbers = np.array([int(path.name) for path in paths[place:end]])
                parts.append(items_of(loaded, opened(parent, stamp(parent), layout), numbers))
            place = end
        lengths = None if parts[0].lengths is None else torch.cat([part.lengths for part in parts])
        return paths, Items(torch.cat([part.x for part in parts]), False, lengths)

    def write_item(self, stem: Path, x: Tensor, example: Example, exact: bool) -> Path:
        import torch

        layout = layout_of(example)
        lengths = torch.tensor([x.shape[1]]) if layout.padded else None
        return write(stem.parent, stem.name, whole(x[None], layout), lengths, {}, layout)

    @contextmanager
    def item_writer(self, folder: Path, example: Example, exact: bool) -> Iterator[Callable[[str, Tensor], None]]:
        """All items in one file, `items`, or in the folder itself where the format has a file for each."""
        import torch

        layout, kept = layout_of(example), []
        yield lambda stem, x: kept.append((stem, x.to(torch.int32)))
        if not kept:
            return
        lengths = torch.tensor([x.shape[1] for _, x in kept]) if layout.padded else None
        x = torch.cat([whole(x[None], layout) for _, x in kept]).long()
        write(folder, "items", x, lengths, {}, layout, [stem for stem, _ in kept])

    def media(self, x: Tensor, example: Example) -> list[Medium]:
        from pipelines.media.images import image_bytes
        from pipelines.media.mosaic import mosaic

        picture = enlarged(mosaic(x[None].cpu()))[0]
        return [Medium("image/png", image_bytes(picture), picture.shape[-1])]

    def media_note(self, example: Example) -> str:
        return "Each square is a code: equal codes have equal colours, which mean nothing else."

    def read_mask(self, loaded: LoadedRun, mask: Any, item: Any, items: Items) -> Tensor:
        """Booleans, in an array or a .npy file; of sequences also positions, 4-8; of grids (h, w) also an image."""
        import numpy as np
        import torch

        from pipelines.files.arrays import read_array
        from pipelines.kinds.image import read_region

        grid = self.data_shape(loaded)[1:]
        if isinstance(mask, str | Path) and Path(mask).suffix == ".npy":
            mask = read_array(mask)
        if isinstance(mask, str | Path) and len(grid) == 1:
            hidden = torch.zeros(1, *grid, dtype=torch.bool)
            for start, end in ranges(str(mask), "positions", grid[0]):
                hidden[:, int(start) : int(end)] = True
            return hidden
        if isinstance(mask, np.ndarray | torch.Tensor):
            found = torch.as_tensor(mask)
            if found.dtype != torch.bool or tuple(found.shape[-len(grid) :]) != grid or found.ndim > len(grid) + 1:
                raise InputError(f"mask: expected booleans of shape {grid} or (n, {', '.join(map(str, grid))}), found "
                                 f"{str(found.dtype).removeprefix('torch.')} {tuple(found.shape)}")
            return found.reshape(-1, *grid)
        if len(grid) == 2:
            return read_region(mask, grid)
        raise InputError(f"mask: expected booleans of shape {grid}, an array or a .npy file, found {mask!r}")

    def draw_scores(self, loaded: LoadedRun, out: Path, names: list[str], captions: list[str], items: Items,
                    scores: Scores) -> Path:
        """bits.npy: the bits of each position of each item, in the order of the rows of scores.csv."""
        import numpy as np

        from pipelines.media.heat import overview, scale
        from pipelines.media.mosaic import mosaic, planes
        from pipelines.tokens.base import write_npy

        write_npy(out / "bits.npy", scores.code_map.numpy().astype(np.float32))
        maps = planes(scores.code_map.float(), items.x.ndim - 2).clamp(min=0)
        pictures = mosaic(with_ends(items.x, items.lengths))
        overview(out / "overview.png", captions, pictures, maps.repeat(1, items.x.shape[1], 1), scale(maps))
        return out / "overview.png"

    @property
    def evaluation(self) -> ModuleType:
        from pipelines.evaluation import tokens

        return tokens


def layout_of(example: Example) -> Layout:
    """How codes lay in the files that were imported."""
    from pipelines.tokens.base import Layout

    return Layout.from_facts(example.facts["tokens"])


def options(layout: Layout) -> Any:
    import numpy as np

    from pipelines.tokens.base import Options

    size = np.dtype(layout.dtype).itemsize
    return Options(layout.key, layout.size, {2: "uint16", 4: "uint32"}.get(size))


def whole(x: Tensor, layout: Layout) -> Tensor:
    """Items (n, g, t or *grid), padded with zeros to the grid."""
    import torch

    missing = layout.grid[0] - x.shape[2]
    return x if not missing else torch.nn.functional.pad(x, (0, missing))


def with_ends(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Items (n, g, *grid) with -1 beyond their lengths."""
    import torch

    return x if lengths is None else torch.where(torch.arange(x.shape[2]) < lengths[:, None, None], x, -1)


def enlarged(images: Tensor) -> Tensor:
    """Images (n, 3, h, w), each pixel a square."""
    factor = max(1, min(PIXELS, 512 // max(images.shape[-2:])))
    return images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def write(folder: Path, stem: str, x: Tensor, lengths: Tensor | None, labels: dict[str, Label], layout: Layout,
          names: list[str] | None = None) -> Path:
    """Items int64 (n, g, *grid) in the format that came in. Returns the path of the file."""
    from pipelines.tokens import format_of
    from pipelines.tokens.base import Tokens

    codes = x.movedim(1, -1).numpy()
    sizes = None if lengths is None else lengths.numpy()
    tokens = Tokens(layout.to_items(codes, sizes), layout, sizes, labels, names=names)
    form = format_of(layout.format)
    return form.write(folder, stem if form.suffix else "", tokens)


def stamp(path: Path) -> tuple[int, int]:
    """What changes with a file."""
    if not path.is_file():
        raise InputError(f"{path}: expected a file or folder of tokens, found nothing")
    return path.stat().st_size, path.stat().st_mtime_ns


@lru_cache(maxsize=1)  # batch after batch of one file
def opened(path: Path, stamp: tuple[int, int], layout: Layout) -> Source:
    """A file of tokens, in any format."""
    from pipelines.tokens import format_at

    form = format_at(path, layout.format if path.suffix == form_suffix(layout) else None)
    given = options(layout)
    return form.open(path, given if form.name == layout.format else replace(given, key=None))


def form_suffix(layout: Layout) -> str:
    from pipelines.tokens import format_of

    return format_of(layout.format).suffix


def is_item(path: Path, layout: Layout) -> bool:
    """Whether a .npy file holds one item, not several."""
    from pipelines.files.arrays import read_array

    return read_array(path, mapped=True).ndim == len(layout.shape)


def item_of(loaded: LoadedRun, path: Path) -> Items:
    """The item in a .npy file of its own."""
    from pipelines.files.arrays import read_array

    return checked(loaded, path, read_array(path)[None], None)


def items_of(loaded: LoadedRun, source: Source, numbers: Any) -> Items:
    """Some items of a file of many."""
    from pipelines.tokens.base import beside, read_lengths

    lengths = source.lengths
    if lengths is None and beside(source.path, "lengths.npy").is_file():
        lengths = read_lengths(beside(source.path, "lengths.npy"))
        if len(lengths) != source.count:
            raise InputError(f"{source.path}: lengths: expected {source.count} numbers, found {len(lengths)}")
    return checked(loaded, source.path, source.rows(numbers), None if lengths is None else lengths[numbers])


def checked(loaded: LoadedRun, path: Path, items: Any, lengths: Any) -> Items:
    """Stored items (m, *shape) -> items as the run's models read them. Raises InputError where they do not fit."""
    layout = layout_of(loaded.stage1.example)
    size, books = items[0].size, layout.num_codebooks
    short = layout.padded and 0 < size < layout.size and size % books == 0
    plain = items.ndim == 2 or items.shape[1:] == layout.grid or (items.ndim == 3 and len(layout.grid) == 1)
    if items.dtype.kind not in "iu" or not (size == layout.size or short) or not (
            plain or items.shape[1:] == layout.shape):
        longest = " or shorter" if layout.padded else ""
        raise InputError(f"{path}: expected integers of shape {layout.shape}{longest} per item, found {items.dtype} "
                         f"{items.shape[1:]}")
    codes = layout.to_codes(items)
    if lengths is None and layout.padding is not None:
        from pipelines.tokens.base import unpadded

        lengths = unpadded(codes, layout.padding, path)
    return as_items(loaded, str(path), codes, lengths)


def as_items(loaded: LoadedRun, where: str, codes: Any, lengths: Any = None) -> Items:
    """Codes (m, *grid[, g]), shorter ones of a run on sequences too, -> items. Raises InputError at `where` for codes
    that are none of the run's."""
    import numpy as np
    import torch

    layout, num_codes = layout_of(loaded.stage1.example), loaded.stage1.module.bottleneck.num_codes
    if lengths is None and layout.padded:
        lengths = np.full(len(codes), codes.shape[1])
    if lengths is not None:
        if not layout.padded and (lengths != codes.shape[1]).any():
            raise InputError(f"{where}: lengths: expected whole items as in training, found shorter ones")
        if lengths.min() < 1 or lengths.max() > codes.shape[1]:
            raise InputError(f"{where}: lengths: expected 1 to {codes.shape[1]}, found {lengths.min()} to "
                             f"{lengths.max()}")
        codes = np.where((np.arange(codes.shape[1]) < lengths[:, None]).reshape(
            len(codes), -1, *[1] * (codes.ndim - 2)), codes, 0)
    if codes.min() < 0 or codes.max() >= num_codes:
        raise InputError(f"{where}: expected codes from 0 to {num_codes - 1}, found {codes.min()} to {codes.max()}")
    x = torch.from_numpy(codes.astype(np.int64))
    x = x.reshape(*x.shape[: 1 + len(layout.grid)], layout.num_codebooks).movedim(-1, 1)
    sizes = torch.from_numpy(lengths.astype(np.int64)) if layout.padded else None
    return Items(whole(x, layout).contiguous(), False, sizes)


def read_arrays(loaded: LoadedRun, x: Any) -> Items:
    """Integers (*grid[, g]) or (n, *grid[, g]), as `Samples.codes`; or (n, g, *grid), as `Samples.x`, where the shape
    is not that."""
    import numpy as np
    import torch

    layout = layout_of(loaded.stage1.example)
    item = (*layout.grid, *([layout.num_codebooks] if layout.num_codebooks > 1 else []))
    if not isinstance(x, np.ndarray | torch.Tensor):
        raise InputError(f"codes: expected a path, an array, a tensor or a list of these, found {type(x).__name__}")
    array = x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else x

    def fits(shape: tuple[int, ...]) -> bool:
        return shape == item or (layout.padded and len(shape) == len(item) and 0 < shape[0] <= item[0]
                                 and shape[1:] == item[1:])

    if array.ndim == 2 + len(layout.grid) and not fits(array.shape[1:]) and array.shape[1] == layout.num_codebooks:
        array = array[:, 0] if layout.num_codebooks == 1 else np.moveaxis(array, 1, -1)
    single = array.ndim == len(item)
    array = array[None] if single else array
    if array.dtype.kind not in "iu" or not len(array) or not fits(array.shape[1:]):
        raise InputError(f"codes: expected integers of shape {item} or (n, {', '.join(map(str, item))})"
                         f"{', or fewer codes' if layout.padded else ''}, found {array.dtype} {tuple(x.shape)}")
    return replace(as_items(loaded, "codes", array), single=single)
