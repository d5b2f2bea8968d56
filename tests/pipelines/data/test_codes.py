"""The code data set: bytes that depend on nothing but the inputs, resumed or not, and a reader that trusts no file."""

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from pipelines.data import codes as codes_module
from pipelines.data.codes import CodeData, write_codes
from pipelines.data.images import ImageSplit
from pipelines.data.manifest import MANIFEST, read_manifest
from pipelines.files.errors import InputError
from pipelines.files.formats import FORMAT
from pipelines.files.reading import LARGEST_TEXT
from pipelines.splits.base import Batch, Data
from pipelines.splits.rows import Channels, Rows

HASH, OTHER = "ab" * 32, "cd" * 32


class Toy(Data):
    """Non-square images whose first pixel tells the item; label `kind` has a class that never occurs."""

    name, kind, shape = "toy", "image", (1, 4, 6)
    label_names, classes = ("kind", "speaker"), (("a", "b", "never"), ("theo", "yves"))
    splits = ("train", "validation")

    def _split(self, name: str) -> ImageSplit:
        number = {"train": 23, "validation": 9}[name]
        generator = torch.Generator().manual_seed(number)
        images = torch.randint(0, 256, (number, 1, 6, 8), generator=generator).to(torch.uint8)
        labels = torch.stack([torch.arange(number) % 2, torch.arange(number) % 3 // 2], 1)
        return ImageSplit(images, labels, size=(4, 6), flip=True)


def encode(batch: Batch) -> dict[str, torch.Tensor]:
    """(b, 1, 4, 6) -> grid (2, 3): every second pixel."""
    return {"codes": batch.x[:, 0, ::2, ::2].long()}


def write(folder: Path, encode: Callable = encode, data: Data | None = None, **options) -> CodeData:
    settings = {"num_codes": 256, "num_codebooks": 1, "stage1_hash": HASH, "batch_size": 4, "shard_size": 7}
    return write_codes(folder, data or Toy(), encode, **settings | options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def everything(data: Data, split: str, **options) -> Batch:
    return data.split(split).batch(torch.arange(len(data.split(split))), **options)


def test_what_was_written_is_read(tmp_path):
    data = write(tmp_path)
    assert isinstance(data, Data) and data.kind == "codes" and data.name == "toy" and data.splits == Toy.splits
    assert (data.num_codes, data.num_codebooks, data.grid, data.shape) == (256, 1, (2, 3), (2, 3))
    assert data.label_names == Toy.label_names and data.classes == Toy.classes and data.stage1_hash == HASH
    assert data.manifest.data == {"name": "toy", "kind": "image", "shape": (1, 4, 6)}
    assert data.label_counts == ((12, 11, 0), (16, 7))
    for split in data.splits:
        images, read = everything(Toy(), split), everything(data, split)
        assert torch.equal(read.x, encode(images)["codes"]) and read.x.dtype == torch.int64
        assert torch.equal(read.labels, images.labels) and read.local is None and read.lengths is None
    batch = data.split("train").batch(torch.tensor([22, 7, 7]), seed=3, epoch=5)
    assert torch.equal(batch.x, everything(data, "train").x[[22, 7, 7]])


def test_reading_codes_imports_nothing_that_takes_long(folder, pytestconfig):
    script = f"""if True:
        import sys
        from pathlib import Path
        from pipelines.data.codes import CodeData
        CodeData(Path({str(folder)!r})).split("train")
        sys.exit("sympy" in sys.modules)  # a quarter of a second, by some functions of torch
    """
    assert subprocess.run([sys.executable, "-c", script], cwd=pytestconfig.rootpath, timeout=120).returncode == 0


@pytest.mark.parametrize(("num_codes", "stored"), [(2, "uint8"), (256, "uint8"), (257, "uint16"), (65536, "uint16"),
                                                   (65537, "int32")])
def test_codes_of_every_size_come_back(num_codes, stored, tmp_path):
    def ends(batch: Batch) -> dict[str, torch.Tensor]:
        return {"codes": torch.where(batch.x[:, 0, ::2, ::2] > 127, num_codes - 1, 0)}

    data = write(tmp_path, ends, num_codes=num_codes)
    assert load_file(tmp_path / "train-00000.safetensors")["codes"].dtype == stored
    assert torch.equal(everything(data, "train").x, ends(everything(Toy(), "train"))["codes"])
    assert everything(data, "train").x.max() == num_codes - 1


def test_codebooks_lengths_and_local_fields(tmp_path):
    def several(batch: Batch) -> dict[str, torch.Tensor]:
        pixels = batch.x[:, 0, ::2, ::2].long()
        return {"codes": torch.stack([pixels, 255 - pixels], -1), "lengths": pixels[:, 0, 0] % 2 + 1,
                "turn": pixels[:, None].float() / 7, "actions": torch.stack([pixels, pixels + 1], 1).to(torch.uint8)}

    data = write(tmp_path, several, num_codebooks=2)
    expected, read = several(everything(Toy(), "train")), everything(data, "train")
    assert data.grid == (2, 3) and data.shape == (2, 3, 2) and torch.equal(read.x, expected["codes"])
    assert torch.equal(read.lengths, expected["lengths"])
    assert torch.equal(read.local, torch.cat([expected["actions"].float(), expected["turn"]], 1))  # sorted by name


def test_local_fields_that_do_not_change_along_an_axis_are_stored_once_and_given_everywhere(tmp_path):
    def conditions(batch: Batch) -> dict[str, torch.Tensor]:
        rows = batch.x[:, 0, ::2, :2].mT[..., None]  # axes that lie in memory in another order
        return encode(batch) | {"actions": rows, "turn": batch.x[:, :, ::2, ::2].float()}

    data, images = write(tmp_path, conditions), everything(Toy(), "train")
    assert load_file(tmp_path / "train-00000.safetensors")["actions"].shape == (7, 2, 2, 1)
    expected = torch.cat([conditions(images)["actions"].float().expand(-1, -1, -1, 3), conditions(images)["turn"]], 1)
    assert torch.equal(everything(data, "train").local, expected)
    alone = write(tmp_path / "alone", lambda batch: encode(batch) | {"actions": conditions(batch)["actions"]})
    assert alone.split("train").local.shape == (23, 2, 2, 1)
    assert torch.equal(everything(alone, "train").local, expected[:, :2])


@pytest.mark.parametrize("num_codes", [256, 300, 70_000])
def test_a_set_that_stays_in_its_files_gives_the_same_items(num_codes, tmp_path, monkeypatch):
    def several(batch: Batch) -> dict[str, torch.Tensor]:
        pixels = batch.x[:, 0, ::2, ::2].long()
        return {"codes": pixels * (num_codes - 1) // 255, "lengths": pixels[:, 0, 0] % 2 + 1,
                "turn": pixels[:, None].float() / 7, "actions": torch.stack([pixels, pixels + 1], 1)[..., :1]}

    small = write(tmp_path, several, num_codes=num_codes).split("train")
    monkeypatch.setattr(codes_module, "IN_MEMORY", 0)
    large = CodeData(tmp_path).split("train").to("cpu")
    assert isinstance(small.x, torch.Tensor) and isinstance(large.x, Rows) and isinstance(large.local, Channels)
    assert large.x.shape == small.x.shape and large.x.dtype == small.x.dtype and large.local.shape == small.local.shape
    assert large.x.element_size() == small.x.element_size() and torch.equal(large.x[-2], small.x[-2])
    assert large._copy(torch.device("cpu")).equal(small.x)  # as onto a GPU
    for indices in (torch.arange(23), torch.arange(22, -1, -3), torch.tensor([13, 6, 13, 14, 0]), torch.tensor([7])):
        for mine, theirs in zip(large.batch(indices), small.batch(indices), strict=True):
            assert mine is theirs is None or (torch.equal(mine, theirs) and mine.dtype == theirs.dtype)
    with pytest.raises(IndexError, match="items 3 to 23 of 23"):
        large.x[torch.tensor([23, 3])]


def test_a_file_that_becomes_shorter_while_it_is_read_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(codes_module, "IN_MEMORY", 0)
    split, shard = write(tmp_path).split("train"), tmp_path / "train-00001.safetensors"
    os.truncate(shard, shard.stat().st_size - 8)
    assert len(split.batch(torch.tensor([0, 22])).x) == 2
    with pytest.raises(InputError, match=f"{shard}: expected 6 bytes for item 6, found the end of the file"):
        split.batch(torch.arange(23))


def test_opening_a_set_takes_memory_for_a_piece_of_it_only(tmp_path, monkeypatch):
    class Large(Toy):
        def _split(self, name: str) -> ImageSplit:
            return ImageSplit(torch.zeros(64, 1, 128, 256, dtype=torch.uint8), torch.zeros(64, 2, dtype=torch.int64),
                              size=(128, 256))

    write(tmp_path, lambda batch: {"codes": batch.x[:, 0].long()}, Large(), batch_size=64, shard_size=64)
    monkeypatch.setattr(codes_module, "IN_MEMORY", 0)
    monkeypatch.setattr(codes_module, "PIECE", 2**16)
    tracemalloc.start()
    try:
        CodeData(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 128 * 256 // 4, f"{peak} bytes for two shards of 2 MiB"


def test_views_are_the_plain_pass_and_then_epochs(tmp_path):
    data, toy = write(tmp_path, views=3, seed=11), Toy()
    passes = [everything(toy, "train", seed=11, epoch=epoch) for epoch in (None, 0, 1)]
    assert torch.equal(everything(data, "train").x, torch.cat([encode(batch)["codes"] for batch in passes]))
    assert torch.equal(everything(data, "train").labels, torch.cat([batch.labels for batch in passes]))
    assert not torch.equal(passes[1].x, passes[2].x)
    assert len(data.split("validation")) == 9 and data.label_counts == ((36, 33, 0), (48, 21))


def test_two_extractions_give_the_same_bytes(tmp_path):
    write(tmp_path / "one", views=2)
    write(tmp_path / "two", views=2, batch_size=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert [load_file(path)["codes"].shape[0] for path in sorted((tmp_path / "one").glob("train*"))] == [7] * 6 + [4]


class Killed(BaseException):
    """As a signal would end the process."""


@pytest.mark.parametrize("calls", [0, 1, 3, 7, 12])
def test_an_interrupted_extraction_ends_with_the_same_bytes(calls, tmp_path):
    """Killed in the encoder after some batches; then nothing that was written is written again."""
    write(tmp_path / "straight", views=2)
    left = [calls]

    def failing(batch: Batch) -> dict[str, torch.Tensor]:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return encode(batch)

    with pytest.raises(Killed):
        write(tmp_path / "resumed", failing, views=2)
    assert not (tmp_path / "resumed" / MANIFEST).exists()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "resumed").iterdir()}
    with pytest.raises(InputError, match="expected the manifest"):
        CodeData(tmp_path / "resumed")
    write(tmp_path / "resumed", views=2)
    assert contents(tmp_path / "resumed") == contents(tmp_path / "straight")
    assert before == {name: (tmp_path / "resumed" / name).stat().st_mtime_ns for name in before}
    assert len(before) == max(0, calls - 1) // 2  # two batches a shard, one call to learn the grid


@pytest.mark.parametrize("renames", range(10))
def test_a_kill_before_any_rename_loses_nothing(renames, tmp_path, monkeypatch):
    """Leaves the temporary file behind, as a kill does."""
    write(tmp_path / "straight", views=2)
    left, rename = [renames], os.replace

    def failing(source: Path, target: Path) -> None:
        if left[0] == 0:
            source.rename(source.with_name(f".{target.name}.1.tmp"))
            raise Killed
        left[0] -= 1
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(Killed):
            write(tmp_path / "resumed", views=2)
    assert len(list((tmp_path / "resumed").iterdir())) == renames + 1
    write(tmp_path / "resumed", views=2)
    assert contents(tmp_path / "resumed") == contents(tmp_path / "straight")


def test_a_finished_extraction_is_not_repeated(tmp_path):
    write(tmp_path)
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    write(tmp_path)
    assert times == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("other", [{"stage1_hash": OTHER}, {"views": 2}, {"shard_size": 8}, {"num_codes": 300},
                                   {"parent_hash": OTHER}, {"seed": 1}])
def test_codes_of_another_extraction_are_kept_unless_overwritten(other, finished, tmp_path):
    write(tmp_path)
    if not finished:
        (tmp_path / MANIFEST).unlink()
    before = contents(tmp_path)
    with pytest.raises(InputError, match="another extraction's; extract.overwrite=true removes them") as error:
        write(tmp_path, **other)
    assert str(tmp_path) in str(error.value) and contents(tmp_path) == before
    write(tmp_path, overwrite=True, **other)
    write(tmp_path / "fresh", **other)
    assert contents(tmp_path) == contents(tmp_path / "fresh") != before


def test_overwriting_leaves_other_files_alone(tmp_path):
    write(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    save_file({"w": np.zeros(3)}, tmp_path / "model.safetensors")
    write(tmp_path, overwrite=True, stage1_hash=OTHER)
    assert (tmp_path / "notes.txt").read_text() == "mine" and (tmp_path / "model.safetensors").exists()


def test_a_damaged_shard_stops_an_extraction_that_would_go_on(tmp_path):
    write(tmp_path)
    (tmp_path / MANIFEST).unlink()
    shard = tmp_path / "train-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:40])
    with pytest.raises(InputError, match="expected a complete shard, found a damaged one") as error:
        write(tmp_path)
    assert str(shard) in str(error.value)


@pytest.mark.parametrize(("options", "message"), [
    ({"num_codes": 2**24 + 1}, "num_codes: expected 2 to 16777216, found 16777217"),
    ({"views": 0}, "extract.views: expected 1 to"),
    ({"batch_size": 0}, "extract.batch_size: expected 1 to"),
    ({"shard_size": 0}, "extract.shard_size: expected 1 to"),
])
def test_wrong_settings_are_named(options, message, tmp_path):
    with pytest.raises(InputError) as error:
        write(tmp_path / "codes", **options)
    assert message in str(error.value) and not (tmp_path / "codes").exists()


def test_codes_out_of_range_are_our_bug(tmp_path):
    with pytest.raises(AssertionError):
        write(tmp_path, num_codes=16)
    assert not list(tmp_path.iterdir())


# What a reader must refuse: each in one message that names the file, what was expected and what was found.


def refused(folder: Path, *words: str) -> str:
    with pytest.raises(InputError) as error:
        CodeData(folder)
    message = str(error.value)
    assert "expected" in message and "found" in message and str(folder) in message, message
    for word in words:
        assert word in message, message
    return message


@pytest.fixture
def folder(tmp_path) -> Path:
    write(tmp_path)
    return tmp_path


def change(folder: Path, **values) -> None:
    """Changes keys of the manifest; the shards' fields by `shard=...`."""
    content = json.loads((folder / MANIFEST).read_text())
    content["splits"]["train"][1] |= values.pop("shard", {})
    (folder / MANIFEST).write_text(json.dumps(content | values))


def reseal(folder: Path, name: str, **arrays: np.ndarray | None) -> None:
    """Replaces arrays of a shard (None: leaves them out) and makes size and checksum in the manifest agree."""
    present = {key: value for key, value in (load_file(folder / name) | arrays).items() if value is not None}
    save_file(present, folder / name)
    reseal_bytes(folder, name, (folder / name).read_bytes())


def reseal_bytes(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    for shards in manifest["splits"].values():
        for shard in shards:
            if shard["file"] == name:
                shard |= {"bytes": len(content), "sha256": codes_module.hashlib.sha256(content).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_every_flipped_byte_of_a_shard_is_found(folder):
    shard = folder / "validation-00000.safetensors"
    whole = shard.read_bytes()
    for place in range(0, len(whole), 17):
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        refused(folder, shard.name, "checksum")


def test_missing_truncated_and_grown_shards(folder):
    shard = folder / "train-00002.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    refused(folder, shard.name, f"expected {len(whole)} bytes, found {len(whole) - 1}")
    shard.write_bytes(whole + b" ")
    refused(folder, shard.name, f"found {len(whole) + 1}")
    shard.unlink()
    refused(folder, "splits.train", shard.name)


def test_no_manifest(folder):
    (folder / MANIFEST).unlink()
    refused(folder, MANIFEST, "make extract-codes")
    refused(folder / "nowhere", MANIFEST)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"version": 1}'])
def test_a_manifest_that_is_none(text, folder):
    (folder / MANIFEST).write_bytes(text)
    refused(folder, MANIFEST)


def test_a_manifest_that_would_fill_the_memory(folder):
    with open(folder / MANIFEST, "r+b") as file:
        file.truncate(LARGEST_TEXT + 1)
    refused(folder, f"at most {LARGEST_TEXT} bytes")


@pytest.mark.parametrize("name", ["../train-00001.safetensors", "/etc/passwd", "train-1.safetensors", "", 7, None,
                                  "validation-00000.safetensors", "train-00001.safetensors\n"])
def test_shard_names_stay_in_the_folder(name, folder):
    change(folder, shard={"file": name})
    refused(folder, "splits.train[1].file: expected train-00001.safetensors")


def test_a_split_name_that_leaves_the_folder(folder):
    content = json.loads((folder / MANIFEST).read_text())
    shards = [shard | {"file": "../" + shard["file"]} for shard in content["splits"]["train"]]
    change(folder, splits=content["splits"] | {"../train": shards})
    refused(folder, "splits: expected names of lower-case letters, found '../train'")


def test_a_link_out_of_the_folder(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "train-00001.safetensors"
    (folder / outside.name).rename(outside)
    (folder / outside.name).symlink_to(outside)
    refused(folder, "splits.train", outside.name)


@pytest.mark.parametrize(("key", "value"), [
    ("version", FORMAT + 1), ("version", 0), ("version", "2"), ("version", None),
    ("num_codes", 1), ("num_codes", 2**24 + 1), ("views", True),
    ("num_codes", 256.0), ("num_codebooks", 0), ("grid", []), ("grid", [2, 0]), ("grid", [2, -3]), ("grid", "23"),
    ("grid", [2, 3.0]), ("data", []), ("data", {"name": "x"}), ("classes", [["a"]]),
    ("label_names", ["kind", "kind"]),
    ("classes", [["b", "a", "never"], ["theo", "yves"]]), ("classes", [["a", "a", "b"], ["theo", "yves"]]),
    ("classes", [[], ["theo", "yves"]]), ("classes", 3), ("label_counts", [[12, 11, 0], [23]]),
    ("label_counts", [[11, 12, 0], [16, 7]]), ("views", 0), ("stage1_hash", "ab"), ("stage1_hash", None),
    ("parent_hash", 5), ("extraction", HASH.upper()), ("splits", {}), ("splits", {"train": []}),
    ("splits", {"train": 1}), ("splits", {"train": [{}]}), ("unknown", 1),
])
def test_wrong_values_in_the_manifest(key, value, folder):
    change(folder, **{key: value})
    refused(folder, MANIFEST, key if key != "unknown" else "keys")


@pytest.mark.parametrize(("key", "value"), [("count", 0), ("count", 2.0), ("bytes", -1), ("sha256", "zz" * 32)])
def test_wrong_values_of_a_shard(key, value, folder):
    change(folder, shard={key: value})
    refused(folder, f"splits.train[1].{key}")


@pytest.mark.parametrize("claim", [{"grid": [2**28]}, {"grid": [2**14, 2**14]}, {"shard": {"count": 2**61}},
                                   {"num_codebooks": 2**16}])
def test_huge_claims_are_refused_before_memory_is_taken(claim, folder):
    change(folder, **claim)
    refused(folder, "splits.train", "items", "bytes")


def test_a_file_with_holes_larger_than_memory(folder):
    """Size on paper: 8 TB that take no room on the disk, and would take an hour to read."""
    os.truncate(folder / "train-00001.safetensors", 2**43)
    change(folder, shard={"bytes": 2**43})
    refused(folder, "train-00001.safetensors", "file not fully covered")


def test_more_items_than_memory_has_room_for_their_labels(folder, monkeypatch):
    monkeypatch.setattr(codes_module, "memory_bytes", lambda: 8 * (23 + 9) * 5 - 1)
    refused(folder, "expected items whose labels and order fit into memory, 1279 bytes, found 32 items, 1280 bytes")


@pytest.mark.parametrize(("arrays", "words"), [
    ({"codes": np.zeros((7, 2, 3), np.int64)}, "codes: expected ('uint8', (7, 2, 3)), found ('int64', (7, 2, 3))"),
    ({"codes": np.zeros((7, 3, 2), np.uint8)}, "found ('uint8', (7, 3, 2))"),
    ({"codes": np.zeros((8, 2, 3), np.uint8)}, "found ('uint8', (8, 2, 3))"),
    ({"codes": None}, "codes: expected ('uint8', (7, 2, 3)), found None"),
    ({"labels": None}, "labels"),
    ({"labels": np.zeros((7, 2), np.int32)}, "labels"),
    ({"labels": np.full((7, 2), 2)}, "labels[:, 1]: expected values from 0 to 1, found (2, 2)"),
    ({"labels": np.full((7, 2), -1)}, "labels[:, 0]: expected values from 0 to 2"),
    ({"lengths": np.ones(7)}, "lengths: expected ('int64', (7,)), found ('float64', (7,))"),
    ({"lengths": np.ones(7, np.int64)}, "fields: expected those of train-00000.safetensors"),
    ({"lengths": np.full(7, 3)}, "lengths: expected values from 1 to 2, found (3, 3)"),
    ({"actions": np.ones((7, 1, 3, 2), np.float32)}, "actions: expected a local field"),
    ({"actions": np.ones(7, np.float32)}, "actions: expected a local field"),
])
def test_wrong_arrays_in_a_shard(arrays, words, folder):
    reseal(folder, "train-00001.safetensors", **arrays)
    refused(folder, "train-00001.safetensors", words)


def test_codes_above_the_codebook(folder):
    change(folder, num_codes=64)
    refused(folder, "train-00000.safetensors: codes: expected values from 0 to 63")


def test_a_foreign_file_in_the_place_of_a_shard(folder):
    content = (folder / "train-00001.safetensors").read_bytes()
    for foreign in (b"", b"\x80\x04" + content[2:], b"\xff" * 8 + content[8:], content[:8] + b"[" + content[9:]):
        reseal_bytes(folder, "train-00001.safetensors", foreign.ljust(len(content) if foreign else 0))
        refused(folder, "train-00001.safetensors")


def test_no_flipped_byte_of_the_manifest_raises_anything_else(folder):
    """Either the message of a refusal, or a manifest that differs where it may: in a name."""
    whole = (folder / MANIFEST).read_bytes()
    for place in range(0, len(whole), 3):
        (folder / MANIFEST).write_bytes(whole[:place] + bytes([whole[place] ^ 2]) + whole[place + 1 :])
        try:
            changed = CodeData(folder).manifest
        except InputError as error:
            assert str(folder) in str(error)
        else:
            (folder / MANIFEST).write_bytes(whole)
            original = read_manifest(folder)
            same = {"data": original.data, "label_names": original.label_names, "classes": original.classes,
                    "views": original.views, "stage1_hash": HASH, "extraction": original.extraction,
                    "num_codes": original.num_codes, "parent_hash": None}
            assert replace(changed, **same) == original
