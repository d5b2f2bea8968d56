"""MNIST, Fashion-MNIST and CIFAR-10 in their publishers' files: read as they are, or refused in one line."""

import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision

from pipelines.data.cifar10 import CIFAR10
from pipelines.data.mnist import MNIST, FashionMNIST
from pipelines.files.errors import InputError


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


def publish(root: Path, name: str, train: int = 30, test: int = 10) -> Path:
    """A tiny publication: image i is filled with i, its label is i % 10."""
    folder = root / name / "raw"
    for prefix, count in (("train", train), ("t10k", test)):
        write_idx(folder / f"{prefix}-images-idx3-ubyte",
                  np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, 28, 28)))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)
    return folder


def test_validation_is_of_the_training_images_and_never_of_training(tmp_path):
    publish(tmp_path, "MNIST")
    data = MNIST(str(tmp_path), validation_size=7)
    splits = {name: data.split(name) for name in data.splits}
    images = {name: split.batch(torch.arange(len(split))) for name, split in splits.items()}
    values = {name: batch.x[:, 0, 0, 0].tolist() for name, batch in images.items()}
    assert len(values["validation"]) == 7 and sorted(values["train"] + values["validation"]) == list(range(30))
    assert values["test"] == list(range(10))
    for name, batch in images.items():
        assert batch.x.shape[1:] == data.shape == (1, 28, 28)
        assert batch.labels[:, 0].tolist() == [value % 10 for value in values[name]]


def test_labels_index_sorted_class_names(tmp_path):
    publish(tmp_path, "FashionMNIST")
    data = FashionMNIST(str(tmp_path), validation_size=7)
    published = torchvision.datasets.FashionMNIST.classes
    assert list(data.classes[0]) == sorted(published) != published
    batch = data.split("test").batch(torch.arange(10))
    assert [data.classes[0][label] for label in batch.labels[:, 0]] == published


def test_missing_files_say_how_to_get_them(tmp_path):
    folders = {MNIST: "MNIST/raw", FashionMNIST: "FashionMNIST/raw", CIFAR10: "cifar-10-batches-py"}
    for data_set, folder in folders.items():
        with pytest.raises(InputError) as error:
            data_set(str(tmp_path))
        for words in (str(tmp_path / folder), "data.root=", "data.download=true"):
            assert words in str(error.value)


@pytest.mark.parametrize("damage", [
    lambda content: b"",
    lambda content: content[:1000],
    lambda content: b"<html>not found</html>" * 20,
    lambda content: content[:3] + b"\x07" + content[4:],
])
@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_damaged_files_are_refused(file, damage, tmp_path):
    path = publish(tmp_path, "MNIST", test=1100) / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError) as error:
        MNIST(str(tmp_path), validation_size=7)
    assert str(path.parent) in str(error.value) and "expected" in str(error.value)


def test_images_and_labels_that_do_not_belong_together(tmp_path):
    folder = publish(tmp_path, "MNIST")
    write_idx(folder / "train-labels-idx1-ubyte", np.full(30, 10, np.uint8))
    with pytest.raises(InputError, match="labels up to 10"):
        MNIST(str(tmp_path), validation_size=7)
    write_idx(folder / "train-labels-idx1-ubyte", np.zeros(29, np.uint8))
    with pytest.raises(InputError, match="29 labels"):
        MNIST(str(tmp_path), validation_size=7)


def test_a_held_out_part_that_leaves_nothing(tmp_path):
    publish(tmp_path, "MNIST")
    with pytest.raises(InputError, match="data.validation_size: expected between 1 and 29 of 30 items, found 5000"):
        MNIST(str(tmp_path))


def test_cifar10_axes(monkeypatch):
    """Stands for the publisher's files, whose checksums cannot be forged: torchvision gives (n, h, w, c)."""
    pixels = np.arange(20 * 32 * 32 * 3).reshape(20, 32, 32, 3).astype(np.uint8)
    stub = lambda root, train, download: SimpleNamespace(data=pixels, targets=[*range(10), *range(10)])  # noqa: E731
    monkeypatch.setattr(CIFAR10, "published", staticmethod(stub))
    data = CIFAR10("", validation_size=5, flip=True)
    batch = data.split("test").batch(torch.arange(20))
    assert (batch.x.numpy() == pixels.transpose(0, 3, 1, 2)).all() and batch.x.shape[1:] == data.shape
    assert [data.classes[0][label] for label in batch.labels[10:, 0]] == list(data.classes[0])


def test_mnist_itself(real_data):
    data = MNIST(str(real_data))
    assert [len(data.split(name)) for name in data.splits] == [55_000, 5_000, 10_000]
    kept, held_out = (set(data.split(name).rows.tolist()) for name in ("train", "validation"))
    assert not kept & held_out and len(kept | held_out) == 60_000
    assert data.variance == pytest.approx(78.57**2, rel=1e-3)  # the well-known standard deviation 0.3081, times 255
