"""Splits of images: augmentation by counters alone, windows, and no item in two splits."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipelines.data.digits import Digits
from pipelines.data.images import ImageSplit
from pipelines.files.errors import InputError
from pipelines.splits import counters
from pipelines.splits.base import Data, hold_out


def split_of(number: int = 40, height: int = 6, width: int = 10, **options) -> ImageSplit:
    """Two channels; every pixel differs from every other of its image and from zero."""
    pixels = torch.arange(2 * height * width).reshape(2, height, width) + 1
    images = (pixels + torch.arange(number)[:, None, None, None]) % 255 + 1
    return ImageSplit(images.to(torch.uint8), torch.arange(number)[:, None], **options)


def test_counters_give_splitmix64():
    """The first outputs of SplitMix64 from state 0, as its authors' reference implementation prints them."""
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B]
    assert counters.words(np.arange(5)).tolist() == expected


def test_counters_are_different_dimensions_and_may_be_negative():
    grid = counters.words(np.arange(-20, 20)[:, None, None], np.arange(-20, 20)[:, None], np.arange(10))
    assert len(np.unique(grid)) == grid.size  # a chance collision among 16,000 words: 7e-12
    assert (counters.words(1, 2) != counters.words(2, 1)).all()


def test_numbers_below_a_limit_are_even():
    drawn = np.bincount(counters.below(counters.words(3, np.arange(70_000)), 7), minlength=7)
    assert len(drawn) == 7
    assert ((drawn - 10_000) ** 2 / 10_000).sum() < 40  # chi-squared with 6 degrees of freedom: p < 5e-7


def test_hold_out_is_a_partition_and_depends_on_the_seed():
    kept, held_out = hold_out(100, 20, seed=1)
    assert len(held_out) == 20 and sorted([*kept.tolist(), *held_out.tolist()]) == list(range(100))
    assert torch.equal(held_out, hold_out(100, 20, seed=1)[1])
    assert not torch.equal(held_out, hold_out(100, 20, seed=2)[1])  # equal by chance: 1 / (100 choose 20) = 2e-21


@pytest.mark.parametrize("options", [{"size": (6, 10), "pad": 2, "flip": True}, {"size": (4, 7), "flip": True},
                                     {"size": (3, 8), "pad": 1}])
def test_an_item_depends_on_seed_epoch_and_index_alone(options):
    split = split_of(**options)
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    whole = split.batch(torch.arange(40), seed=5, epoch=3)
    shuffled = split.batch(order, seed=5, epoch=torch.full((40,), 3))
    assert torch.equal(shuffled.x, whole.x[order]) and torch.equal(shuffled.labels, whole.labels[order])
    for index in range(0, 40, 7):
        assert torch.equal(split.batch(torch.tensor([index]), seed=5, epoch=3).x[0], whole.x[index])
    epochs = torch.arange(40) % 3 + 2
    mixed = split.batch(torch.arange(40), seed=5, epoch=epochs)
    assert torch.equal(mixed.x[epochs == 3], whole.x[epochs == 3])
    for other in ({"seed": 6, "epoch": 3}, {"seed": 5, "epoch": 4}):
        assert not torch.equal(split.batch(torch.arange(40), **other).x, whole.x)


def test_windows_equal_slices_of_the_padded_image():
    """The oracle: a loop over items that pads, slices and flips one image at a time."""
    split = split_of(size=(5, 7), pad=2, flip=True)
    bits = counters.words(9, 4, np.arange(40)[:, None], np.arange(3))
    expected = []
    for index, image in enumerate(split.x):
        top, left = counters.below(bits[index, 0], 6 + 4 - 5 + 1), counters.below(bits[index, 1], 10 + 4 - 7 + 1)
        window = F.pad(image, (2, 2, 2, 2))[:, top : top + 5, left : left + 7]
        expected.append(window.flip(2) if counters.below(bits[index, 2], 2) else window)
    assert torch.equal(split.batch(torch.arange(40), seed=9, epoch=4).x, torch.stack(expected))


def test_every_window_of_a_larger_image_comes_up_upright():
    """Crops that exchange height and width would give other shapes, or windows that are none."""
    split = split_of(1000, size=(4, 7))
    stored = split.x[0]
    split = dataclasses.replace(split, x=stored.expand(1000, -1, -1, -1))
    places = {tuple(stored[:, top : top + 4, left : left + 7].flatten().tolist()): (top, left)
              for top in range(3) for left in range(4)}
    seen = [places[tuple(window.flatten().tolist())] for window in split.batch(torch.arange(1000), epoch=0).x]
    assert set(seen) == set(places.values())  # one of 12 missing by chance: below 12 * (11/12)^1000 = 2e-37


