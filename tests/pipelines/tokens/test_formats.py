"""Every format of pipelines/tokens, found by globbing: what is written is what is read, and bad files are refused."""

import io
import json
import struct
import zipfile

import numpy as np
import pytest

from pipelines.files.errors import InputError
from pipelines.tokens import all_formats, format_at, format_of
from pipelines.tokens.base import CODES, Label, Layout, Options, Tokens, beside, read_labels, read_lengths, write_beside

NUMBERS = np.array([0, 1, 4])
# Shapes of an item, their grids, and where the codebooks are.
SHAPES = [((6,), (6,), None), ((2, 3), (2, 3), None), ((2, 3, 2), (2, 3, 2), None), ((6,), (2, 3), None),
          ((3, 4), (4,), "first"), ((4, 3), (4,), "last"), ((2, 2, 3), (2, 3), "first"), ((12,), (2, 3), "last")]


def pytest_generate_tests(metafunc):
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", all_formats())


def layout_of(name, dtype="<u2", shape=(6,), grid=(6,), axis=None, **more) -> Layout:
    books = int(np.prod(shape) // np.prod(grid))
    return Layout(name, dtype, shape, grid, books, axis, **more)


def read_all(source) -> np.ndarray:
    return source.rows(np.arange(source.count))


@pytest.mark.parametrize("shape, grid, axis", SHAPES)
def test_items_of_any_shape_come_back_with_their_labels(name, tmp_path, shape, grid, axis):
    if name == "bin" and len(shape) > 1:
        shape = (int(np.prod(shape)),)
    layout = layout_of(name, "<i4" if name != "bin" else "<u2", shape, grid, axis)
    items = np.random.default_rng(0).integers(0, 300, (5, *shape)).astype(layout.dtype)
    label = Label.of(np.array(["b", "a", "b", "c", "a"]), "label")
    path = format_of(name).write(tmp_path, "train", Tokens(items, layout, labels={"letter": label}))
    source = format_at(path).open(path, Options(item_length=int(np.prod(shape))))
    assert source.count == 5 and source.shape == shape and source.dtype == np.dtype(layout.dtype)
    assert source.lengths is None and np.array_equal(read_all(source), items)
    assert np.array_equal(source.rows(NUMBERS), items[NUMBERS])
    found = dict(source.labels) or read_labels(beside(path, "labels.csv"))
    assert found["letter"].names == label.names
    assert np.array_equal(layout.to_items(layout.to_codes(items)), items)


def test_codes_of_a_layout_are_at_their_places():
    """(g, t) and (t, g), and the same cut from a flat row."""
    codes = np.arange(12).reshape(1, 4, 3)  # (n, t, g)
    for shape, axis in (((3, 4), "first"), ((4, 3), "last"), ((12,), "first"), ((12,), "last")):
        items = layout_of("npy", "<i8", shape, (4,), axis).to_items(codes)
        expected = codes if axis == "last" else np.moveaxis(codes, 2, 1)
        assert items.shape == (1, *shape) and np.array_equal(items.ravel(), expected.ravel())


def test_items_with_lengths_come_back_without_their_padding(name, tmp_path):
    layout = layout_of(name, shape=(6,), padded=True)
    items, lengths = np.arange(30).reshape(5, 6).astype("<u2"), np.array([6, 1, 3, 6, 2])
    tokens = Tokens(layout.to_items(items, lengths), layout, lengths)
    if name == "bin":
        with pytest.raises(InputError, match="^format: expected one that keeps items apart.*found bin$"):
            format_of(name).write(tmp_path, "train", tokens)
        return
    path = format_of(name).write(tmp_path, "train", tokens)
    source = format_at(path).open(path, Options())
    found = source.lengths if source.lengths is not None else read_lengths(beside(path, "lengths.npy"))
    real = np.arange(6) < lengths[:, None]
    assert found.tolist() == lengths.tolist() and np.array_equal(read_all(source), np.where(real, items, 0))


@pytest.mark.parametrize("dtype", ["<i8", "<u2", "|u1", ">i4"])
def test_npy_files_and_archives_are_written_to_the_byte_as_numpy_does(tmp_path, dtype):
    items = np.arange(24).reshape(2, 3, 4).astype(dtype)
    np.save(tmp_path / "own.npy", items)
    np.savez(tmp_path / "own.npz", codes=items)
    for name in ("npy", "npz"):
        source = format_of(name).open(tmp_path / f"own.{name}", Options())
        layout = Layout.found(name, source.dtype, source.shape, None, None, source.key, source.path)
        made = format_of(name).write(tmp_path, "made", Tokens(read_all(source), layout))
        assert made.read_bytes() == (tmp_path / f"own.{name}").read_bytes()


def test_compressed_archives_and_other_keys_are_read(tmp_path):
    items = np.arange(12).reshape(4, 3)
    np.savez_compressed(tmp_path / "a.npz", tokens=items, lengths=np.array([1, 2, 3, 3]), label_kind=np.arange(4) % 2)
    source = format_of("npz").open(tmp_path / "a.npz", Options())
    assert source.key == "tokens" and source.lengths.tolist() == [1, 2, 3, 3]
    assert np.array_equal(read_all(source), items)
    assert source.labels["kind"].names == ["0", "1", "0", "1"]
    np.savez(tmp_path / "b.npz", one=items, two=items + 1)
    with pytest.raises(InputError, match="expected an array named codes .--key names another., found one, two$"):
        format_of("npz").open(tmp_path / "b.npz", Options())
    assert read_all(format_of("npz").open(tmp_path / "b.npz", Options(key="two")))[0, 0] == 1


def test_arrays_are_mapped_and_not_read(tmp_path):
    """What `np.save`, `np.savez` and safetensors write stays on the disk until items are asked for."""
    layout = layout_of("npy", "<i4")
    for name in ("npy", "npz", "safetensors", "bin"):
        own = layout_of(name, "<u2") if name == "bin" else layout
        path = format_of(name).write(tmp_path, "train", Tokens(np.zeros((9, 6), own.dtype), own))
        assert isinstance(format_at(path).open(path, Options(item_length=6)).array, np.memmap), name


def test_a_parquet_file_is_read_a_row_group_at_a_time(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [[number, number + 1, 2] for number in range(10)]
    pq.write_table(pa.table({"ids": rows, "label": list(range(10))}), tmp_path / "a.parquet", row_group_size=3)
    source = format_at(tmp_path / "a.parquet").open(tmp_path / "a.parquet", Options())
    assert source.key == "ids" and source.shape == (3,) and source.left_out == ["label"]
    assert source.rows(np.array([2, 3, 9])).tolist() == [rows[2], rows[3], rows[9]] and len(source.arrays) == 1
    with pytest.raises(InputError, match="expected a column of lists named label"):
        format_of("parquet").open(tmp_path / "a.parquet", Options(key="label"))


def refused(path, match, name=None, **options):
    with pytest.raises(InputError, match=match) as refusal:
        read_all(format_at(path, name).open(path, Options(**options)))
    assert "\n" not in str(refusal.value) and path.name in str(refusal.value)


def test_floats_of_any_format_are_refused(tmp_path):
    x = np.zeros((3, 4), np.float32)
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "a.npz", codes=x)
    format_of("safetensors").write(tmp_path, "a", Tokens(x, layout_of("safetensors", "<f4", (4,), (4,))))
    (tmp_path / "items").mkdir()
    np.save(tmp_path / "items" / "0.npy", x)
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({CODES: x.tolist()}), tmp_path / "a.parquet")
    for name in ("a.npy", "a.npz", "a.safetensors", "items", "a.parquet"):
        with pytest.raises(InputError, match="expected.* integers, found"):
            format_at(tmp_path / name).open(tmp_path / name, Options())


