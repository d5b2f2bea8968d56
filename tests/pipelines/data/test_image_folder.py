"""Folders of images: layouts, formats, unreadable files, and that images are decoded once."""

import io
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.data import image_files, image_folder
from pipelines.data.image_files import find_images, load_images, read_image
from pipelines.data.image_folder import ImageFolder
from pipelines.files.errors import InputError

RED, BLUE = (250, 10, 20), (10, 20, 250)


def save(path: Path, color=RED, size=(8, 8), **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    """folder("a/0.png", ...) -> root: images 8x8, the n-th of grey level n."""

    def make(*paths: str, root: Path = tmp_path / "pictures") -> Path:
        for number, path in enumerate(paths):
            save(root / path, (number, number, number))
        return root

    return make


@pytest.fixture
def load(tmp_path):
    """load(root, ...) -> ImageFolder of 8x8 images with a cache of its own."""
    defaults = {"cache": str(tmp_path / "cache"), "size": 8, "workers": 2}
    return lambda root, **options: ImageFolder(str(root), **defaults | options)


def everything(data: ImageFolder, split: str):
    return data.split(split).batch(torch.arange(len(data.split(split))))


def levels(data: ImageFolder, split: str) -> list[int]:
    return everything(data, split).x[:, 0, 0, 0].tolist()


def test_a_flat_folder_has_no_labels_and_splits_never_overlap(folder, load):
    root = folder(*(f"{number:02d}.png" for number in range(40)))
    data = load(root, validation_fraction=0.25)
    assert data.label_names == () and data.classes == () and data.splits == ("train", "validation")
    assert data.name == "pictures" and data.kind == "image" and data.shape == (3, 8, 8)
    assert len(levels(data, "validation")) == 10
    assert sorted(levels(data, "train") + levels(data, "validation")) == list(range(40))
    assert everything(data, "train").labels.shape == (30, 0)
    other = load(root, validation_fraction=0.25, seed=1)
    assert set(levels(other, "validation")) != set(levels(data, "validation"))  # by chance: 1 / (40 choose 10) = 1e-9


def test_class_folders_give_sorted_labels(folder, load):
    root = folder(*(f"{name}/deep/{number}.png" for name in ("zebra", "ant", "Bee") for number in range(4)))
    data = load(root, validation_fraction=0.5)
    assert data.label_names == ("class",) and data.classes == (("Bee", "ant", "zebra"),)
    for split in data.splits:
        for level, (label,) in zip(levels(data, split), everything(data, split).labels.tolist(), strict=True):
            assert data.classes[0][label] == ("zebra", "ant", "Bee")[level // 4]


@pytest.mark.parametrize("held_out", ["validation", "val", "valid"])
def test_folders_of_splits_are_taken_as_they_are(held_out, folder, load):
    root = folder("train/a/0.png", "train/b/1.png", f"{held_out}/b/2.png", "test/a/3.png", "test/b/4.png")
    data = load(root)
    assert data.splits == ("train", "validation", "test") and data.classes == (("a", "b"),)
    assert [levels(data, split) for split in data.splits] == [[0, 1], [2], [3, 4]]
    assert [everything(data, split).labels[:, 0].tolist() for split in data.splits] == [[0, 1], [1], [0, 1]]


def test_validation_is_held_out_of_train_beside_a_test_folder(folder, load):
    root = folder(*(f"train/{number}.png" for number in range(10)), "test/x.png")
    data = load(root, validation_fraction=0.2)
    assert data.splits == ("train", "validation", "test") and levels(data, "test") == [10]
    assert sorted(levels(data, "train") + levels(data, "validation")) == list(range(10))


def test_one_folder_is_no_class(folder, load):
    assert load(folder("only/0.png", "only/1.png"), validation_fraction=0.5).label_names == ()
    assert load(folder("0.png", "only/1.png"), validation_fraction=0.5).label_names == ()


def test_hidden_and_other_files_are_passed_over_and_links_followed_once(folder, load, tmp_path):
    root = folder("0.png", "1.png", ".hidden/2.png", ".3.png")
    (root / "notes.txt").write_text("no picture")
    (root / "loop").symlink_to(root)
    (root / "gone.png").symlink_to(tmp_path / "nowhere.png")
    outside = folder("4.png", "5.png", root=tmp_path / "outside")
    (root / "linked").symlink_to(outside)
    assert [path.relative_to(root).as_posix() for path in find_images(root)] == [
        "0.png", "1.png", "linked/4.png", "linked/5.png"]


def exif_turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    return exif


def pixels_of(picture: Image.Image, name: str, tmp_path: Path, shape=(3, 8, 8), **options) -> np.ndarray:
    picture.save(tmp_path / name, **options)
    return read_image(tmp_path / name, shape)


def test_every_kind_of_picture_becomes_rgb(tmp_path):
    red = np.array(RED)[:, None, None]
    plain = Image.new("RGB", (8, 8), RED)
    assert (pixels_of(plain, "rgb.png", tmp_path) == red).all()
    assert (pixels_of(plain.convert("P", palette=Image.Palette.ADAPTIVE), "palette.png", tmp_path) == red).all()
    assert (pixels_of(Image.new("L", (8, 8), 77), "grey.png", tmp_path) == 77).all()
    assert (pixels_of(Image.new("1", (8, 8), 1), "bits.png", tmp_path) == 255).all()
    assert (pixels_of(Image.fromarray(np.full((8, 8), 77 * 257, np.uint16)), "deep.png", tmp_path) == 77).all()
    cmyk = pixels_of(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "cmyk.jpg", tmp_path, quality=100)
    assert cmyk[0].min() > 245 and cmyk[1:].max() < 10
    assert read_image(tmp_path / "rgb.png", (1, 8, 8)).shape == (1, 8, 8)


def test_transparent_parts_are_white(tmp_path):
    clear, half = Image.new("RGBA", (8, 8), (*RED, 0)), Image.new("LA", (8, 8), (0, 128))
    assert (pixels_of(clear, "rgba.png", tmp_path) == 255).all()
    assert (pixels_of(Image.new("RGBA", (8, 8), (*RED, 255)), "solid.png", tmp_path)[0] == RED[0]).all()
    assert abs(pixels_of(half, "la.png", tmp_path).astype(int) - 127).max() <= 1
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([*BLUE, *RED])
    assert (pixels_of(palette, "gif.gif", tmp_path, transparency=0) == 255).all()


def test_exif_orientation_and_axes(tmp_path):
    """A wide image, red above blue, stored turned by 90 degrees, not square."""
    upright = Image.new("RGB", (12, 6), BLUE)
    upright.paste(RED, (0, 0, 12, 3))
    turned = upright.transpose(Image.Transpose.ROTATE_90)  # the tag undoes it
    pixels = pixels_of(turned, "turned.png", tmp_path, shape=(3, 6, 12), exif=exif_turned())
    assert (pixels[0, :3] == RED[0]).all() and (pixels[0, 3:] == BLUE[0]).all()


def test_the_centre_is_cut_and_a_picture_of_the_size_is_untouched(tmp_path):
    wide = Image.new("RGB", (30, 10), BLUE)
    wide.paste(RED, (10, 0, 20, 10))
    assert (pixels_of(wide, "wide.png", tmp_path, shape=(3, 10, 10)) == np.array(RED)[:, None, None]).all()
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    assert (pixels_of(Image.fromarray(noise), "noise.png", tmp_path, shape=(3, 9, 9)).transpose(1, 2, 0) == noise).all()


def test_large_jpegs_are_reduced_as_precisely_as_others(tmp_path):
    """Partial decoding may differ from full decoding and reduction by a rounding, not by an image."""
    y, x = np.mgrid[0:200, 0:200]
    waves = 127 + 100 * np.sin(x / 4) * np.sin(y / 5)  # 4 pixels of 25 wide when reduced to 32
    picture = Image.fromarray(np.stack([waves, 255 - waves, waves], -1).astype(np.uint8))
    small = pixels_of(picture, "large.jpg", tmp_path, shape=(3, 32, 32), quality=95)
    exact = pixels_of(picture, "large.png", tmp_path, shape=(3, 32, 32))
    assert abs(small.astype(int) - exact).mean() <= 3


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be large."""
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def damaged() -> dict[str, bytes]:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return {"empty.jpg": b"", "truncated.jpg": buffer.getvalue()[:600], "text.png": b"no picture at all",
            "bomb.png": bomb(11_000, 10_000), "larger-bomb.png": bomb(100_000, 100_000)}


def test_unreadable_pictures_are_named_counted_and_left_out(folder, load, capsys):
    root = folder(*(f"{number:02d}.png" for number in range(20)))
    before = load(root, validation_fraction=0.25)
    for name, content in damaged().items():
        (root / name).write_bytes(content)
    data = load(root, validation_fraction=0.2)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(lines) == 1 and "5 of 25" in lines[0]
    for name in damaged():
        assert str(root / name) in lines[0]
    assert "pixels" in lines[0].split("bomb.png: ")[1]
    assert sorted(levels(data, "train") + levels(data, "validation")) == list(range(20))
    load(root, validation_fraction=0.2)  # from the cache: still said
    assert "5 of 25" in capsys.readouterr().err
    assert len(levels(before, "train")) == 15  # an earlier cache is not touched


def test_every_picture_has_its_place_whatever_process_decodes_it(folder, load, monkeypatch, capsys):
    monkeypatch.setattr(image_files, "CHUNK", 3)
    root = folder(*(f"{number:02d}.png" for number in range(20)))
    (root / "10.png").write_bytes(b"damaged")
    data = load(root, validation_fraction=0.25, workers=3)
    assert [data.pixels[number].unique().tolist() for number in range(20)] == [
        [0 if number == 10 else number] for number in range(20)]
    assert sorted(levels(data, "train") + levels(data, "validation")) == [*range(10), *range(11, 20)]
    assert "10.png" in capsys.readouterr().err


def test_a_damaged_picture_moves_no_other_to_another_split(folder, load):
    root = folder(*(f"{number:02d}.png" for number in range(20)))
    before = {split: set(levels(load(root, validation_fraction=0.25), split)) for split in ("train", "validation")}
    (root / "07.png").write_bytes(b"damaged")
    after = {split: set(levels(load(root, validation_fraction=0.25), split)) for split in ("train", "validation")}
    assert {split: values - {7} for split, values in before.items()} == after


@pytest.mark.parametrize("prepare", [
    lambda root: None,
    lambda root: root.mkdir(),
    lambda root: root.write_text("a file"),
    lambda root: (root.mkdir(), (root / "notes.txt").write_text("no picture")),
    lambda root: (save(root / "train/0.png"), (root / "test").mkdir()),
    lambda root: save(root / "test/0.png"),
    lambda root: [save(root / name / "0.png") for name in ("train", "val", "validation")],
    lambda root: (root.mkdir(), *[(root / name).write_bytes(content) for name, content in damaged().items()]),
    lambda root: [save(root / name) for name in ("train/a/0.png", "train/b/0.png", "test/c/0.png")],
    lambda root: [save(root / name) for name in ("train/a/0.png", "train/b/0.png", "test/0.png")],
    lambda root: (save(root / "train/0.png"), save(root / "train/1.png"), save(root / "test/0.png"),
                  (root / "test/0.png").write_bytes(b"")),
], ids=["missing", "empty", "a file", "no pictures", "an empty split", "no train", "two validations", "none readable",
        "a class unknown to training", "no class", "none readable in test"])
def test_unusable_folders_are_refused(prepare, load, tmp_path):
    root = tmp_path / "pictures"
    prepare(root)
    with pytest.raises(InputError) as error:
        load(root, validation_fraction=0.5)
    assert str(root) in str(error.value) and "expected" in str(error.value) and "found" in str(error.value)
    assert not list((tmp_path / "cache").glob("*.tmp"))


@pytest.mark.parametrize(("options", "message"), [
    ({"size": 0}, "data.size: expected a number >= 1 or [HEIGHT,WIDTH], found 0"),
    ({"size": 8, "store_size": 7}, "data.store_size: expected 0 or a number >= size, 8, found 7"),
    ({"channels": 2}, "data.channels: expected 1 or 3, found 2"),
    ({"workers": -1}, "data.workers: expected a number >= 0, found -1"),
    ({"validation_fraction": 0.0}, "data.validation_fraction: expected between 1 and 1 of 2 items, found 0"),
])
def test_wrong_settings_are_named(options, message, folder, load):
    with pytest.raises(InputError) as error:
        load(folder("0.png", "1.png"), **options)
    assert message == str(error.value)


def test_pictures_are_decoded_once(folder, load, monkeypatch):
    root = folder("0.png", "1.png", "2.png")
    first = load(root, validation_fraction=0.34)
    with monkeypatch.context() as patch:
        patch.setattr(image_folder, "decode_images", None)
        again = load(root, validation_fraction=0.34)
    assert torch.equal(everything(first, "train").x, everything(again, "train").x)
    save(root / "1.png", (99, 99, 99))
    os.utime(root / "1.png", ns=(0, 0))  # a change within the clock's resolution is a change
    changed = load(root, validation_fraction=0.34)
    assert 99 in levels(changed, "train") + levels(changed, "validation")


def test_what_the_cache_has_no_room_for_is_decoded_when_it_is_asked_for(folder, load, tmp_path):
    root = folder(*(f"{number:02d}.png" for number in range(9)))
    whole = load(root, validation_fraction=0.34, flip=True)
    item = whole.pixels[0].numel()
    some = load(root, validation_fraction=0.34, flip=True, cache_bytes=4 * item + 1, workers=2)
    assert sorted(path.stat().st_size for path in (tmp_path / "cache").glob("*.u8")) == [4 * item, 9 * item]
    assert some.digest == whole.digest and some.variance == whole.variance
    for split in whole.splits:
        for options in ({}, {"seed": 3, "epoch": 2}):
            indices = torch.arange(len(whole.split(split))).flip(0)
            assert torch.equal(some.split(split).batch(indices, **options).x,
                               whole.split(split).batch(indices, **options).x)
    last = int(some.parts["train"][0][-1])
    (root / f"{last:02d}.png").write_bytes(b"changed")
    with pytest.raises(InputError, match=f"{last:02d}.png: expected the image that was there at first"):
        everything(some, "train")


def test_of_two_that_start_together_one_decodes(folder, load, monkeypatch):
    root, calls = folder(*(f"{number}.png" for number in range(9))), []
    decode = image_files.decode_images
    monkeypatch.setattr(image_folder, "decode_images", lambda *arguments: calls.append(1) or decode(*arguments))
    with ThreadPoolExecutor(2) as pool:
        loaded = list(pool.map(lambda _: load(root, validation_fraction=0.34), range(2)))
    assert len(calls) == 1
    assert torch.equal(everything(loaded[0], "train").x, everything(loaded[1], "train").x)


def test_an_interrupted_decoding_leaves_nothing_that_counts(folder, load, monkeypatch, tmp_path):
    root = folder(*(f"{number}.png" for number in range(9)))

    def interrupted(paths, target, *others):
        image_files.decode_images(paths, target, *others)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(image_folder, "decode_images", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(root)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]
    assert sorted(levels(data := load(root), "train") + levels(data, "validation")) == list(range(9))


def test_a_damaged_cache_is_made_anew(folder, load, tmp_path, capsys):
    root = folder("0.png", "1.png")
    load(root, validation_fraction=0.5)
    (pixels,) = (tmp_path / "cache").glob("*.u8")
    expected = pixels.read_bytes()
    pixels.write_bytes(expected[:-1] + bytes([expected[-1] ^ 1]))
    load(root, validation_fraction=0.5)
    assert pixels.read_bytes() == expected and "it is made anew" in capsys.readouterr().err


def test_a_larger_store_leaves_room_for_crops(folder, load):
    root = folder(*(f"{number}.png" for number in range(4)))
    save(root / "corner.png", (0, 0, 0), size=(12, 12))
    with Image.open(root / "corner.png") as picture:
        picture.putpixel((0, 0), (255, 255, 255))
        picture.save(root / "corner.png")
    data = load(root, size=8, store_size=12, validation_fraction=0.2)
    split = next(data.split(name) for name in data.splits if 255 in data.split(name).x[data.split(name).rows])
    index = next(place for place, row in enumerate(split.rows) if 255 in split.x[row])
    windows = split.batch(torch.full((400,), index), seed=0, epoch=torch.arange(400)).x
    assert windows.shape == (400, 3, 8, 8)
    corner = (windows[:, 0, 0, 0] == 255).sum().item()
    assert 2 <= corner <= 50  # 25 windows, 16 expected of 400; outside with probability < 1e-5


def test_loading_a_few_names_those_that_fail(tmp_path, capsys):
    good, bad = save(tmp_path / "good.png"), tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    paths, loaded = load_images([bad, good], (3, 4, 6))
    assert paths == [good] and loaded.shape == (1, 3, 4, 6) and loaded.dtype == torch.uint8
    assert str(bad) in capsys.readouterr().err
    with pytest.raises(InputError, match="none of 1 can be read"):
        load_images([bad], (3, 4, 6))
    for missing in (tmp_path / "nowhere", tmp_path / "nowhere.png"):
        with pytest.raises(InputError, match="expected an image or a folder of images, found nothing"):
            find_images(missing)
    assert find_images(good) == [good]
