"""Bits per dimension of image files, by the files' own sizes."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.data.digits import Digits
from pipelines.data.image_folder import ImageFolder
from pipelines.evaluation import file_rates


@pytest.fixture
def folder(tmp_path):
    """Images of 8x8 pixels in train/ and test/, and the arguments to read them with."""
    noise = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        part = tmp_path / "pictures" / ("train" if number < 4 else "test")
        part.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(part / f"{number}.png")
    return {"root": str(tmp_path / "pictures"), "cache": str(tmp_path / "cache"), "validation_fraction": 0.5}


def test_the_files_themselves(folder, tmp_path):
    data = ImageFolder(**folder, size=8)
    sizes = [path.stat().st_size for path in (tmp_path / "pictures" / "test").iterdir()]
    assert file_rates.own(data, folder, "test") == 8 * sum(sizes) / (3 * 192)
    assert file_rates.own(data, folder, "validation") is None, "held out of train: no folder of its own"
    assert file_rates.own(data, folder, "train") is None, "half of its files are validation's"
    assert file_rates.own(ImageFolder(**folder, size=4), folder, "test") is None, "reduced: pixels are not the files'"
    assert file_rates.own(Digits(), {}, "validation") is None


def test_webp_is_a_whole_file_of_each_picture(folder):
    data = ImageFolder(**folder, size=8)
    total = 0
    for pixels in data.split("test").batch(torch.arange(3)).x.permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="WEBP", lossless=True, quality=100, method=4)
        with Image.open(io.BytesIO(buffer.getvalue())) as read:
            assert (np.asarray(read) == pixels).all()
        total += len(buffer.getvalue())
    assert file_rates.webp(data, "test") == 8 * total / (3 * 192)
    assert file_rates.webp(data, "test") > 8, "noise cannot be compressed, and a file has a header"
