"""Batches that are made ahead, and index tensors that go to a device in one copy."""

import threading
import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipelines.data.audio import AudioSplit
from pipelines.data.codes import CodeSplit
from pipelines.data.frames import ClipSplit
from pipelines.data.images import ImageSplit
from pipelines.splits import transfer
from pipelines.splits.base import columns_of
from pipelines.splits.transfer import AHEAD, ahead, send_together

CPU, META = torch.device("cpu"), torch.device("meta")


def test_what_is_made_ahead_comes_in_order_and_no_further_ahead_than_that():
    made = []

    def make(number):
        made.append(number)
        return (torch.tensor(number), None)

    with closing(ahead(make, range(20), CPU)) as found:
        for number in range(20):
            fields = next(found)
            assert int(fields[0]) == number and fields[1] is None
            time.sleep(0.001)
            assert max(made) <= number + AHEAD
    assert made == list(range(20))


def test_it_is_made_in_another_thread():
    names = list(ahead(lambda number: (threading.current_thread().name,), range(3), CPU))
    assert all(name.startswith("batches") for (name,) in names)


def test_an_error_comes_in_the_place_of_its_own_result():
    def make(number):
        if number == 3:
            raise OSError("the disk is gone")
        return (torch.tensor(number),)

    found, seen = ahead(make, range(10), CPU), []
    with pytest.raises(OSError, match="the disk is gone"):
        for fields in found:
            seen.append(int(fields[0]))
    assert seen == [0, 1, 2]


def test_closing_it_ends_its_thread():
    before = threading.active_count()
    found = ahead(lambda number: (torch.tensor(number),), range(1000), CPU)
    next(found)
    assert threading.active_count() == before + 1
    found.close()
    assert threading.active_count() == before


class Copies(TorchDispatchMode):
    """Counts copies from main memory to the device "meta"."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func._schema.name == "aten::_to_copy" and torch.device(kwargs.get("device") or "cpu") == META:
            self.count += args[0].device == CPU
        return func(*args, **kwargs)


def splits():
    labels = torch.arange(6)[:, None] % 3
    yield "images", ImageSplit(torch.zeros(6, 1, 8, 8).byte(), labels, size=(8, 8))
    yield "augmented images", ImageSplit(torch.zeros(6, 1, 8, 8).byte(), labels, size=(6, 6), pad=1, flip=True)
    yield "codes", CodeSplit(torch.zeros(6, 4, 4).byte(), labels, lengths=None, num_codebooks=1)
    bounds = torch.tensor([[0, 12], [12, 24]]).repeat_interleave(3, 0)
    yield "clips", ClipSplit(torch.zeros(24, 1, 8, 8).byte(), labels, torch.arange(24), starts=torch.arange(6) * 4,
                             bounds=bounds, actions=torch.arange(24) % 3, clip_length=4)
    yield "audio", AudioSplit(torch.zeros(96, dtype=torch.int16), labels, lengths=torch.full((6,), 16), bounds=16 * (
        torch.arange(6)[:, None] + torch.tensor([0, 1])), starts=torch.arange(6) * 16, crop=8, length=16)


SPLITS = dict(splits())


@pytest.mark.parametrize("name", SPLITS)
def test_a_batch_of_items_on_a_device_costs_one_copy_of_indices(name):
    """Where the items must be copied too there are two, neither of them of a part."""
    own = SPLITS[name]
    elsewhere = replace(own, device=META, labels=own.labels.to(META))
    there = replace(elsewhere, x=own.x.to(META), **({"rows": own.rows.to(META)} if own.rows is not None else {}))
    indices, epochs = torch.tensor([0, 3, 5]), torch.from_numpy(np.array([0, 0, 1]))
    expected = own.batch(indices, 0, epochs)
    for split, copies in ((there, 1), (elsewhere, 2)):
        with Copies() as counted:
            batch = split.batch(indices, 0, epochs)
        assert counted.count == copies
        for found, field in zip(batch, expected):
            assert (found is None) == (field is None)
            if field is not None:
                assert found.device == META and found.shape == field.shape and found.dtype == field.dtype


def test_what_is_sent_together_arrives_as_it_was(monkeypatch):
    parts = [torch.arange(3), torch.arange(12).view(3, 4), torch.arange(2).view(1, 2)]
    monkeypatch.setattr(transfer, "send", lambda x, device: x.clone())
    for device in (CPU, META):
        found = send_together(parts, device)
        assert all(torch.equal(one, other) for one, other in zip(found, parts, strict=True))


def test_a_split_on_its_device_is_read_where_it_is():
    """A thread would only take turns with the training."""
    own = SPLITS["images"]
    with closing(own.batches(lambda number: threading.current_thread(), range(2))) as found:
        assert list(found) == [threading.current_thread()] * 2
    elsewhere = replace(own, device=META)
    with closing(elsewhere.batches(lambda number: (threading.current_thread().name,), range(2))) as found:
        assert all(name.startswith("batches") for (name,) in found)


def test_columns_of_labels():
    labels = torch.arange(6).view(2, 3)
    assert columns_of(labels, [2, 0]).tolist() == [[2, 0], [5, 3]] and columns_of(labels, []) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", SPLITS)
def test_on_a_gpu_what_is_made_ahead_is_what_a_cpu_makes(name):
    own, gpu = SPLITS[name], torch.device("cuda:0")
    moved = replace(own, device=gpu, labels=own.labels.to(gpu))

    def items(split):
        return split.batches(lambda number: split.batch(torch.tensor([number % 6, 5]), 0, epoch=number), range(50))

    for found, expected in zip(items(moved), items(own), strict=True):
        for one, other in zip(found, expected):
            assert (one is None) == (other is None) and (one is None or torch.equal(one.cpu(), other))
