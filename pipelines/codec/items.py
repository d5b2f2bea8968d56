"""Items to compressed files and back, in memory that does not grow with their number."""

import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

import torch
from torch import Tensor

from pipelines.codec.choice import cheaper_codes, check_rate_weight
from pipelines.codec.container import Reader, Record, Writer, checksum
from pipelines.codec.models import Group, Models
from pipelines.files.errors import InputError
from pipelines.generation.decoding import decode, descend
from pipelines.splits.base import columns_of
from pipelines.splits.noise import generator
from stage2_prior.coder import Encoder

RECORD = 1024  # bytes of a record's payload, about: more makes a smaller file, of which a damaged byte costs more items
MOST = 128  # items of a record, a power of two
LONGEST = 200  # bytes of the name of a file, but for its suffix
LOGITS = 2**23  # float64 logits of codes that are kept at once


@dataclass(frozen=True)
class Given:
    """Items to be compressed, on the CPU."""

    x: Tensor  # (n, *shape) in data units
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

    def with_record(self, count: int, payload: int, bits: float, encoder: Encoder) -> "Compressed":
        """The sums with one more record."""
        return replace(self, count=self.count + count, payload_bytes=self.payload_bytes + payload,
                       code_bits=self.code_bits + bits, exceptions=self.exceptions + encoder.exceptions,
                       exception_bits=self.exception_bits + encoder.exception_bits)


def compress(models: Models, file: BinaryIO, batches: Iterable[Given], lossless: bool, batch_size: int,
             rate_weight: float = 0.0, progress: Callable[[int], None] = lambda count: None) -> Compressed:
    """Writes the items of all batches. Raises InputError for what the models cannot code.

    rate_weight: see `pipelines.codec.choice`; 0: the encoder's codes."""
    check_rate_weight(models, rate_weight, lossless)
    if lossless:
        models.check_lossless()
    writer: Writer | None = None
    names: list[str] = []
    size, at_once = 0, _power_of_two(LOGITS / _values(models))
    result = Compressed(0, 0, 0, 0.0, 0, 0)
    for given, last in _with_last(_in_batches(batches, MOST)):
        group = encoded(models, given, lossless, batch_size, rate_weight)
        names += given.names
        for part in _parts(group, at_once):
            logits = models.code_logits(part)
            bits = _code_bits(models, part, logits)
            if not size:
                each = float(bits.sum()) / 8 / len(part) + (_data_bytes(models, part) if lossless else 0)
                size = min(_power_of_two(RECORD / max(each, 1e-3)), at_once)
            for start in range(0, len(part), size):
                rows = slice(start, start + size)
                own = part.part(rows)
                if writer is None:
                    alone = last and len(own) == len(group) and not names
                    writer = Writer(file, models.fingerprint, lossless, indexed=not alone)
                encoder = models.write(own, logits[rows])
                payload = encoder.finish()
                writer.add(payload, len(own), own.content())
                result = result.with_record(len(own), len(payload), float(bits[rows].sum()), encoder)
                progress(len(own))
    if writer is None:
        raise InputError("items: expected at least one to compress, found none")
    writer.close(names)
    return replace(result, bytes=writer.written)


@dataclass(frozen=True)
class Restored:
    """A record's items, or which ones are lost."""

    numbers: range
    group: Group | None  # None: damaged


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
    """All items, or the records that hold some, in order. Damaged records yield no items, all others their own."""
    batch, counted = [], 0
    for record in reader.records(None if items is None else reader.records_of(items)):
        batch.append(record)
        counted += record.count
        if counted >= batch_size:
            yield from _restored(models, reader, batch, implementation)
            batch, counted = [], 0
    yield from _restored(models, reader, batch, implementation)


def decoded(models: Models, part: Restored, seed: int) -> Tensor:
    """Whole items -> data units (n, *shape), images also for a run on codes; padded with zeros beyond the lengths."""
    assert part.group is not None
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
    whole = [record for record in records if record.payload is not None]
    groups = iter(models.read([record.payload for record in whole], [record.count for record in whole],
                              reader.header.lossless, implementation) if whole else [])
    for record in records:
        group = None if record.payload is None else next(groups)
        if group is not None and checksum(reader.header, record.number, group.content()) != record.crc:
            group = None
        yield Restored(range(record.first, record.first + record.count), group)


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


def _values(models: Models) -> int:
    """Logits of an item's codes."""
    bottleneck = models.stage1.module.bottleneck
    return math.prod(models.stage1.grid) * int(bottleneck.num_codebooks) * models.stage2.module.logits_per_code


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
    """The same items, `size` at a time, but for the last ones."""
    rest: Given | None = None
    for batch in batches:
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


def _with_last(items: Iterator[Given]) -> Iterator[tuple[Given, bool]]:
    """Each item, and whether it is the last."""
    before = next(items, None)
    while before is not None:
        following = next(items, None)
        yield before, following is None
        before = following
