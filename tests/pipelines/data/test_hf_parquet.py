"""Parquet files as the Hugging Face hub keeps them: the items of the folders that were packed, refusals in one line."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from PIL import Image

from pipelines.data.audio_folder import AudioFolder
from pipelines.data.hf_parquet import HfParquet
from pipelines.data.image_folder import ImageFolder
from pipelines.files.errors import InputError

CLASSES = {"_type": "ClassLabel", "names": ["owl", "cat"]}


def picture(number: int) -> bytes:
    file = io.BytesIO()
    draws = np.random.default_rng(number)
    Image.fromarray(draws.integers(0, 256, (14, 12, 3), dtype=np.uint8)).save(file, "png")
    return file.getvalue()


def sound(number: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(number).uniform(-0.5, 0.5, 900 + 100 * number), 11_025, format="WAV")
    return file.getvalue()


def pack(path: Path, features: dict[str, Any] | None = None, **columns: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=4)
    return path


def cells(contents: list[bytes], suffix: str | None = "png") -> list[dict]:
    return [{"bytes": content, "path": suffix and f"{number:04d}.{suffix}"} for number, content in enumerate(contents)]


@pytest.fixture
def load(tmp_path):
    def load(**options) -> HfParquet:
        settings = {"size": 12, "workers": 1, "validation_fraction": 0.25, "cache": str(tmp_path / "cache")}
        return HfParquet(str(tmp_path / "rows"), **settings | options)

    return load


def everything(data, split: str, **options):
    return data.split(split).batch(torch.arange(len(data.split(split))), **options)


@pytest.mark.parametrize("cache_bytes", [0, 1])
def test_images_are_those_of_a_folder_with_the_names_of_the_features(cache_bytes, load, tmp_path):
    pictures = [picture(number) for number in range(9)]
    (tmp_path / "files").mkdir()
    for number, content in enumerate(pictures):
        (tmp_path / "files" / f"{number}.png").write_bytes(content)
    pack(tmp_path / "rows" / "0.parquet", {"image": {"_type": "Image"}, "label": CLASSES},
         image=cells(pictures, suffix=None), label=[number % 2 for number in range(9)])
    data = load(cache_bytes=cache_bytes)
    same = ImageFolder(str(tmp_path / "files"), str(tmp_path / "cache"), size=12, workers=1, validation_fraction=0.25)
    assert data.kind == "image" and data.label_names == ("label",) and data.classes == (("cat", "owl"),)
    for split in ("train", "validation"):
        assert torch.equal(everything(data, split).x, everything(same, split).x)
        numbers = same.parts[split][0]
        assert everything(data, split).labels[:, 0].tolist() == [1 - int(number) % 2 for number in numbers]


def test_recordings_are_those_of_a_folder(load, tmp_path):
    (tmp_path / "files").mkdir()
    for number in range(6):
        (tmp_path / "files" / f"{number}.wav").write_bytes(sound(number))
    pack(tmp_path / "rows" / "0.parquet", audio=cells([sound(number) for number in range(6)], "wav"),
         speaker=["ann", "bob"] * 3)
    options = {"sample_rate_hz": 8000, "crop": 256, "length": 1024}
    data = load(labels="speaker", **options)
    same = AudioFolder(str(tmp_path / "files"), str(tmp_path / "cache"), workers=1, validation_fraction=0.25, **options)
    assert data.kind == "audio" and data.sample_rate_hz == 8000 and data.classes == (("ann", "bob"),)
    for split in data.splits:
        assert torch.equal(everything(data, split, seed=1, epoch=0).x, everything(same, split, seed=1, epoch=0).x)


def test_splits_are_found_by_name_as_the_hub_has_them(load, tmp_path):
    for name, count in (("train-00000-of-00002", 3), ("train-00001-of-00002", 2), ("test-00000-of-00001", 4)):
        pack(tmp_path / "rows" / "data" / f"{name}.parquet", image=cells([picture(number) for number in range(count)]))
    data = load()
    assert {split: len(data.split(split)) for split in data.splits} == {"train": 4, "validation": 1, "test": 4}
    pack(tmp_path / "rows" / "data" / "more.parquet", image=cells([picture(0)]))
    with pytest.raises(InputError, match=r"data/more\.parquet: expected a name that begins with train-"):
        load()


def test_a_cell_that_is_no_image_is_named(load, tmp_path, capsys):
    pack(tmp_path / "rows" / "0.parquet", image=[*cells([picture(0), picture(1), b"x", picture(3)]),
                                                 {"bytes": None, "path": "elsewhere.png"}])
    data = load(validation_fraction=0.4)
    assert sum(len(data.split(split)) for split in data.splits) == 3
    error = capsys.readouterr().err
    assert "rows/0.parquet: row 2: 0002.png: cannot identify image file" in error
    assert "rows/0.parquet: row 4: elsewhere.png: it has no bytes, but names another file" in error


@pytest.mark.parametrize(("columns", "features", "options", "message"), [
    ({"label": [1]}, None, {}, "expected one column of {bytes, path}; data.column names it; found label: int64"),
    ({"a": cells([b"x"]), "b": cells([b"x"])}, None, {}, "expected one column of {bytes, path}"),
    ({"a": cells([b"x"])}, None, {"column": "b"}, "expected the column b of {bytes, path}"),
    ({"a": cells([b"x"], None)}, None, {}, "a: expected the feature Image or Audio, or paths with a suffix"),
    ({"a": cells([b"x"])}, None, {"labels": "kind"}, "data.labels: expected a column among a, found 'kind'"),
    ({"a": cells([b"x"]), "l": [2]}, {"l": CLASSES}, {}, "l: expected a class from 0 to 1 in each row, found 2"),
    ({"a": cells([b"x"]), "l": ["x", None][1:]}, None, {"labels": "l"}, "l: expected a name or a number in each row"),
    ({"a": cells([b"x"]), "k": [0], "l": [0]}, {"k": CLASSES, "l": CLASSES}, {}, "expected one ClassLabel, found k, l"),
    ({"a": cells([b"x"])}, None, {"labels": True}, "data.labels: expected a column, false or null, found True"),
])
def test_what_cannot_be_used_is_refused(columns, features, options, message, load, tmp_path):
    pack(tmp_path / "rows" / "0.parquet", features, **columns)
    with pytest.raises(InputError) as error:
        load(**options)
    assert message in str(error.value)


def test_a_damaged_file_is_refused(load, tmp_path):
    path = pack(tmp_path / "rows" / "0.parquet", image=cells([picture(0)]))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=f"{path}: expected a whole Parquet file, found one that cannot be read"):
        load()
