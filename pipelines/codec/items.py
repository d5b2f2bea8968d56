"""Items to compressed files and back, in memory that does not grow with their number."""

import itertools
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from torch import Tensor

from pipelines.codec.choice import cheaper_codes, check_rate_weight
from pipelines.codec.container import Reader, Record, Writer, checksum
from pipelines.codec.models import Group, Models
from pipelines.codec.pieces import USUAL, Place, pieces, shape_of
from pipelines.files.errors import InputError
from pipelines.generation.decoding import decode, descend, one_size
from pipelines.ranks.shares import by_first, shared
from pipelines.splits.base import columns_of
from pipelines.splits.noise import generator
from stage1_vqvae.tiles import filled_up

T = TypeVar("T")
RECORD = 1024  # bytes of a record's payload, about: more makes a smaller file, of which a damaged byte costs more items
MOST = 128  # items of a record, a power of two
LONGEST = 200  # bytes of the name of a file, but for its suffix
LOGITS = 2**23  # float64 logits of codes that are kept at once

# A record: count of items, payload, what its items decode to, bits of the codes, exceptions and what they took.
_Coded = tuple[int, bytes, bytes, float, int, int]


@dataclass(frozen=True)
class Given:
    """Items to be compressed, on the CPU."""

    x: Tensor  # (n, c, *size) in data units
    labels: Tensor  # (n, L) int64, as `Models.wanted_labels` gives them
    lengths: Tensor | None = None  # (n,)
    actions: Tensor | None = None  # (n, t)
    names: Sequence[str] = ()  # of the items, or none


@dataclass(frozen=True)
class Compressed:
    """What became of the items."""

    count: int
    bytes: int  # of the whole file
    payload_bytes: int  # of the streams alone
    code_bits: float  # -log2 of the probability of labels and codes
    exceptions: int  # codes and levels that were sent plainly
    exception_bits: int  # what they took

    def with_record(self, record: _Coded) -> "Compressed":
        """The sums with one more record."""
        count, payload, _, bits, exceptions, exception_bits = record
        return replace(self, count=self.count + count, payload_bytes=self.payload_bytes + len(payload),
                       code_bits=self.code_bits + bits, exceptions=self.exceptions + exceptions,
                       exception_bits=self.exception_bits + exception_bits)


def compress(models: Models, file: BinaryIO | None, batches: Iterable[Given], lossless: bool, batch_size: int,
             rate_weight: float = 0.0, progress: Callable[[int], None] = lambda count: None,
             any_size: bool = False) -> Compressed:
    """Writes the items of all batches. Raises InputError for what the models cannot code.

    rate_weight: see `pipelines.codec.choice`; 0: the encoder's codes. any_size: whether items may be of other sizes
    than the run's; the file is then of another version. Ranks share the groups of `MOST` items; one whose `file` is
    None writes none."""
    check_rate_weight(models, rate_weight, lossless)
    if lossless:
        models.check_lossless()

    def coded(given: Given, known: dict[tuple[int, ...], int]) -> tuple[dict[tuple[int, ...], int], list[_Coded]]:
        """The records of some items, and for each grid of codes how many items a record has: as `known`, or as is found
        out."""
        sizes, records = dict(known), []
        for group, place in _groups(models, given, lossless, batch_size, rate_weight):
            grid, begun = models.grid_of(group), 0
            at_once = _power_of_two(LOGITS / _values(models, grid))
            for part in _parts(group, at_once):
                logits = models.code_logits(part)
                bits = _code_bits(models, part, logits)
                if not (size := sizes.get(grid, 0)):
                    each = float(bits.sum()) / 8 / len(part) + (_data_bytes(models, part) if lossless else 0)
                    size = sizes[grid] = min(_power_of_two(RECORD / max(each, 1e-3)), at_once)
                for start in range(0, len(part), size):
                    rows = slice(start, start + size)
                    own = part.part(rows)
                    encoder = models.write(own, logits[rows])
                    count, prefix = len(own), USUAL if any_size else b""
                    if place is not None:
                        here = replace(place, first=place.first + begun, count=len(own))
                        count, prefix = int(here.first == 0), here.to_bytes()
                    begun += len(own)
                    records.append((count, prefix + encoder.finish(), prefix + own.content(), float(bits[rows].sum()),
                                    encoder.exceptions, encoder.exception_bits))
        return sizes, records

    groups = _with_last(_in_batches(batches, MOST))
    begin = next(groups, None)
    if begin is None:
        raise InputError("items: expected at least one to compress, found none")
    (given, last), names, result = begin, list(begin[0].names), Compressed(0, 0, 0, 0.0, 0, 0)
    sizes, records = by_first(lambda: coded(given, {}))
    writer: Writer | None = None
    if file is not None:
        alone = last and len(records) == 1 and not names
        writer = Writer(file, models.fingerprint, lossless, not alone, any_size)

    def written(records: list[_Coded]) -> Compressed:
        found = result
        for record in records:
            count, payload, content, *_ = record
            if writer is not None:
                writer.add(payload, count, content)
            found = found.with_record(record)
            progress(count)
        return found

    def following() -> Iterator[Given]:
        for given, _ in groups:
            names.extend(given.names)
            yield given

    result = written(records)
    for _, records in shared(following(), lambda given: coded(given, sizes)):
        result = written(records)
    if writer is None:
        return result
    writer.close(names)
    return replace(result, bytes=writer.written)


