"""Tar files in WebDataset's layout: the items of the folders that were packed, and what is damaged is named."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from pipelines.data import members as members_module
from pipelines.data import tar_shards
from pipelines.data.audio_folder import AudioFolder
from pipelines.data.image_folder import ImageFolder
from pipelines.data.tar_shards import TarShards, index
from pipelines.files.errors import InputError


def picture(number: int) -> bytes:
    file = io.BytesIO()
    draws = np.random.default_rng(number)
    Image.fromarray(draws.integers(0, 256, (14, 12, 3), dtype=np.uint8)).save(file, "png")
    return file.getvalue()


def sound(number: int) -> bytes:
    file = io.BytesIO()
    wave = np.random.default_rng(number).uniform(-0.5, 0.5, 900 + 100 * number)
    soundfile.write(file, wave, 11_025, format="FLAC")
    return file.getvalue()


def pack(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def unpacked(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def items(number: int, labels: str = "cls") -> dict[str, bytes]:
    """A class of every item, "0" or "1"."""
    content = {"cls": str(number % 2).encode(), "json": json.dumps({"class": number % 2, "x": None}).encode(),
               "txt": b"ab"[number % 2 : number % 2 + 1] + b"\n"}[labels]
    return {f"{number:04d}.png": picture(number), f"{number:04d}.{labels}": content}


@pytest.fixture
def load(tmp_path):
    def load(root: Path, **options) -> TarShards:
        settings = {"size": 12, "workers": 1, "validation_fraction": 0.25, "cache": str(tmp_path / "cache")}
        return TarShards(str(root), **settings | options)

    return load


def everything(data, split: str, **options):
    return data.split(split).batch(torch.arange(len(data.split(split))), **options)


@pytest.fixture
def pictures(tmp_path) -> Path:
    for shard in range(2):
        own = [items(number) for number in range(shard * 6, shard * 6 + 6)]
        pack(tmp_path / "tars" / f"{shard}.tar", {name: content for part in own for name, content in part.items()})
    return tmp_path / "tars"


def test_images_are_those_of_a_folder(pictures, load, tmp_path):
    data = load(pictures, pad=1, flip=True)
    folder = unpacked(tmp_path / "files", {f"{number:04d}.png": picture(number) for number in range(12)})
    same = ImageFolder(str(folder), str(tmp_path / "cache"), size=12, workers=1, validation_fraction=0.25, pad=1,
                       flip=True)
    assert data.kind == "image" and data.shape == (3, 12, 12) and data.variance == same.variance
    assert data.splits == same.splits == ("train", "validation") and data.digest is not None
    for split in data.splits:
        assert torch.equal(everything(data, split).x, everything(same, split).x)
        assert torch.equal(everything(data, split, seed=3, epoch=1).x, everything(same, split, seed=3, epoch=1).x)


@pytest.mark.parametrize(("labels", "suffix", "classes"), [
    (None, "cls", ("0", "1")), ("cls", "cls", ("0", "1")), ("json.class", "json", ("0", "1")),
    ("txt", "txt", ("a", "b")), (False, "cls", None),
])
def test_labels_are_read_from_the_member_that_says_them(labels, suffix, classes, load, tmp_path):
    for split, start in (("train", 0), ("test", 5)):
        own = {name: content for number in range(start, start + 5) for name, content in items(number, suffix).items()}
        pack(tmp_path / "tars" / split / "0.tar", own)
    data = load(tmp_path / "tars", labels=labels)
    assert data.splits == ("train", "validation", "test") and len(data.split("test")) == 5
    assert data.classes == (() if classes is None else (classes,))
    if classes:
        assert everything(data, "test").labels[:, 0].tolist() == [1, 0, 1, 0, 1]


def test_recordings_are_those_of_a_folder(load, tmp_path):
    files = {f"{number:04d}.flac": sound(number) for number in range(8)}
    labels = {f"{number:04d}.cls": b"x" if number % 2 else b"y" for number in range(8)}
    pack(tmp_path / "tars" / "0.tar", files | labels)
    options = {"sample_rate_hz": 8000, "crop": 256, "length": 1024, "peak": 0.9}
    data = load(tmp_path / "tars", **options)
    same = AudioFolder(str(unpacked(tmp_path / "files", files)), str(tmp_path / "cache"), workers=1,
                       validation_fraction=0.25, **options)
    assert data.kind == "audio" and data.shape == (1, 1024) and data.facts == {"sample_rate_hz": 8000}
    assert data.classes == (("x", "y"),) and data.variance == same.variance
    for split in data.splits:
        for given in ({}, {"seed": 1, "epoch": 2}):
            mine, theirs = everything(data, split, **given), everything(same, split, **given)
            assert torch.equal(mine.x, theirs.x) and torch.equal(mine.lengths, theirs.lengths)


def test_tar_files_are_gone_through_once_and_anew_when_they_change(pictures, load, monkeypatch):
    first = load(pictures)
    with monkeypatch.context() as patch:
        patch.setattr(tar_shards, "index", None)
        assert torch.equal(everything(load(pictures), "train").x, everything(first, "train").x)
    pack(pictures / "0.tar", items(3))
    assert sum(len(load(pictures).split(split)) for split in ("train", "validation")) == 7


def test_items_beyond_the_cache_are_decoded_when_they_are_asked_for(pictures, load, tmp_path, monkeypatch):
    whole = load(pictures, flip=True)
    for most in (1, 5 * 3 * 12 * 12):
        some, reads = load(pictures, flip=True, cache_bytes=most), []
        read = members_module.Slice.read
        monkeypatch.setattr(members_module.Slice, "read", lambda own: reads.append(own.name) or read(own))
        kept = most // (3 * 12 * 12)
        assert sorted(path.stat().st_size for path in (tmp_path / "cache").glob("*.u8"))[0] <= most
        for split in whole.splits:
            for given in ({}, {"seed": 3, "epoch": 1}):
                assert torch.equal(everything(some, split, **given).x, everything(whole, split, **given).x)
        assert len(reads) == 2 * (12 - kept) and some.digest == whole.digest
        monkeypatch.undo()


def test_what_is_damaged_is_named_and_the_rest_is_read(pictures, load, capsys):
    whole = (pictures / "1.tar").read_bytes()
    assert len(index(pictures / "1.tar")["members"]) == 12
    (pictures / "2.tar").write_bytes(b"no tar file" * 100)
    cut = next(offset + size for key, suffix, offset, size in index(pictures / "1.tar")["members"]
               if (key, suffix) == ("0009", "png")) - 10
    (pictures / "1.tar").write_bytes(whole[:cut])
    pack(pictures / "3.tar", {"noname": b"x", ".hidden.png": b"x", "a/.png": b"x", "../../up.png": picture(20),
                              "../../up.cls": b"1", "UP.PNG": picture(21), "UP.cls": b"0", "up.seg.png": b"x",
                              "bad.png": b"x", "bad.cls": b"1"})
    data = load(pictures)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "members or tar files" in line]
    assert f"{pictures}/1.tar: truncated member: 0009.png: " in line
    assert f"{pictures}/2.tar: unreadable tar file" in line
    assert "member of an odd name: noname" in line
    assert dict(data.left_out) == {"truncated member": 1, "unreadable tar file": 1, "member of an odd name": 1,
                                   ".seg.png": 1, "unreadable image": 1}
    assert sum(len(data.split(split)) for split in data.splits) == 6 + 3 + 2


def test_a_damaged_header_in_the_middle_is_found(pictures):
    content, places = bytearray((pictures / "0.tar").read_bytes()), index(pictures / "0.tar")["members"]
    content[places[4][2] - 300] ^= 1
    (pictures / "0.tar").write_bytes(content)
    found = index(pictures / "0.tar")
    assert found["members"] == places[:4] and found["left_out"][0][0] == "unreadable tar file"
    assert f"after 4 members: no header at byte {places[4][2] - 512}" in found["left_out"][0][1]


@pytest.mark.parametrize(("files", "options", "message"), [
    ({}, {}, "expected tar files with images or audio, found none in 1 tar files"),
    ({"0.txt": b"x"}, {}, "expected tar files with images or audio, found none in 1 tar files"),
    ({"0.png": picture(0)}, {"media": "audio"}, "expected tar files with members of the kind audio, found none"),
    ({"0.png": picture(0), "1.png": picture(1), "1.cls": b"3"}, {},
     "0.png: expected a label as other items have one, found none; data.labels=false"),
    ({"0.png": picture(0), "1.png": picture(1)}, {"labels": "txt"}, "data.labels: expected a label txt of each item"),
    ({"0.png": picture(0), "0.json": b"{"}, {"labels": "json.a"}, "0.json: expected json.a, found JSONDecodeError"),
    ({"0.png": picture(0), "0.json": b"{}"}, {"labels": "json.a"}, "0.json: expected json.a, found KeyError"),
    ({"0.png": picture(0), "0.cls": b" "}, {}, "0.cls: expected the name or number of a class, found ''"),
    ({"0.png": b"x", "1.png": b"x"}, {}, "0.png: expected an image, found cannot identify image file; none of 2"),
    ({"0.png": picture(0)}, {"labels": "class"}, "data.labels: expected cls, txt, json.KEY, false or null"),
    ({"0.png": picture(0)}, {"media": "film"}, "data.media: expected image, audio or null, found 'film'"),
])
def test_what_cannot_be_used_is_refused(files, options, message, load, tmp_path):
    pack(tmp_path / "tars" / "0.tar", files)
    with pytest.raises(InputError) as error:
        load(tmp_path / "tars", **{"validation_fraction": 0.5} | options)
    assert message in str(error.value)


def test_a_folder_without_tar_files_is_refused(load, tmp_path):
    with pytest.raises(InputError, match="expected a folder of tar files, found nothing"):
        load(tmp_path / "tars")
    unpacked(tmp_path / "tars", {"0.tar.gz": b"x"})
    with pytest.raises(InputError, match=r"expected tar files \(.tar\), found none; left out: 1 .gz"):
        load(tmp_path / "tars")


def test_a_class_that_training_lacks_is_refused(load, tmp_path):
    pack(tmp_path / "tars" / "train" / "0.tar", items(0) | items(1))
    pack(tmp_path / "tars" / "test" / "0.tar", {"7.png": picture(7), "7.cls": b"7"})
    with pytest.raises(InputError, match=r"test/0\.tar: 7\.png: expected one of the 2 training classes, found '7'"):
        load(tmp_path / "tars", validation_fraction=0.5)
