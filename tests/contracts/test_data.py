"""Every configs/data/*.yaml that can be built from embedded data or from a few small files keeps the contract of Data.

Data sets that need files (a yaml with `root` or `run`) and are not in FILES are tested in tests/pipelines/data/, with
files of their published formats.
"""


import functools
import io
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from omegaconf import OmegaConf
from PIL import Image

from pipelines.files.errors import InputError
from pipelines.runs import plugins
from pipelines.runs.config import CONFIGS, build, composed
from pipelines.splits.base import Data

COUNT = 12  # files, or frames of each of four episodes


def write_images(root: Path) -> None:
    draws = np.random.default_rng(0)
    for number in range(COUNT):
        (root / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(draws.integers(0, 256, (20, 16, 3), dtype=np.uint8))
        image.save(root / "ab"[number % 2] / f"{number}.png")


def write_clips(root: Path) -> None:
    draws = np.random.default_rng(0)
    for number in range(COUNT):
        (root / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        wave = draws.uniform(-0.5, 0.5, 900 + 100 * number)
        soundfile.write(root / "ab"[number % 2] / f"{number}.wav", wave, 8000)


def write_episodes(root: Path) -> None:
    draws = np.random.default_rng(0)
    for episode in range(4):
        (root / str(episode)).mkdir(parents=True)
        np.save(root / str(episode) / "frames.npy", draws.integers(0, 256, (COUNT, 8, 6, 3), dtype=np.uint8))
        np.save(root / str(episode) / "actions.npy", draws.integers(0, 3, COUNT))


def write_digits(root: Path) -> None:
    root.mkdir()
    draws = np.random.default_rng(0)
    for number in range(COUNT):
        wave = draws.uniform(-0.5, 0.5, 900 + 100 * number)
        soundfile.write(root / f"{number % 10}_{['ann', 'bob'][number % 2]}_{number}.wav", wave, 8000)


def write_tars(root: Path) -> None:
    write_images(root / "loose")
    (root / "tars").mkdir()
    with tarfile.open(root / "tars" / "0.tar", "w") as tar:
        for path in sorted((root / "loose").rglob("*.png"), key=lambda path: int(path.stem)):
            tar.add(path, path.name)
            label = tarfile.TarInfo(f"{path.stem}.txt")
            label.size = 1
            tar.addfile(label, io.BytesIO(path.parent.name.encode()))
    shutil.rmtree(root / "loose")


def write_parquet(root: Path) -> None:
    write_images(root / "loose")
    paths = sorted((root / "loose").rglob("*.png"))
    cells = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    table = pa.table({"image": cells, "kind": [path.parent.name for path in paths]})
    pq.write_table(table, root / "0.parquet", row_group_size=5)
    shutil.rmtree(root / "loose")


# What a folder of the user's holds, and settings that fit so few and small files.
FILES = {
    "image_folder": (write_images, ["data.size=12", "data.workers=1"]),
    "tar_shards": (write_tars, ["data.size=12", "data.workers=1", "data.labels=txt", "data.cache_bytes=3000"]),
    "hf_parquet": (write_parquet, ["data.size=12", "data.workers=1", "data.labels=kind"]),
    "audio_folder": (write_clips, ["data.sample_rate_hz=8000", "data.crop=512", "data.length=2048", "data.workers=1"]),
    "fsdd": (write_digits, ["data.crop=512", "data.length=2048", "data.workers=1", "data.validation_fraction=0.3"]),
    "frames_folder": (write_episodes, ["data.clip_length=3", "data.validation_fraction=0.25"]),
}
SMALL = {"room": ["data.episodes=6", "data.frames=8", "data.clip_length=4", "data.validation_fraction=0.34"]}
AUGMENTED = {"pad": 2, "flip": True}  # settings of augmentation that some have


def pytest_generate_tests(metafunc):
    if "data_name" in metafunc.fixturenames:
        metafunc.parametrize("data_name", data_names())


def data_names() -> list[str]:
    folders = [Path(CONFIGS), *plugins.config_folders()]
    paths = [path for folder in folders for path in sorted((folder / "data").glob("*.yaml"))]
    return [path.stem for path in paths if path.stem in FILES or not {"root", "run"} & set(OmegaConf.load(path))]


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory):
    """data_sets(name) -> the data set, augmented where it can be."""

    @functools.cache
    def make(name: str) -> Data:
        folder = tmp_path_factory.mktemp(name)
        write, overrides = FILES.get(name, (None, SMALL.get(name, [])))
        if write is not None:
            write(folder / "files")
            overrides = [*overrides, f"data.root={folder / 'files'}", f"data.cache={folder / 'cache'}"]
        cfg = composed(["~experiment", f"data={name}", *overrides]).data
        cfg.update({key: value for key, value in AUGMENTED.items() if key in cfg})
        return build(cfg)

    return make


@pytest.fixture
def data(data_sets, data_name) -> Data:
    return data_sets(data_name)


def same(a, b) -> bool:
    return all(x is None and y is None or torch.equal(x, y) for x, y in zip(a, b, strict=True))


def rows(batch, order):
    return type(batch)(*(None if part is None else part[order] for part in batch))


def test_items_are_as_declared(data):
    assert data.name and data.kind and "train" in data.splits and "validation" in data.splits
    assert len(data.label_names) == len(data.classes) == len(data.num_classes)
    assert all(list(names) == sorted(names) and len(set(names)) == len(names) for names in data.classes)
    for name in data.splits:
        split = data.split(name)
        assert len(split) > 0
        batch = split.batch(torch.arange(min(4, len(split))))
        if batch.lengths is None:
            assert batch.x.shape[1:] == data.shape
        else:
            assert (batch.lengths > 0).all() and (batch.lengths <= batch.x.shape[2]).all()
        assert batch.labels.shape == (len(batch.x), len(data.classes)) and batch.labels.dtype == torch.int64
        for column, names in enumerate(data.classes):
            assert 0 <= split.labels[:, column].min() and split.labels[:, column].max() < len(names)
    with pytest.raises(InputError, match="split: expected one of"):
        data.split("nonsuch")
    assert data.variance > 0


def test_splits_are_disjoint(data):
    """No item of one split, as evaluation sees it, is an item of another."""
    seen: dict[bytes, str] = {}
    for name in data.splits:
        for batch in data.split(name).evaluation_batches():
            for item in batch.x[:2000]:
                assert seen.setdefault(item.numpy().tobytes(), name) == name


def test_items_are_functions_of_seed_epoch_and_index(data):
    for name in data.splits:
        split = data.split(name)
        indices = torch.arange(min(len(split), 6))
        order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(0))
        for options in ({}, {"seed": 3, "epoch": 5}):
            whole = split.batch(indices, **options)
            assert same(split.batch(indices, **options), whole)
            assert same(split.batch(indices[order], **options), rows(whole, order))
        each = torch.arange(len(indices)) + 4
        mixed = split.batch(indices, seed=3, epoch=each)
        for item, epoch in enumerate(each.tolist()):
            assert same(rows(mixed, [item]), split.batch(indices[[item]], seed=3, epoch=epoch))
        assert same(split.batch(indices, seed=3, epoch=-each), split.batch(indices))  # negative: as evaluation sees it


def test_augmentation_changes_with_epoch_and_seed(data):
    split = data.split("train")
    indices = torch.arange(min(len(split), 12))
    plain, first = split.batch(indices).x, split.batch(indices, seed=1, epoch=0).x
    if first.shape == plain.shape and torch.equal(first, plain):
        return  # this data set is not augmented
    assert not torch.equal(split.batch(indices, seed=1, epoch=1).x, first)
    assert not torch.equal(split.batch(indices, seed=2, epoch=0).x, first)


def test_a_split_in_fast_memory_gives_the_same_items(data):
    """As `Split.to` copies a split onto a GPU: its own items alone, in their order."""
    for name in data.splits:
        split = data.split(name)
        resident = replace(split, x=split._copy(torch.device("cpu")), rows=None)
        indices = torch.arange(min(len(split), 6)).flip(0)
        for options in ({}, {"seed": 3, "epoch": 5}):
            assert same(resident.batch(indices, **options), split.batch(indices, **options))