def test_pickles_are_never_loaded(tmp_path):
    array = np.array([[1], [{}]], dtype=object)
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    np.savez(tmp_path / "a.npz", codes=array, allow_pickle=True)
    refused(tmp_path / "a.npy", "expected a NumPy array, found a file that cannot be read")
    refused(tmp_path / "a.npz", "found codes.npy with pickled objects$")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("codes.npy", b"cos\nsystem\n(S'true'\ntR.")
    refused(tmp_path / "b.npz", "expected a whole archive of NumPy arrays")


def test_truncated_files_are_refused(tmp_path):
    for name in all_formats():
        if name in ("folder", "bin"):
            continue
        layout = layout_of(name, "<i4")
        path = format_of(name).write(tmp_path, "train", Tokens(np.zeros((50, 6), "<i4"), layout))
        path.write_bytes(path.read_bytes()[:-200])
        refused(path, "expected a.*found")
    (tmp_path / "a.bin").write_bytes(bytes(13))
    refused(tmp_path / "a.bin", "expected whole uint16 numbers .*, found 13 bytes$", item_length=2)
    (tmp_path / "a.bin").write_bytes(bytes(6))
    refused(tmp_path / "a.bin", "expected at least --item-length 4 codes, found 3$", item_length=4)
    refused(tmp_path / "a.bin", "expected --item-length N")


