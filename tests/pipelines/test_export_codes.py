"""Codes of a run as token files of every format: what is exported is what was extracted, and is imported again."""

import hashlib
import json
import re
import shutil

import numpy as np
import pytest
import torch

from pipelines import load
from pipelines.data.codes import CodeData
from pipelines.data.importing import Wishes, import_tokens
from pipelines.files.errors import InputError
from pipelines.runs.store import Run
from pipelines.tokens import all_formats
from pipelines.tokens.base import Options

FORMATS = sorted(all_formats())
ITEMS = {"train": 1438, "validation": 359}  # of the embedded digits


def same(one: CodeData, other: CodeData) -> None:
    assert one.splits == other.splits and one.classes == other.classes and one.label_names == other.label_names
    for name in one.splits:
        for a, b in zip(one.split(name).evaluation_batches(), other.split(name).evaluation_batches(), strict=True):
            assert torch.equal(a.x, b.x) and torch.equal(a.labels, b.labels)
            assert a.lengths is None and b.lengths is None


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_exported_comes_back(tiny_run, tmp_path, form):
    made = load(tiny_run, "cpu").export_codes(tmp_path / "out", form)
    assert made.items == ITEMS
    imported = import_tokens(Run(tmp_path / "runs/back"), {"train": tmp_path / "out"}, Wishes())
    same(CodeData(tiny_run / "codes"), imported.codes)
    assert imported.codes.num_codes == 32 and imported.layout.format == form
    assert load(tmp_path / "runs/back", "cpu").export_codes(tmp_path / "again", form).files == made.files
    for name, file in made.files.items():
        one, two = tmp_path / "out" / file, tmp_path / "again" / file
        if one.is_file():
            assert one.read_bytes() == two.read_bytes(), name


@pytest.mark.parametrize("form", FORMATS)
def test_the_python_of_the_card_reads_the_codes(tiny_run, tmp_path, form, monkeypatch, capsys):
    load(tiny_run, "cpu").export_codes(tmp_path / "out", form)
    text = (tmp_path / "out/README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    code += "\nprint((codes if hasattr(codes, 'ravel') else codes[0]).ravel()[:16].tolist())"
    monkeypatch.chdir(tmp_path / "out")
    exec(code, {})
    printed = capsys.readouterr().out
    first = next(CodeData(tiny_run / "codes").split("train").evaluation_batches()).x[0].flatten().tolist()
    assert printed.splitlines()[-1] == str(first)
    card = json.loads((tmp_path / "out/card.json").read_text())
    assert card["num_codes"] == 32 and card["grid"] == [4, 4] and card["items"] == ITEMS
    assert card["stage1_hash"] == CodeData(tiny_run / "codes").stage1_hash and card["stage1_hash"] in text
    assert card["labels"] == {"digit": list("0123456789")} and "EMAQuantizer" in card["made_by"]


def test_lengths_and_local_fields_are_exported_too(tmp_path, tiny_run):
    """As of audio and video: the manifest and shards of a run with such fields."""
    from safetensors.numpy import load_file, save_file

    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    manifest = json.loads((run / "codes/manifest.json").read_text())
    for shards in manifest["splits"].values():
        for shard in shards:
            path = run / "codes" / shard["file"]
            arrays = load_file(path)
            save_file(arrays | {"actions": np.ones((len(arrays["codes"]), 2, 4, 1), np.int64)}, path)
            content = path.read_bytes()
            shard |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (run / "codes/manifest.json").write_text(json.dumps(manifest))
    load(run, "cpu").export_codes(tmp_path / "npz", "npz")
    with np.load(tmp_path / "npz/train.npz") as file:
        assert file["local_actions"].shape == (1438, 2, 4, 1) and file["label_digit"].dtype == np.int64
    load(run, "cpu").export_codes(tmp_path / "npy", "npy")
    assert np.load(tmp_path / "npy/train.local_actions.npy").shape == (1438, 2, 4, 1)
    assert "Local field `local_actions`, 2 x 4 x 1 per item" in (tmp_path / "npy/README.md").read_text()
    imported = import_tokens(Run(tmp_path / "runs/back"), {"train": tmp_path / "npz"}, Wishes())
    assert any(what.endswith("train.npz: local_actions") for what in imported.left_out)


def test_a_folder_that_exists_and_a_run_without_codes_are_refused(tiny_run, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="^output: expected a folder that does not exist yet"):
        load(tiny_run, "cpu").export_codes(tmp_path / "out", "npz")
    with pytest.raises(InputError, match="expected the manifest of a finished code data set, found none"):
        load("mnist", "cpu").export_codes(tmp_path / "x", "npz")
    assert not (tmp_path / "x").exists()


def test_splits_may_have_longest_items_of_different_lengths(tmp_path):
    """As splits of lists and of files of their own have them."""
    for name, lengths in (("train", [2, 4, 3]), ("validation", [3, 3]), ("test", [5, 1])):
        (tmp_path / "in" / name).mkdir(parents=True)
        for number, length in enumerate(lengths):
            np.save(tmp_path / "in" / name / f"{number}.npy", np.arange(1, 1 + length))
    data = import_tokens(Run(tmp_path / "runs/a"), {"train": tmp_path / "in"}, Wishes()).codes
    assert data.grid == (5,)
    assert [data.split(name).lengths.tolist() for name in data.splits] == [[2, 4, 3], [3, 3], [5, 1]]
    assert data.split("validation").batch(torch.arange(1)).x.tolist() == [[1, 2, 3, 0, 0]]
    for form in ("folder", "parquet", "npz", "npy", "safetensors"):
        load(tmp_path / "runs/a", "cpu").export_codes(tmp_path / form, form)
        again = import_tokens(Run(tmp_path / f"runs/{form}"), {"train": tmp_path / form}, Wishes()).codes
        assert again.stage1_hash == data.stage1_hash, form
    for path in (tmp_path / "in").glob("*/*.npy"):
        assert (tmp_path / "folder" / path.parent.name / f"0000{path.name}").read_bytes() == path.read_bytes()


def test_items_with_lengths_are_no_stream(tmp_path):
    for name in ("train", "val"):
        np.savez(tmp_path / f"{name}.npz", codes=np.zeros((3, 4), int), lengths=np.array([1, 2, 4]))
    import_tokens(Run(tmp_path / "runs/a"), {"train": tmp_path}, Wishes(options=Options()))
    with pytest.raises(InputError, match="^format: expected one that keeps items apart"):
        load(tmp_path / "runs/a", "cpu").export_codes(tmp_path / "out", "bin")
    assert not (tmp_path / "out").exists()
