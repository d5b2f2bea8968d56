"""Files of any kind of data into one compressed file, and back."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from tqdm import tqdm

from pipelines.codec.choice import check_rate_weight
from pipelines.codec.items import Compressed, Given, compress, decoded, items_of, open_compressed, restore, safe_stems
from pipelines.codec.models import Models
from pipelines.files.atomic import file_made_whole
from pipelines.files.errors import InputError, naming
from pipelines.files.locks import only_writer
from pipelines.files.outputs import one_call
from pipelines.ranks.shares import by_first, leave_to_first, on_first
from pipelines.runs.chain import LoadedRun
from pipelines.runs.example import Example


class Kind(Protocol):
    """What this file asks of a kind of data, pipelines/kinds/base.py."""

    def find_files(self, loaded: LoadedRun, source: Path) -> list[Path]: ...
    any_size: bool

    def load_any(self, loaded: LoadedRun, paths: list[Path], whole: bool = False
                 ) -> Iterator[tuple[list[Path], Any]]: ...
    def item_writer(self, folder: Path, example: Example, exact: bool
                    ) -> AbstractContextManager[Callable[[str, Tensor], None]]: ...


@dataclass(frozen=True)
class Decompressed:
    """What was written, and what could not be."""

    count: int
    damaged: list[str]  # names, or numbers, of items


def compress_files(kind: Kind, models: Models, source: Path, out: Path, lossless: bool, actions: str | None,
                   labels: Mapping[str, str], batch_size: int, rate_weight: float, whole: bool = False) -> Compressed:
    """A file, or each file of a folder with its name, into `out`. Files that cannot be read are named in warnings.

    whole: images and video at their own size; audio has any length.

    Raises InputError where nothing can be read, and for options that do not fit the run."""
    if whole and not kind.any_size:
        raise InputError(f"whole: expected a run on images, audio or video, found {models.loaded.run.root}")
    models.wanted_labels(labels, 1)  # refused before anything is read
    if not whole:
        models.wanted_actions(actions, 1)
    check_rate_weight(models, rate_weight, lossless)
    if lossless:
        models.check_lossless()
    paths, several = kind.find_files(models.loaded, source), source.is_dir()

    def batches() -> Iterator[Given]:
        for start in range(0, len(paths), batch_size):
            for readable, items in _readable(kind, models, paths[start : start + batch_size], len(paths), whole):
                yield Given(items.x, models.wanted_labels(labels, len(readable)), items.lengths,
                            models.wanted_actions(actions, len(readable), items.x.shape[2]),
                            [path.relative_to(source).as_posix() for path in readable] if several else [])

    out.parent.mkdir(parents=True, exist_ok=True)
    if by_first(out.is_dir):
        raise InputError(f"{out}: expected a file to write, found a folder")
    bar = tqdm(total=len(paths), desc="compressing", unit="item", leave=False, dynamic_ncols=True, disable=None)
    with on_first(only_writer(out.parent, "compress")), bar, on_first(file_made_whole(out)) as file:
        made = compress(models, file, batches(), lossless, batch_size, rate_weight, bar.update,
                        any_size=whole or (kind.any_size and models.padded))
        leave_to_first()
        return made


def decompress_files(kind: Kind, models: Models, source: Path, out: Path, items: Sequence[int | str] | None, seed: int,
                     batch_size: int) -> Decompressed:
    """Item i, a function of its codes, `seed` and i, in a file with its name, or its number, and the usual suffix."""
    if not source.is_file():
        raise InputError(f"{source}: expected a compressed file, found {'a folder' if source.is_dir() else 'none'}")
    with naming(source), open(source, "rb") as file:
        reader = open_compressed(models, file, str(source))
        wanted = None if items is None else items_of(reader, items, str(source))
        chosen, stems = set(range(reader.count)) if wanted is None else set(wanted), safe_stems(reader)
        written, damaged = 0, []
        bar = tqdm(total=len(chosen), desc="decompressing", unit="item", leave=False, dynamic_ncols=True, disable=None)
        with one_call(out, "decompress") as inside, bar, kind.item_writer(
                inside, models.stage1.example, reader.header.lossless) as write:
            for part in restore(models, reader, wanted, batch_size):
                numbers = [number for number in part.numbers if number in chosen]
                bar.update(len(numbers))
                if part.group is None:
                    damaged += [reader.names[number] if reader.names else str(number) for number in numbers]
                    continue
                data, lengths = decoded(models, part, seed), part.group.lengths
                for number in numbers:
                    place = number - part.numbers.start
                    x = data[place] if lengths is None else data[place, ..., : int(lengths[place])]
                    write(stems[number], x)
                    written += 1
    return Decompressed(written, damaged)


def _readable(kind: Kind, models: Models, paths: list[Path], total: int, whole: bool
              ) -> Iterator[tuple[list[Path], Any]]:
    """The items of a batch of files; where the batch as a whole is refused, those of each file that is not."""
    try:
        yield from kind.load_any(models.loaded, paths, whole)
    except InputError:
        if total == 1:
            raise
        for path in paths:
            try:
                yield from kind.load_any(models.loaded, [path], whole)
            except InputError as error:
                print(f"warning: left out: {error}", file=sys.stderr)
