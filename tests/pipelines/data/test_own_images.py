"""A folder of images as people have them: each is read right, or counted by its reason."""

import io
import os
import random
import shutil
import struct
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from pipelines.data import image_files
from pipelines.data.image_files import find_images, image_formats, load_images, read_image, suffix_hints
from pipelines.data.image_folder import ImageFolder
from pipelines.files.errors import InputError
from pipelines.splits.describe import describe

H, W = 8, 12  # not square: exchanged axes show
RED, BLUE = (250, 10, 20), (10, 20, 250)
UPPER_RED = np.where(np.arange(H)[None, :, None] < H // 2, np.array(RED)[:, None, None],
                     np.array(BLUE)[:, None, None]).repeat(W, 2)  # (3, H, W), red above blue
RAMP = np.linspace(0, 1, W)[None].repeat(H, 0)  # (H, W), dark to bright


def flag() -> Image.Image:
    return Image.fromarray(UPPER_RED.transpose(1, 2, 0).astype(np.uint8))


def saved(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def bytes_of(array: np.ndarray, form: str, **options) -> bytes:
    return saved(Image.fromarray(array), form, **options)


def exif_turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    return exif


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """A PNG written by hand: depths that Pillow reads and does not write."""
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def png16(array: np.ndarray) -> bytes:
    """uint16 (h, w, 3) -> PNG with 16 bits per colour."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    return png(array.shape[1], array.shape[0], 16, 2, rows)


def palette_with_transparency() -> bytes:
    image = Image.new("P", (W, H), 0)
    image.putpalette([*BLUE, *RED])
    return saved(image, "GIF", transparency=0)


def animation() -> bytes:
    return saved(flag(), "GIF", save_all=True, append_images=[Image.new("RGB", (W, H), "black")])


RGB = UPPER_RED
GREY = np.rint(RAMP * 255).astype(np.uint8)
DEEP = (RAMP * 65535).astype(np.uint16)
MICROSCOPE = np.rint(RAMP * 4095).astype(np.uint16)  # 12 bits in 16
FLOATS = (RAMP * 2 - 1).astype(np.float32)  # -1 to 1
WHITE = np.full((3, H, W), 255)
GREY_RGB = np.broadcast_to(GREY, (3, H, W))

# name: (content, pixels, tolerance); the tolerance is that of the encoder: lossy ones blur where the colours meet
READ: dict[str, tuple[bytes, np.ndarray, float]] = {
    "rgb.png": (saved(flag(), "PNG"), RGB, 0),
    "wrong-suffix.jpg": (saved(flag(), "PNG"), RGB, 0),
    "upper.PNG": (saved(flag(), "PNG"), RGB, 0),
    "été (1) = ~.png": (saved(flag(), "PNG"), RGB, 0),
    "photo.jpg": (saved(flag(), "JPEG", quality=98, subsampling=0), RGB, 8),
    "photo.jfif": (saved(flag(), "JPEG", quality=98, subsampling=0), RGB, 8),
    "progressive.jpeg": (saved(flag(), "JPEG", quality=98, subsampling=0, progressive=True), RGB, 8),
    "cmyk.jpg": (saved(flag().convert("CMYK"), "JPEG", quality=98, subsampling=0), RGB, 12),
    "cmyk.tif": (saved(flag().convert("CMYK"), "TIFF"), RGB, 1),
    "turned.jpg": (saved(flag().transpose(Image.Transpose.ROTATE_90), "JPEG", quality=98, subsampling=0,
                         exif=exif_turned()), RGB, 8),
    "turned.png": (saved(flag().transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif_turned()), RGB, 0),
    "lossless.webp": (saved(flag(), "WEBP", lossless=True), RGB, 0),
    "photo.jp2": (saved(flag(), "JPEG2000"), RGB, 1),
    "photo.bmp": (saved(flag(), "BMP"), RGB, 0),
    "photo.tga": (saved(flag(), "TGA"), RGB, 0),
    "photo.ppm": (saved(flag(), "PPM"), RGB, 0),
    "photo.qoi": (saved(flag(), "QOI"), RGB, 0),
    "photo.ico": (saved(flag().resize((16, 16), 0), "ICO", sizes=[(16, 16)]), RGB, 60),  # square: cropped and resized
    "lzw.tiff": (saved(flag(), "TIFF", compression="tiff_lzw"), RGB, 0),
    "animated.gif": (animation(), RGB, 3),
    "palette.png": (saved(flag().quantize(16), "PNG"), RGB, 3),
    "palette-transparent.gif": (palette_with_transparency(), WHITE, 0),
    "transparent.png": (saved(Image.new("RGBA", (W, H), (*RED, 0)), "PNG"), WHITE, 0),
    "grey.png": (bytes_of(GREY, "PNG"), GREY_RGB, 0),
    "grey-alpha.png": (saved(Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (W, H), 255)]), "PNG"),
                       GREY_RGB, 0),
    "bits.tif": (saved(Image.new("1", (W, H), 1), "TIFF"), WHITE, 0),
    "one-pixel.png": (saved(Image.new("RGB", (1, 1), RED), "PNG"), np.broadcast_to(RGB[:, :1, :1], (3, H, W)), 0),
    "thin.png": (saved(Image.new("RGB", (1, 900), RED), "PNG"), np.broadcast_to(RGB[:, :1, :1], (3, H, W)), 0),
    "graph.pgm": (b"P5 %d %d 4095\n" % (W, H) + MICROSCOPE.astype(">u2").tobytes(), GREY_RGB, 1),
}
if features.check("avif"):
    READ["photo.avif"] = saved(flag(), "AVIF", quality=95, subsampling="4:4:4"), RGB, 12
# pixels of more than 8 bits, of which the folder's own largest value is 4095
DARK: dict[str, bytes] = {
    "microscope.png": bytes_of(MICROSCOPE, "PNG"),
    "microscope.tif": bytes_of(MICROSCOPE, "TIFF"),
    "colour.png": png16(np.stack([MICROSCOPE] * 3, -1)),
    "signed.tif": bytes_of(MICROSCOPE.astype(np.int32), "TIFF"),
}
BAD: dict[str, tuple[bytes, str]] = {
    "empty.jpg": (b"", "cannot identify"),
    "text.png": (b"no picture at all", "cannot identify"),
    "truncated.jpg": (saved(Image.effect_noise((64, 64), 90), "JPEG")[:600], "truncated"),
    "truncated.tif": (saved(flag(), "TIFF")[:100], ""),
    "huge.png": (png(11_000, 10_000, 8, 2, b""), "pixels"),
    "huger.png": (png(100_000, 100_000, 8, 2, b""), "pixels"),
    "program.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "cannot identify"),
}


def write(root: Path, **files: bytes) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (root / name).write_bytes(content)
    return root


@pytest.fixture
def load(tmp_path):
    defaults = {"cache": str(tmp_path / "cache"), "size": [H, W], "workers": 1, "validation_fraction": 0.2}
    return lambda root, **options: ImageFolder(str(root), **defaults | options)


def by_name(data: ImageFolder, root: Path) -> dict[str, np.ndarray]:
    """The pixels of each image of a folder, whatever split it is in."""
    names = sorted(image_files.walk([root], image_formats().keys())[0].files)
    return {names[row].path: data.pixels[row].numpy() for rows, _ in data.parts.values() for row in rows.tolist()}


def test_every_image_is_read_right_or_counted_by_reason_whatever_the_order(load, tmp_path, capsys, monkeypatch):
    root = write(tmp_path / "mine", **{name: content for name, (content, *_) in READ.items()},
                 **{name: content for name, (content, _) in BAD.items()},
                 **{"notes.txt": b"", "more.txt": b"", "paper.pdf": b"%PDF-1.4", ".DS_Store": b"", "Thumbs.db": b""})
    data = load(root)
    captured = capsys.readouterr().err
    assert f"left out {len(BAD)} of {len(READ) + len(BAD)} images" in captured
    assert data.left_out == {".txt": 2, ".pdf": 1, "unreadable image": len(BAD)}
    pixels = by_name(data, root)
    assert pixels.keys() == READ.keys()
    for name, (_, expected, tolerance) in READ.items():
        assert np.abs(pixels[name].astype(int) - expected).max() <= tolerance, name

    scandir = os.scandir
    for seed in range(3):
        @contextmanager
        def shuffled(path, seed=seed):
            with scandir(path) as found:
                entries = sorted(found, key=lambda entry: entry.name)
            random.Random(seed).shuffle(entries)
            yield iter(entries)

        monkeypatch.setattr(os, "scandir", shuffled)
        again = load(root, cache=str(tmp_path / f"cache{seed}"))
        assert again.digest == data.digest and torch.equal(again.pixels, data.pixels)
        assert all(torch.equal(again.parts[split][0], data.parts[split][0]) for split in data.splits)


@pytest.mark.parametrize("name", BAD)
def test_the_reason_of_a_bad_image_is_named(name, load, tmp_path, capsys):
    content, reason = BAD[name]
    root = write(tmp_path / "mine", **{name: content}, **{f"{n}.png": READ["rgb.png"][0] for n in range(4)})
    load(root)
    warning = capsys.readouterr().err
    assert f"left out 1 of 5 images, which cannot be read: {root / name}: " in warning and reason in warning


def test_one_line_says_what_was_loaded(load, tmp_path):
    root = tmp_path / "mine"
    for name in ("cats", "dogs"):
        write(root / name, **{f"{n}.png": READ["rgb.png"][0] for n in range(5)})
    write(root, **{"notes.txt": b"", "movie.mp4": b"", "a.MP4": b""})
    write(root / "dogs", **{"bad.png": b"none"})
    assert describe(load(root)) == (
        "data: mine: train 8, validation 2 images of 3x8x12; 2 classes: cats, dogs; "
        "left out: 2 .mp4, 1 .txt, 1 unreadable image")


def test_twelve_bits_in_sixteen_are_dark_without_a_range_and_right_with_one(load, tmp_path):
    root = write(tmp_path / "mine", **DARK, **{"plain.png": READ["rgb.png"][0], "grey.png": READ["grey.png"][0]})
    plain = load(root, validation_fraction=0.34)
    assert plain.saved_facts == {} and by_name(plain, root)["microscope.png"].max() == 4095 >> 8
    assert plain.remarks == ("2 with more than 8 bits, values 0 to 4095, read as 0 to 65535; dark? data.range=auto",)
    assert "signed.tif" not in by_name(plain, root)  # 32 bits have no range of their own
    for values in ([0, 4095], "auto"):
        data = load(root, range=values, validation_fraction=0.34)
        assert data.saved_facts == {"range": [0, 4095]}
        assert data.remarks == ("4 with more than 8 bits, values 0 to 4095, read as 0 to 4095",)
        pixels = by_name(data, root)
        for name in DARK:
            assert np.abs(pixels[name].astype(int) - GREY).max() <= 1, (values, name)
        assert (pixels["plain.png"] == RGB).all() and (pixels["grey.png"] == GREY_RGB).all(), "8 bits stay as they are"


def test_floats_have_the_least_and_the_largest_value_of_training_images(load, tmp_path):
    root = tmp_path / "mine"
    write(root / "train", **{"a.tif": bytes_of(FLOATS, "TIFF"), "b.tif": bytes_of(FLOATS / 2, "TIFF")})
    write(root / "validation", **{"c.tif": bytes_of(FLOATS * 2, "TIFF")})
    nan = FLOATS.copy()
    nan[0, 0] = np.nan
    write(root / "test", **{"d.tif": bytes_of(FLOATS, "TIFF"), "nan.tif": bytes_of(nan, "TIFF")})
    data = load(root, range="auto")
    assert data.saved_facts == {"range": [-1.0, 1.0]} and data.left_out == {"unreadable image": 1}
    rows = {split: data.pixels[data.parts[split][0]].numpy().astype(int) for split in data.splits}
    assert np.abs(rows["train"][0] - GREY).max() <= 1
    assert rows["validation"].min() == 0 and rows["validation"].max() == 255, "beyond the range: clipped"
    assert len(rows["test"]) == 1
    with pytest.raises(InputError, match=r"have no defined range: data.range=\[LOW,HIGH\] or auto gives one"):
        load(root)


def test_full_sixteen_bits_are_reduced_to_their_upper_eight(load, tmp_path):
    root = write(tmp_path / "mine", **{"deep.png": bytes_of(DEEP, "PNG"), "other.png": READ["rgb.png"][0]})
    data = load(root, validation_fraction=0.5)
    assert (by_name(data, root)["deep.png"] == DEEP >> 8).all()
    assert data.remarks == ("1 with more than 8 bits, values 0 to 65535, read as 0 to 65535",)
    assert load(write(tmp_path / "plain", **{f"{n}.png": READ["rgb.png"][0] for n in range(2)}), range="auto",
                validation_fraction=0.5).saved_facts == {}


def test_heic_is_read_with_its_extra_and_counted_with_its_name_without(load, tmp_path, monkeypatch, capsys):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    content = saved(flag().resize((W * 8, H * 8), 0), "HEIF", quality=95, chroma=444)
    root = write(tmp_path / "mine", **{"phone.heic": content, "a.png": READ["rgb.png"][0], "b.png": READ["rgb.png"][0]})
    pixels = by_name(load(root, validation_fraction=0.34), root)["phone.heic"].astype(int)
    assert np.abs(pixels - RGB)[:, [0, 1, 6, 7]].max() <= 30  # away from where the colours meet
    without = {suffix: name for suffix, name in image_formats().items() if name != "HEIF"}
    monkeypatch.setattr(image_files, "image_formats", lambda: without)
    monkeypatch.setattr("pipelines.data.image_folder.image_formats", lambda: without)
    assert suffix_hints()[".heic"] == "read with the extra heic: pip install pillow-heif"
    data = load(root, validation_fraction=0.5)
    assert data.left_out == {".heic (read with the extra heic: pip install pillow-heif)": 1}
    assert "1 .heic (read with the extra heic: pip install pillow-heif)" in describe(data)
    with pytest.raises(InputError, match=r"found cannot identify .*\(read with the extra heic: pip install"):
        load_images([root / "phone.heic"], (3, H, W))
    assert find_images(root) == [root / "a.png", root / "b.png"]
    assert f"note: {root}: left out: 1 .heic (read with" in capsys.readouterr().err


def test_formats_that_are_programs_or_have_no_decoder_are_not_tried():
    formats = image_formats()
    assert {".avif", ".jp2", ".j2k", ".jfif", ".ico", ".webp", ".tiff", ".gif", ".bmp", ".ppm", ".jpe", ".mpo"} <= {
        *formats, *([] if features.check("avif") else [".avif"])}
    assert not {".eps", ".ps", ".pdf", ".mpg", ".h5", ".wmf"} & formats.keys()


def test_the_digest_is_of_names_and_contents_and_of_nothing_else(load, tmp_path):
    root = write(tmp_path / "mine", **{f"{n}.png": bytes_of(GREY + n, "PNG") for n in range(6)})
    digest = load(root).digest
    assert len(digest) == 64
    copied = shutil.copytree(root, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    write(copied, **{"notes.txt": b""})
    assert load(copied).digest == digest and load(root, size=16).digest == digest
    changed = bytearray((root / "3.png").read_bytes())
    changed[-1] ^= 1
    status = os.stat(root / "3.png")
    (root / "3.png").write_bytes(changed)
    os.utime(root / "3.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert load(root).digest != digest
    (copied / "3.png").rename(copied / "7.png")
    assert load(copied).digest != digest
    parts = shutil.copytree(root, tmp_path / "parts" / "train").parent
    digest = load(parts).digest
    shutil.copytree(root, parts / "test")
    assert load(parts).digest == digest, "images to test on may come later"


def test_images_beside_class_folders_are_refused_or_taken_without_labels(load, tmp_path):
    root = tmp_path / "mine"
    for name in "ab":
        write(root / name, **{f"{n}.png": READ["rgb.png"][0] for n in range(2)})
    assert load(root).classes == (("a", "b"),) and load(root, labels=False).classes == ()
    write(root, **{"stray.png": READ["rgb.png"][0]})
    with pytest.raises(InputError, match=r"expected all images in folders of classes, or none; found 1 of 5 beside 2 "
                                         r"folders, such as stray\.png: move them into a folder, or give "
                                         r"data\.labels=false"):
        load(root)
    data = load(root, labels=False)
    assert data.classes == () and sum(len(data.split(split)) for split in data.splits) == 5
    with pytest.raises(InputError, match=r"data\.labels: expected at least two class folders"):
        load(root / "a", labels=True)


@pytest.mark.parametrize(("options", "message"), [
    ({"size": [8]}, "data.size: expected a number >= 1 or [HEIGHT,WIDTH], found [8]"),
    ({"size": [8, 0]}, "data.size: expected a number >= 1 or [HEIGHT,WIDTH], found [8, 0]"),
    ({"size": "8x8"}, "data.size: expected a number >= 1 or [HEIGHT,WIDTH], found 8x8"),
    ({"size": [8, 9], "store_size": [9, 8]}, "data.store_size: expected 0 or a number >= size, [8, 9], found [9, 8]"),
    ({"range": [1, 1]}, "data.range: expected null, auto or [LOW,HIGH] with LOW < HIGH, found [1, 1]"),
    ({"range": [0, float("nan")]}, "data.range: expected null, auto or [LOW,HIGH] with LOW < HIGH, found [0, nan]"),
    ({"range": "full"}, "data.range: expected null, auto or [LOW,HIGH] with LOW < HIGH, found full"),
    ({"labels": 3}, "data.labels: expected true, false or null, found 3"),
])
def test_wrong_settings_are_named(options, message, load, tmp_path):
    with pytest.raises(InputError) as error:
        load(tmp_path, **options)
    assert str(error.value) == message


def test_a_range_serves_single_files_too(tmp_path):
    path = write(tmp_path, **{"one.png": bytes_of(MICROSCOPE, "PNG")}) / "one.png"
    assert np.abs(read_image(path, (1, H, W), (0, 4095))[0].astype(int) - GREY).max() <= 1
    assert read_image(path, (1, H, W)).max() == 15