@dataclass(frozen=True)
class Restored:
    """A record's items, or which ones are lost."""

    numbers: range
    group: Group | None  # None: damaged
    place: Place | None = None  # of pieces; of an item that was put together, with all of them


def open_compressed(models: Models, file: BinaryIO, name: str) -> Reader:
    """Raises InputError for a file that is none, is damaged at both ends, or was made with other models."""
    try:
        reader = Reader(file)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None
    if reader.header.fingerprint != models.fingerprint:
        raise InputError(f"{name}: expected a file compressed with {models.loaded.run.root} (fingerprint "
                         f"{models.fingerprint.hex()}), found {reader.header.fingerprint.hex()}: another run, or the "
                         "same one trained further")
    if reader.header.lossless:
        models.check_lossless()
    if reader.damage:
        print(f"note: {name}: {reader.damage} is damaged or missing; items are found without it", file=sys.stderr)
    return reader


def restore(models: Models, reader: Reader, items: Sequence[int] | None, batch_size: int,
            implementation: str | None = None) -> Iterator[Restored]:
    """All items, or the records that hold some, in order. Damaged records yield no items, all others their own; an item
    in pieces is yielded whole, or as damaged."""

    def restored() -> Iterator[Restored]:
        batch, counted = [], 0
        for record in reader.records(None if items is None else reader.records_of(items)):
            batch.append(record)
            counted += max(record.count, 1)
            if counted >= batch_size:
                yield from _restored(models, reader, batch, implementation)
                batch, counted = [], 0
        yield from _restored(models, reader, batch, implementation)

    return _whole(models, restored()) if reader.header.any_size else restored()


def decoded(models: Models, part: Restored, seed: int) -> Tensor:
    """Whole items -> data units (n, c, *size), images also for a run on codes; padded with zeros beyond the lengths."""
    assert part.group is not None
    if part.place is not None:
        return _decoded_whole(models, part.group, part.place.size, generator(seed, part.numbers.start))
    group, own = part.group, [generator(seed, number) for number in part.numbers]
    x = group.x if group.x is not None else decode(
        models.stage1, group.codes, columns_of(group.labels, models.decoder_columns), group.lengths, own)
    return descend(models.loaded.parents, x, own)


def items_of(reader: Reader, wanted: Sequence[int | str], name: str) -> list[int]:
    """Numbers of items that are given by name or by number. Raises InputError for one that is not there."""
    numbers = []
    places = {own: number for number, own in enumerate(reader.names)}
    for one in map(str, wanted):
        if one in places:
            numbers.append(places[one])
        elif one.isdecimal() and len(one) < 19 and int(one) < reader.count:
            numbers.append(int(one))
        else:
            there = f"a name or a number below {reader.count}" if reader.names else f"a number below {reader.count}"
            raise InputError(f"{name}: items: expected {there}, found {one!r}")
    return numbers


def named(reader: Reader, numbers: Sequence[int]) -> str:
    """The names, or the numbers, of a record's items."""
    if reader.names:
        return ", ".join(reader.names[number] for number in numbers)
    return f"items {numbers[0]} to {numbers[-1]}"


