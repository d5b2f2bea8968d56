"""The file format of compressed items, `.ndc`: bytes in, bytes out.

    header   magic, version, flags, the fingerprint of the run: 13 bytes
    records  count of items, length of the payload (as varints), payload, CRC-32: a group of items, about 1 kB
             In version 2 the payload begins with the place of what it holds in its item (`pieces.Place`), and the count
             is that of the items that begin in the record: 0 where it goes on with one.
    index    compressed: the length and count of each record, names of the items
    footer   the header again, length and CRC-32 of the index, CRC-32 of the footer: 25 bytes

A record's CRC-32 is that of what its items decode to: of the header, its number and its items (the caller says). So a
damaged payload, a record in another's place, and a machine that decodes something else are all found out. Records are
found by the index, and one after another where the index is damaged; a header that is damaged is read from the footer.
Of a file with a single record, and no names, neither index nor footer is written.
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

MAGIC, VERSIONS = b"NDC", (1, 2)  # the second for items of any size
LOSSLESS, INDEXED = 1, 2  # flags
FINGERPRINT = 8  # bytes
HEADER, FOOTER = len(MAGIC) + 2 + FINGERPRINT, len(MAGIC) + 2 + FINGERPRINT + 12
LARGEST_INDEX = 2**26  # bytes after decompression: some million named items
MOST_ITEMS = 1024  # of a record


@dataclass(frozen=True)
class Header:
    fingerprint: bytes  # of the run whose models decode the file
    lossless: bool
    indexed: bool
    any_size: bool = False

    def to_bytes(self) -> bytes:
        """As it stands at the beginning of a file, HEADER bytes."""
        flags = LOSSLESS * self.lossless | INDEXED * self.indexed
        return MAGIC + bytes([VERSIONS[self.any_size], flags]) + self.fingerprint

    @classmethod
    def from_bytes(cls, data: bytes) -> "Header":
        """Raises ValueError for what is no header of this version."""
        if len(data) < HEADER or data[: len(MAGIC)] != MAGIC:
            raise ValueError("expected a compressed file, found something else")
        version, flags = data[len(MAGIC)], data[len(MAGIC) + 1]
        if version not in VERSIONS:
            raise ValueError(f"expected format {' or '.join(map(str, VERSIONS))}, found {version}: written by another "
                             "version of this project, or damaged")
        if flags & ~(LOSSLESS | INDEXED):
            raise ValueError(f"expected flags below 4, found {flags}")
        return cls(data[len(MAGIC) + 2 : HEADER], bool(flags & LOSSLESS), bool(flags & INDEXED),
                   version == VERSIONS[1])

    @property
    def least(self) -> int:
        """Of the items of a record."""
        return 0 if self.any_size else 1


@dataclass(frozen=True)
class Record:
    """A group of items as it stands in a file."""

    number: int
    first: int  # number of its first item
    count: int  # of its items
    payload: bytes | None  # None where the file ends before it
    crc: int


class Writer:
    """Writes records one after another, in constant memory but for the index.

    names: whether the items have names."""

    def __init__(self, file: BinaryIO, fingerprint: bytes, lossless: bool, indexed: bool, any_size: bool = False
                 ) -> None:
        self.file, self.header = file, Header(fingerprint, lossless, indexed, any_size)
        self._index: list[tuple[int, int]] = []
        file.write(self.header.to_bytes())
        self.written = HEADER

    def add(self, payload: bytes, count: int, content: bytes) -> None:
        """Appends a record of `count` items. content: what its items decode to."""
        assert self.header.indexed or not self._index, "without an index there is one record"
        crc = checksum(self.header, len(self._index), content)
        record = varint(count) + varint(len(payload)) + payload + crc.to_bytes(4, "little")
        self._index.append((len(record), count))
        self.file.write(record)
        self.written += len(record)

    def close(self, names: Sequence[str] = ()) -> None:
        """Ends the file. names: of all items, or none."""
        if not self.header.indexed:
            return
        entries = b"".join(varint(length) + varint(count) for length, count in self._index)
        packed = zlib.compress(varint(len(self._index)) + entries + packed_names(names), 9)
        footer = self.header.to_bytes() + len(packed).to_bytes(4, "little") + crc32(packed)
        end = packed + footer + crc32(footer)
        self.file.write(end)
        self.written += len(end)


class Reader:
    """Reads a file's records, any of them alone, as far as they are there.

    Raises ValueError for a file whose header and footer are both damaged. damage: what is damaged besides records, in
    words."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.damage = file, ""
        file.seek(0, 2)
        self.size = file.tell()
        self.names: list[str] = []
        self.entries: list[tuple[int, int, int]] = []  # (offset, first item, count) of each record
        self.end = self.size  # of the records
        footer = self._footer()
        if footer is not None:
            self.header, length, crc = footer
            self.end = max(HEADER, self.size - FOOTER - length)
            if not self._read_index(self._at(self.end, self.size - FOOTER - self.end), crc):
                self.damage = "its index"
                self._scan()
            return
        self.header = Header.from_bytes(self._at(0, HEADER))
        if self.header.indexed:
            self.damage = "its end"
        self._scan()

    @property
    def count(self) -> int:
        """The number of items, as far as it is known."""
        return self.entries[-1][1] + self.entries[-1][2] if self.entries else 0

    def record(self, number: int) -> Record:
        """One record, by its number."""
        offset, first, count = self.entries[number]
        stop = self.entries[number + 1][0] if number + 1 < len(self.entries) else self.end
        data = self._at(offset, stop - offset)
        try:
            (_, length), at = read_varints(data, 2)
        except ValueError:
            length, at = -1, 0
        if length != len(data) - at - 4:  # its own length is damaged, and the index knows better
            at = len(varint(count)) + len(varint(max(0, len(data) - 4 - len(varint(count)) - 1)))
        payload = data[at:-4] if len(data) >= at + 4 else None
        return Record(number, first, count, payload, int.from_bytes(data[-4:], "little"))

    def records(self, numbers: Sequence[int] | None = None) -> Iterator[Record]:
        """Some records, or all, in order."""
        for number in range(len(self.entries)) if numbers is None else numbers:
            yield self.record(number)

    def records_of(self, items: Sequence[int]) -> list[int]:
        """The numbers of the records that hold these items."""
        wanted = set(items)
        return [number for number, (_, first, count) in enumerate(self.entries)
                if any(item in wanted for item in range(first - (not count), first + count))]

    def _at(self, offset: int, length: int) -> bytes:
        self.file.seek(offset)
        return self.file.read(max(0, length))

    def _footer(self) -> tuple[Header, int, bytes] | None:
        """Header, length and checksum of the index, where the file ends with an intact footer."""
        data = self._at(max(0, self.size - FOOTER), FOOTER)
        if len(data) < FOOTER or self.size < HEADER + FOOTER or crc32(data[:-4]) != data[-4:]:
            return None
        try:
            header = Header.from_bytes(data)
        except ValueError:
            return None
        return header, int.from_bytes(data[HEADER : HEADER + 4], "little"), data[HEADER + 4 : HEADER + 8]

    def _read_index(self, packed: bytes, crc: bytes) -> bool:
        if crc32(packed) != crc:
            return False
        try:
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(packed, LARGEST_INDEX)
            (count,), at = read_varints(data, 1)
            values, used = read_varints(data[at:], 2 * count)
            self.names = unpacked_names(data[at + used :], sum(values[1::2]))
        except (ValueError, zlib.error):
            return False
        offset, first = HEADER, 0
        for length, items in zip(values[::2], values[1::2], strict=True):
            self.entries.append((offset, first, items))
            offset, first = offset + length, first + items
        fits = offset == self.end and len(self.names) in (0, first) and all(
            self.header.least <= n <= MOST_ITEMS for n in values[1::2])
        if not fits:
            self.entries, self.names = [], []
        return fits

    def _scan(self) -> None:
        """Finds the records one after another; what cannot be one ends the search."""
        offset, first = HEADER, 0
        while offset < self.end:
            try:
                (count, length), used = read_varints(self._at(offset, 20), 2)
            except ValueError:
                break
            stop = offset + used + length + 4
            if not self.header.least <= count <= MOST_ITEMS or stop > self.end:
                break
            self.entries.append((offset, first, count))
            offset, first = stop, first + count
        if offset != self.end and not self.damage:
            self.damage = "its end"
        self.end = offset


