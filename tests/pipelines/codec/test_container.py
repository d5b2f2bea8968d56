"""The file format: any byte may be damaged, and only the record that it belongs to is lost."""

import io
import zlib

import numpy as np
import pytest

from pipelines.codec.container import (
    FOOTER,
    HEADER,
    MOST_ITEMS,
    Header,
    Reader,
    Writer,
    checksum,
    packed_names,
    read_varints,
    unpacked_names,
    varint,
)

NAMES = [f"a/{letter}.png" for letter in "qwertyuiop"]
COUNTS = [3, 3, 3, 1]


def content(number):
    """What record `number` decodes to: here its payload twice."""
    return 2 * payload(number)


def payload(number):
    return np.random.default_rng(number).bytes(20 + 60 * number)


def file_of(counts=COUNTS, names=NAMES, indexed=True):
    file = io.BytesIO()
    writer = Writer(file, b"12345678", lossless=False, indexed=indexed)
    for number, count in enumerate(counts):
        writer.add(payload(number), count, content(number))
    writer.close(names)
    assert writer.written == len(file.getvalue())
    return file.getvalue()


def whole(reader):
    """Numbers of the records that decode to what was written."""
    found = []
    for record in reader.records():
        if record.payload is not None and checksum(reader.header, record.number, 2 * record.payload) == record.crc:
            assert 2 * record.payload == content(record.number)
            found.append(record.number)
    return found


def test_records_are_read_in_order_and_alone():
    reader = Reader(io.BytesIO(file_of()))
    assert (reader.count, reader.names, reader.damage) == (10, NAMES, "")
    assert reader.header == Header(b"12345678", False, True)
    assert whole(reader) == [0, 1, 2, 3]
    assert [(record.first, record.count) for record in reader.records()] == [(0, 3), (3, 3), (6, 3), (9, 1)]
    assert reader.records_of([9, 4]) == [1, 3]
    assert reader.record(2).payload == payload(2)


def test_a_byte_that_is_damaged_anywhere_costs_one_record_at_most():
    data = file_of()
    draws = np.random.default_rng(0)
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= int(draws.integers(1, 256))
        reader = Reader(io.BytesIO(bytes(damaged)))
        assert reader.header == Header(b"12345678", False, True)
        lost = {0, 1, 2, 3} - set(whole(reader))
        assert len(lost) <= 1, place
        if lost:
            (number,) = lost
            start, first, count = reader.entries[number]
            assert start <= place and (first, count) == (3 * number, COUNTS[number])


def test_a_file_that_was_cut_keeps_the_records_before_the_cut():
    data = file_of()
    ends = [entry[0] for entry in Reader(io.BytesIO(data)).entries][1:]
    for length in range(HEADER, len(data) - 1):
        reader = Reader(io.BytesIO(data[:length]))
        expected = [number for number, end in enumerate(ends) if end <= length]
        assert whole(reader)[: len(expected)] == expected
        assert reader.damage


def test_a_single_record_without_names_has_no_index():
    data = file_of([2], [], indexed=False)
    assert len(data) == HEADER + 1 + 1 + len(payload(0)) + 4
    reader = Reader(io.BytesIO(data))
    assert (whole(reader), reader.count, reader.damage, reader.names) == ([0], 2, "", [])


@pytest.mark.parametrize("names", [
    [f"{number:05d}.png" for number in range(300)],
    [f"a/b 7_{number}.wav" for number in range(7, 15)],
    ["one"], ["x9", "x10"], ["x9", "y10"], ["x09", "x10", "x11"], ["", "a"], ["ü\udcff.png", "."],
])
def test_names_come_back(names):
    assert unpacked_names(packed_names(names), len(names)) == names


def test_numbered_names_take_no_room():
    assert len(packed_names([f"{number:05d}.png" for number in range(10000)])) < 12


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04" + bytes(60), b"NDC\x03" + bytes(60), b"NDC\x01\xff" + bytes(60)])
def test_what_is_no_such_file_is_refused(data):
    with pytest.raises(ValueError, match="expected"):
        Reader(io.BytesIO(data))


def test_an_index_that_claims_more_than_there_is_is_not_believed():
    """Counts and lengths of records are bounded before memory is taken for them."""
    data = file_of()
    records, header = data[HEADER : Reader(io.BytesIO(data)).end], data[:HEADER]
    for index in (varint(10**12), varint(1) + varint(len(records)) + varint(MOST_ITEMS + 1), varint(4) + varint(1) * 8,
                  varint(1) + varint(10**15) + varint(1), b"\xff" * 30):
        packed = zlib.compress(index)
        footer = header + len(packed).to_bytes(4, "little") + zlib.crc32(packed).to_bytes(4, "little")
        forged = header + records + packed + footer + zlib.crc32(footer).to_bytes(4, "little")
        reader = Reader(io.BytesIO(forged))
        assert reader.damage == "its index"
        assert whole(reader) == [0, 1, 2, 3], "found one after another"
    assert len(footer) + 4 == FOOTER


def test_integers_of_any_size_come_back():
    values = [0, 1, 127, 128, 300, 2**40, 2**56]
    data = b"".join(map(varint, values))
    assert read_varints(data + b"rest", len(values)) == (values, len(data))
    with pytest.raises(ValueError, match="end of the data"):
        read_varints(b"\x80\x80", 1)
