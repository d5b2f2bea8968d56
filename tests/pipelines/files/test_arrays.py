"""Files named .npy: numbers are read, everything else is refused in one line."""

import io
import os
import struct
import warnings

import numpy as np
import pytest

from pipelines.files.arrays import read_array
from pipelines.files.errors import InputError


def npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def saved(save, *arrays, **options) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *arrays, **options)
    return buffer.getvalue()


WHOLE = saved(np.save, np.arange(6, dtype=np.int16).reshape(2, 3))
BAD = {
    "an archive": saved(np.savez, a=np.arange(3)),
    "an empty file": b"",
    "text": b"1,2,3\n",
    "objects": saved(np.save, np.array([{}, []], dtype=object), allow_pickle=True),
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtins\x94.",
    "a cut header": WHOLE[:20],
    "a cut array": WHOLE[:-3],
    "another version": b"\x93NUMPY\x09\x00" + WHOLE[8:],
    "no dictionary": npy("[1, 2, 3]"),
    "no Python": npy("{'descr': "),
    "a missing key": npy("{'descr': '<i2', 'shape': (2,)}", bytes(4)),
    "one key more": npy("{'descr': '<i2', 'fortran_order': False, 'shape': (2,), 'x': 1}", bytes(4)),
    "no type": npy("{'descr': 'nonsuch', 'fortran_order': False, 'shape': (2,)}", bytes(4)),
    "a type that is a number": npy("{'descr': 7, 'fortran_order': False, 'shape': (2,)}", bytes(4)),
    "a negative size": npy("{'descr': '<i2', 'fortran_order': False, 'shape': (-2,)}", bytes(4)),
    "two negative sizes": npy("{'descr': '<i2', 'fortran_order': False, 'shape': (-2, -1)}", bytes(4)),
    "a size that is a bool": npy("{'descr': '<i2', 'fortran_order': False, 'shape': (True, 2)}", bytes(4)),
    "a size that is a fraction": npy("{'descr': '<i2', 'fortran_order': False, 'shape': (2.0,)}", bytes(4)),
    "a shape that is a list": npy("{'descr': '<i2', 'fortran_order': False, 'shape': [2]}", bytes(4)),
    "a huge shape": npy("{'descr': '<i2', 'fortran_order': False, 'shape': (10000000000000,)}", bytes(4)),
    "an overflowing shape": npy("{'descr': '<i2', 'fortran_order': False, 'shape': (9999999999, 9999999999)}"),
    "a size of 5,000 digits": npy(f"{{'descr': '<i2', 'fortran_order': False, 'shape': ({'9' * 5000},)}}"),
    "brackets": npy("(" * 9000),
    "a size that asks for NUL": npy("{'descr': '<i2', 'fortran_order': False, 'shape': (2,)}\0", bytes(4)),
    "an order that is a number": npy("{'descr': '<i2', 'fortran_order': 3, 'shape': (2,)}", bytes(4)),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("mapped", [False, True])
def test_what_is_no_array_of_numbers_is_refused(name, mapped, tmp_path):
    path = tmp_path / "frames.npy"
    path.write_bytes(BAD[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError) as error:
            read_array(path, mapped)
    assert str(error.value).startswith(f"{path}: expected a NumPy array") and "found" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("array", [np.arange(6).reshape(2, 3), np.zeros((4, 5, 3), np.uint8), np.array([True, False]),
                                   np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.float32([1, np.nan])])
def test_arrays_of_numbers_are_read(array, tmp_path):
    np.save(tmp_path / "a.npy", array)
    for mapped in (False, True):
        found = read_array(tmp_path / "a.npy", mapped)
        assert found.dtype == array.dtype and np.array_equal(found, array, equal_nan=array.dtype.kind == "f")
        assert isinstance(found, np.memmap) == mapped and found.flags.writeable == (not mapped)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    for name, found in (("pipe.npy", "no regular file"), ("gone.npy", "nothing")):
        with pytest.raises(InputError, match=f"{name}: expected a NumPy array, found {found}"):
            read_array(tmp_path / name)