def checksum(header: Header, number: int, content: bytes) -> int:
    """The CRC-32 of a record: `content` is what its items decode to."""
    return zlib.crc32(content, zlib.crc32(header.to_bytes() + varint(number)))


def crc32(data: bytes) -> bytes:
    """The CRC-32 in four bytes, the lowest first."""
    return zlib.crc32(data).to_bytes(4, "little")


def varint(value: int) -> bytes:
    """An integer >= 0 in groups of seven bits, the lowest first; the highest bit says that more follow."""
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varints(data: bytes, count: int) -> tuple[list[int], int]:
    """The first `count` integers of `data`, and how many bytes they take. Raises ValueError where they are none."""
    values, at = [], 0
    for _ in range(count):
        value = shift = 0
        while True:
            if at >= len(data) or shift > 56:
                raise ValueError("expected an integer, found the end of the data")
            value |= (data[at] & 127) << shift
            shift += 7
            at += 1
            if data[at - 1] < 128:
                break
        values.append(value)
    return values, at


def packed_names(names: Sequence[str]) -> bytes:
    """Names as "P", first number and pattern where they are numbered in order (a7.png, a8.png), or "L" and a list."""
    if not names:
        return b""
    found = re.fullmatch(r"(.*?)(\d+)(\D*)", names[0], re.DOTALL)
    if found:
        before, digits, after = found.groups()
        if all(name == f"{before}{int(digits) + i:0{len(digits)}d}{after}" for i, name in enumerate(names)):
            numbers = varint(int(digits)) + varint(len(digits))
            return b"P" + numbers + f"{before}\0{after}".encode("utf-8", "surrogateescape")
    return b"L" + "\0".join(names).encode("utf-8", "surrogateescape")


def unpacked_names(data: bytes, count: int) -> list[str]:
    """The names of `count` items, or none. Raises ValueError for what `packed_names` does not write."""
    kind, rest = data[:1], data[1:]
    if not data:
        return []
    if kind == b"L":
        return rest.decode("utf-8", "surrogateescape").split("\0")
    if kind != b"P":
        raise ValueError(f"expected names, found {kind!r}")
    (first, width), used = read_varints(rest, 2)
    before, separator, after = rest[used:].decode("utf-8", "surrogateescape").partition("\0")
    if not separator or width > 255 or count > LARGEST_INDEX:
        raise ValueError("expected a pattern of names, found none")
    return [f"{before}{first + i:0{width}d}{after}" for i in range(count)]