def safe_stems(reader: Reader) -> list[str]:
    """A different name of a file for each item, from names that are not to be trusted: no folders, no suffix."""
    if not reader.names:
        return [f"{number:05d}" for number in range(reader.count)]
    stems = []
    for name in reader.names:
        stem = re.sub(r'[\x00-\x1f<>:"/\\|?*]', "-", re.sub(r"\.[^./]*$", "", name))
        stem = stem.encode("utf-8", "surrogateescape")[:LONGEST].decode("utf-8", "ignore")
        stems.append(f"_{stem}" if stem[:1] in ("", ".", "-") else stem)
    counts = Counter(stem.lower() for stem in stems)
    return [stem if counts[stem.lower()] == 1 else f"{number:05d}-{stem}" for number, stem in enumerate(stems)]


def _restored(models: Models, reader: Reader, records: list[Record], implementation: str | None) -> Iterator[Restored]:
    parsed = {record.number: own for record in records if (own := _parsed(models, reader, record)) is not None}
    grids = {number: own.grid for number, own in parsed.items()}
    groups: dict[int, Group] = {}
    for grid in sorted(set(grids.values()), key=lambda own: own or ()):
        numbers = [number for number in parsed if grids[number] == grid]
        read = models.read([parsed[number].stream for number in numbers], [parsed[number].count for number in numbers],
                           reader.header.lossless, implementation, grid)
        groups |= zip(numbers, read, strict=True)
    for record in records:
        group, place = groups.get(record.number), None
        if group is not None:
            own, place = parsed[record.number], parsed[record.number].place
            if checksum(reader.header, record.number, own.prefix + group.content()) != record.crc:
                group = place = None
        yield Restored(range(record.first, record.first + record.count), group, place)


@dataclass(frozen=True)
class _Parsed:
    """A record's payload, divided."""

    prefix: bytes
    place: Place | None
    grid: tuple[int, ...] | None  # of the codes of a piece; None: of the run's items
    count: int  # of the pieces, or items
    stream: bytes


def _parsed(models: Models, reader: Reader, record: Record) -> _Parsed | None:
    """None for a payload that is damaged or missing."""
    if record.payload is None:
        return None
    if not reader.header.any_size:
        return _Parsed(b"", None, None, record.count, record.payload)
    try:
        place, used = Place.from_bytes(record.payload, len(models.stage1.grid))
        prefix, stream = record.payload[:used], record.payload[used:]
        if place is None:
            return _Parsed(prefix, None, None, record.count, stream) if record.count else None
        cells = _cells(models, place.size)[place.first : place.first + place.count]
        shapes = {shape_of(cell) for cell in cells}
        if len(cells) != place.count or len(shapes) != 1 or record.count != (place.first == 0):
            return None
        return _Parsed(prefix, place, shapes.pop(), place.count, stream)
    except ValueError:
        return None