def test_a_size_that_a_header_only_claims_takes_no_memory(tmp_path):
    """10^15 codes in a file of a hundred bytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (10**12, 1000)})
    (tmp_path / "a.npy").write_bytes(header.getvalue() + bytes(64))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("codes.npy", header.getvalue() + bytes(64))
    content = json.dumps({"codes": {"dtype": "I64", "shape": [10**12, 1000], "data_offsets": [0, 64]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(content)) + content + bytes(64))
    for name in ("npy", "npz", "safetensors"):
        refused(tmp_path / f"a.{name}", "found")


def test_items_of_a_folder_that_do_not_fit_together_are_refused(tmp_path):
    for folder, shapes, match in (("two", [(2, 3), (3, 2)], r"differ in one axis at most, found shape \(3, 2\)"),
                                  ("axes", [(2, 3), (6,)], r"expected int64 and 2 axes.*found int64 \(6,\)")):
        (tmp_path / folder).mkdir()
        for number, shape in enumerate(shapes):
            np.save(tmp_path / folder / f"{number}.npy", np.ones(shape, np.int64))
        with pytest.raises(InputError, match=match):
            format_of("folder").open(tmp_path / folder, Options())
    (tmp_path / "none").mkdir()
    refused(tmp_path / "none", "expected a folder of .npy files, one per item, found none")


def test_labels_of_a_damaged_file_are_refused(tmp_path):
    for content, match in (("a,b\n1\n", "line 2: expected 2 values, found 1"), ("", "found an empty file"),
                           ("a,a\n1,2\n", "expected different names")):
        (tmp_path / "labels.csv").write_text(content)
        with pytest.raises(InputError, match=match):
            read_labels(tmp_path / "labels.csv")


def test_names_with_commas_and_quotes_are_kept_in_a_file_of_labels(tmp_path):
    label = Label.of(np.array(['a,"b', "c", 'a,"b']), "x")
    np.save(tmp_path / "t.npy", np.zeros((3, 1), int))
    write_beside(tmp_path / "t.npy", Tokens(np.zeros((3, 1), int), layout_of("npy"), labels={"x": label}), lengths=True)
    assert read_labels(tmp_path / "t.labels.csv")["x"].names == label.names


def test_a_layout_that_a_file_states_is_checked():
    good = layout_of("npy", "<u2", (2, 3), (2, 3)).to_facts()
    assert Layout.from_facts(json.loads(json.dumps(good))) == layout_of("npy", "<u2", (2, 3), (2, 3))
    for key, value in (("dtype", "<f4"), ("grid", [7]), ("shape", [-2, 3]), ("codebook_axis", "middle"),
                       ("padding", "x"), ("key", 3), ("more", 1)):
        with pytest.raises((ValueError, TypeError)):
            Layout.from_facts(good | {key: value})