def test_half_of_the_images_are_mirrored():
    split = split_of(1000, size=(6, 10), flip=True)
    batch, plain = split.batch(torch.arange(1000), epoch=0).x, split.batch(torch.arange(1000)).x
    mirrored = (batch == plain.flip(3)).flatten(1).all(1)
    assert ((batch == plain).flatten(1).all(1) ^ mirrored).all()
    assert abs(mirrored.sum().item() - 500) < 80  # 5 standard deviations of 15.8: p < 6e-7


@pytest.mark.parametrize("epoch", [None, -1, torch.full((40,), -1)])
def test_evaluation_takes_the_centre_unpadded_and_unmirrored(epoch):
    split = split_of(size=(4, 7), pad=3, flip=True)
    assert torch.equal(split.batch(torch.arange(40), epoch=epoch).x, split.x[:, :, 1:5, 1:8])


def test_items_of_both_kinds_in_one_batch():
    split = split_of(size=(4, 7), pad=3, flip=True)
    epochs = torch.where(torch.arange(40) % 2 == 0, -1, 2)
    batch = split.batch(torch.arange(40), epoch=epochs).x
    assert torch.equal(batch[::2], split.batch(torch.arange(0, 40, 2)).x)
    assert torch.equal(batch[1::2], split.batch(torch.arange(1, 40, 2), epoch=2).x)


def test_rows_choose_stored_images_and_labels_go_with_them():
    rows = torch.tensor([7, 3, 30])
    split = ImageSplit(split_of(size=(6, 10)).x, rows[:, None], rows, size=(6, 10))
    batch = split.to("cpu").batch(torch.tensor([2, 0]))
    assert torch.equal(batch.x, split.x[[30, 7]]) and batch.labels.tolist() == [[30], [7]]
    assert batch.x.dtype == torch.uint8 and batch.labels.dtype == torch.int64 and len(split) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("share", [0.4, 0.0])
def test_batches_on_a_gpu_are_the_same_resident_or_not(share, monkeypatch):
    monkeypatch.setattr("pipelines.splits.base.RESIDENT_SHARE", share)
    rows = torch.arange(39, -1, -2)
    split = ImageSplit(split_of(size=(4, 7)).x, rows[:, None], rows, size=(4, 7), pad=1, flip=True)
    moved = split.to("cuda")
    assert moved.x.is_cuda == (share > 0)
    for epoch in (None, 3):
        here, there = (part.batch(torch.arange(20), seed=1, epoch=epoch) for part in (split, moved))
        assert there.x.is_cuda and there.labels.is_cuda
        assert torch.equal(here.x, there.x.cpu()) and torch.equal(here.labels, there.labels.cpu())


def test_variance_is_that_of_all_training_values():
    data = Digits()
    pixels = data.split("train").batch(torch.arange(len(data.split("train")))).x.numpy().astype(np.float64)
    assert data.variance == pytest.approx(pixels.var(), rel=1e-12)


def test_digits_are_scaled_to_8_bits_and_each_class_is_held_out_evenly():
    data = Digits(validation_fraction=0.25)
    sizes, rows = {}, []
    for name in data.splits:
        split = data.split(name)
        sizes[name] = torch.bincount(split.labels[:, 0], minlength=10)
        rows += split.rows.tolist()
        assert split.batch(torch.arange(3)).x.shape == (3, *data.shape)
    assert sorted(rows) == list(range(1797))  # nothing in both, nothing lost
    share = sizes["validation"] / (sizes["train"] + sizes["validation"])
    assert (share - 0.25).abs().max() < 0.5 / 170  # rounded within a class of at least 174
    levels = data.split("train").x.unique().tolist()
    assert levels == [round(value * 255 / 16) for value in range(17)]


def test_digits_of_another_seed_hold_out_others():
    first, second = (set(Digits(seed=seed).split("validation").rows.tolist()) for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Digits(validation_fraction=0.0), "data.validation_fraction: expected between 1 and 177 of 178 items"),
    (lambda: Digits(validation_fraction=1.0), "data.validation_fraction"),
    (lambda: Digits(pad=-1).split("train"), "data.pad: expected a number >= 0, found -1"),
    (lambda: Digits().split("test"), "split: expected one of train, validation of digits, found 'test'"),
])
def test_wrong_settings_are_named(make, message):
    with pytest.raises(InputError) as error:
        make()
    assert message in str(error.value)


def test_a_data_set_is_complete():
    """Batches have the shapes, dtypes and classes that the attributes declare."""
    data: Data = Digits()
    assert len(data.label_names) == len(data.classes) == 1 and data.num_classes == (10,)
    assert all(list(names) == sorted(names) for names in data.classes)
    assert data.split("train").labels.max() < 10