def _cells(models: Models, size: Sequence[int]) -> list:
    """The pieces of an item of this size. Raises ValueError for one that the run does not have."""
    tiled = models.stage1.tiled
    return pieces([-(-own // stride) for own, stride in zip(size, tiled.strides, strict=True)], models.stage1.grid)


def _whole(models: Models, parts: Iterator[Restored]) -> Iterator[Restored]:
    """Puts the pieces of items together; other items as they come."""
    item: _Item | None = None
    for part in parts:
        number = part.numbers.start - (not part.numbers)
        usual = part.place is None and (part.group is not None or len(part.numbers) > 1)
        if item is not None and (usual or number != item.number):
            yield item.restored()
            item = None
        if usual:
            yield part
            continue
        item = item or _Item(models, number)
        item.add(part)
    if item is not None:
        yield item.restored()


class _Item:
    """An item that is put together from its pieces."""

    def __init__(self, models: Models, number: int) -> None:
        self.models, self.number, self.damaged, self.found = models, number, False, 0
        self.place: Place | None = None
        self.group: Group | None = None
        self.cells: list = []

    def add(self, part: Restored) -> None:
        """The pieces of a record, or that they are lost."""
        if part.group is None or part.place is None:
            self.damaged = True
            return
        models, group, place = self.models, part.group, part.place
        if self.group is None:
            self.cells = _cells(models, place.size)
            grid = [max(cell[axis].stop for cell in self.cells) for axis in range(len(place.size))]
            codes = group.codes.new_zeros(1, *grid, *group.codes.shape[1 + len(grid) :])
            size = [count * stride for count, stride in zip(grid, models.stage1.tiled.strides, strict=True)]
            x = None if group.x is None else group.x.new_zeros(1, group.x.shape[1], *size)
            self.place, self.group = Place(place.size, 0, len(self.cells)), Group(codes, group.labels[:1], x=x)
        strides = models.stage1.tiled.strides
        for row, cell in enumerate(self.cells[place.first : place.first + place.count]):
            self.group.codes[(0, *cell)] = group.codes[row]
            if self.group.x is not None and group.x is not None:
                self.group.x[(0, slice(None), *_in_data(cell, strides))] = group.x[row]
        self.found += place.count

    def restored(self) -> Restored:
        """The item; damaged where a piece is missing."""
        there = not self.damaged and self.found == len(self.cells) and self.group is not None
        return Restored(range(self.number, self.number + 1), self.group if there else None, self.place)


def _in_data(cell: Sequence[slice], strides: Sequence[int]) -> list[slice]:
    return [slice(own.start * stride, own.stop * stride) for own, stride in zip(cell, strides, strict=True)]


def _decoded_whole(models: Models, group: Group, size: tuple[int, ...], own: np.random.Generator) -> Tensor:
    """An item of any size -> data units (1, c, *size)."""
    if group.x is not None:
        return group.x[(..., *(slice(0, count) for count in size))]
    lengths = torch.tensor(size) if models.padded else None
    labels = columns_of(group.labels, models.decoder_columns)
    x = decode(models.stage1, group.codes, labels, lengths, [own], size=None if models.padded else size)
    return x[..., : size[0]] if models.padded else x


def _groups(models: Models, given: Given, lossless: bool, batch_size: int, rate_weight: float
            ) -> Iterator[tuple[Group, Place | None]]:
    """Items of the run's size as they are; of others, one after the other, the pieces of one shape at a time."""
    usual = models.stage1.example.shape
    if given.x.shape[1:] == usual:
        yield encoded(models, given, lossless, batch_size, rate_weight), None
        return
    for row in range(len(given.x)):
        one = _rows(given, slice(row, row + 1))
        if one.lengths is not None and int(one.lengths) <= usual[-1]:
            one = replace(one, x=one.x[..., : usual[-1]])
            yield encoded(models, one, lossless, batch_size, rate_weight), None
        else:
            yield from _pieces_of(models, one, lossless, batch_size, rate_weight)


@torch.no_grad()
def _pieces_of(models: Models, given: Given, lossless: bool, batch_size: int, rate_weight: float
               ) -> Iterator[tuple[Group, Place]]:
    """One item of another size. lossless: each piece is encoded and decoded by itself, so that it needs no other."""
    stage1 = models.stage1
    size = tuple(given.x.shape[2:]) if given.lengths is None else (int(given.lengths),)
    with one_size(stage1, size):
        strides = stage1.tiled.strides
        x = filled_up(given.x[(..., *(slice(0, own) for own in size))], strides) if given.lengths is None else (
            given.x[..., : -(-size[0] // strides[0]) * strides[0]])
        codes = None if lossless else stage1.tiled.encode(x)
        z = stage1.tiled.embed(x) if rate_weight else None
    try:
        cells = _cells(models, size)
    except ValueError as error:
        raise InputError(f"size: {error}") from None
    if models.num_actions and given.actions is None:
        raise InputError(f"actions: expected those of the clips, which the prior of {models.loaded.run.root} is "
                         "conditioned on, found none")
    actions = None
    if models.num_actions and given.actions is not None:
        short = x.shape[2] - given.actions.shape[1]
        actions = torch.cat([given.actions, given.actions[:, -1:].expand(-1, short)], 1)
    first = 0
    for _, same in itertools.groupby(cells, shape_of):
        own = list(same)
        data = [x[(slice(None), slice(None), *_in_data(cell, strides))] for cell in own] if lossless else []
        frames = [_in_data(cell, strides)[0] for cell in own]
        group = Group(
            torch.cat([stage1.module.encode(part.to(models.device)).cpu() for part in data]) if codes is None else
            torch.cat([codes[(slice(None), *cell)] for cell in own]),
            given.labels.expand(len(own), -1), None,
            None if actions is None else torch.cat([actions[:, part] for part in frames]),
            torch.cat(data) if lossless else None)
        parts = [group.part(slice(start, start + batch_size)) for start in range(0, len(own), batch_size)]
        group = replace(group, labels=torch.cat([models.likeliest_labels(part) for part in parts]))
        if z is not None:
            group = cheaper_codes(models, group, torch.cat([z[(slice(None), slice(None), *cell)] for cell in own]),
                                  rate_weight)
        yield group, Place(size, first, len(own))
        first += len(own)


@torch.no_grad()
def encoded(models: Models, given: Given, lossless: bool, batch_size: int, rate_weight: float = 0.0) -> Group:
    """The codes of items, zero beyond the lengths, with all labels."""
    module, device = models.stage1.module, next(models.stage1.module.parameters()).device
    codes = torch.cat([module.encode(x.to(device)).cpu() for x in given.x.split(batch_size)])
    codes = models.without_padding(codes, given.lengths)
    actions = given.actions if models.num_actions else None
    if models.num_actions and actions is None:
        raise InputError(f"actions: expected those of the clips, which the prior of {models.loaded.run.root} is "
                         "conditioned on, found none")
    group = Group(codes, given.labels, given.lengths, actions, given.x if lossless else None)
    group = replace(group, labels=models.likeliest_labels(group))
    if not rate_weight:
        return group
    return cheaper_codes(models, group, torch.cat([module.embed(x.to(device)) for x in given.x.split(batch_size)]),
                         rate_weight)


def _values(models: Models, grid: Sequence[int]) -> int:
    """Logits of an item's codes."""
    bottleneck = models.stage1.module.bottleneck
    return math.prod(grid) * int(bottleneck.num_codebooks) * models.stage2.module.logits_per_code


def _code_bits(models: Models, group: Group, logits: Tensor) -> Tensor:
    """(n,): bits of labels and codes."""
    each = models.without_padding(models.prior.nats_of(logits, group.codes), group.lengths)
    labels = torch.zeros(len(group), dtype=torch.float64)
    for column in range(len(models.names)):
        frequencies = torch.log_softmax(torch.from_numpy(models.label_logits(column)[0]), 0)
        labels -= frequencies[group.labels[:, column]]
    return (each.flatten(1).sum(1) + labels) / math.log(2)


def _data_bytes(models: Models, group: Group) -> float:
    """Of an item's data given its codes, on average."""
    device = next(models.stage1.module.parameters()).device
    labels = columns_of(group.labels, models.decoder_columns)
    z_q = models.stage1.module.bottleneck.lookup(group.codes.to(device))
    found = models.stage1.module.nll_nats(group.x.to(device), z_q, None if labels is None else labels.to(device))
    return float(found.mean()) / math.log(2) / 8


def _power_of_two(number: float) -> int:
    """The nearest one from 1 to MOST."""
    return 2 ** min(max(round(math.log2(number)), 0), round(math.log2(MOST)))


def _parts(group: Group, size: int) -> Iterator[Group]:
    for start in range(0, len(group), size):
        yield group.part(slice(start, start + size))


def _in_batches(batches: Iterable[Given], size: int) -> Iterator[Given]:
    """The same items, `size` of one shape at a time, but for the last ones of each."""
    rest: Given | None = None
    for batch in batches:
        if rest is not None and rest.x.shape[1:] != batch.x.shape[1:]:
            yield rest
            rest = None
        rest = batch if rest is None else _joined(rest, batch)
        while len(rest.x) > size:
            yield _rows(rest, slice(0, size))
            rest = _rows(rest, slice(size, None))
    if rest is not None:
        yield rest


def _joined(one: Given, other: Given) -> Given:
    parts = [None if a is None else torch.cat((a, b))
             for a, b in ((one.x, other.x), (one.labels, other.labels), (one.lengths, other.lengths),
                          (one.actions, other.actions))]
    return Given(parts[0], parts[1], parts[2], parts[3], [*one.names, *other.names])


def _rows(given: Given, rows: slice) -> Given:
    return Given(*(None if x is None else x[rows] for x in (given.x, given.labels, given.lengths, given.actions)),
                 names=given.names[rows])


def _with_last(items: Iterator[T]) -> Iterator[tuple[T, bool]]:
    """Each item, and whether it is the last."""
    before = next(items, None)
    while before is not None:
        following = next(items, None)
        yield before, following is None
        before = following
