"""Images and plots of results: every pixel in its place, files whole or absent, the right curves and titles."""

import math
import os

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image, ImageDraw

from pipelines.media import images as media
from pipelines.media import plots


def read(path) -> torch.Tensor:
    with Image.open(path) as picture:
        return torch.from_numpy(np.asarray(picture.convert("RGB")).transpose(2, 0, 1).copy())


@pytest.fixture
def titles(monkeypatch):
    """The calls that draw or title the axes of a plot."""
    said = []
    for name in ("set_title", "set_ylabel", "set_yscale", "plot", "axhline", "stairs"):
        method = getattr(Axes, name)
        monkeypatch.setattr(Axes, name, lambda self, *arguments, _name=name, _method=method, **options: (
            said.append((_name, arguments)), _method(self, *arguments, **options))[1])
    return said


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_written_pixel_for_pixel(channels, tmp_path):
    image = torch.randint(0, 256, (channels, 5, 9), dtype=torch.uint8)
    media.write_image(tmp_path / "a.png", image)
    assert torch.equal(read(tmp_path / "a.png"), image.expand(3, -1, -1))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").stat().st_mode & 0o077 == 0o666 & ~current_umask() & 0o077  # others may read it


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_a_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    media.write_image(tmp_path / "a.png", torch.zeros(1, 4, 4, dtype=torch.uint8))
    before = (tmp_path / "a.png").read_bytes()
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError):
        media.write_image(tmp_path / "a.png", torch.ones(1, 40, 40, dtype=torch.uint8))
    assert (tmp_path / "a.png").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("number", "height", "width", "columns"), [(7, 4, 6, 3), (1, 8, 8, None), (64, 32, 32, None),
                                                                    (3, 700, 700, None), (5, 6, 4, 9)])
def test_a_grid_holds_every_image_in_reading_order(number, height, width, columns):
    images = torch.randint(1, 250, (number, 3, height, width), dtype=torch.uint8)
    picture = media.image_grid(images, columns)
    columns = min(columns or math.ceil(math.sqrt(number * height / width)), number)
    factor = math.ceil(media.LEAST_WIDTH / (columns * width))
    assert picture.shape[2] >= 600 and picture.dtype == torch.uint8 and len(picture) == 3
    tiles = picture.clone()
    for place, image in enumerate(images):
        top = media.GAP + place // columns * (factor * height + media.GAP)
        left = media.GAP + place % columns * (factor * width + media.GAP)
        area = (slice(None), slice(top, top + factor * height), slice(left, left + factor * width))
        assert torch.equal(picture[area][:, ::factor, ::factor], image)
        assert torch.equal(picture[area][:, factor - 1 :: factor, factor - 1 :: factor], image)
        tiles[area] = media.PAPER
    assert (tiles == media.PAPER).all()  # nothing but paper between


def test_a_reconstruction_lies_below_its_original():
    originals = torch.arange(1, 11, dtype=torch.uint8)[:, None, None, None].expand(10, 1, 5, 6)
    picture = media.image_pairs(originals, originals + 100, columns=4)
    factor = math.ceil(media.LEAST_WIDTH / (4 * 6))
    images = picture[:, :, media.MARGIN :]
    values = [list(dict.fromkeys(row[row != media.PAPER].tolist())) for row in images[0]]
    rows = [value for place, value in enumerate(values) if value and value != values[place - 1]]
    line = [media.LINE]
    assert rows == [[1, 2, 3, 4], line, [101, 102, 103, 104], [5, 6, 7, 8], line, [105, 106, 107, 108],
                    [9, 10], line, [109, 110]]
    assert (images[0] == 7).sum() == (images[0] == 107).sum() == 30 * factor**2
    captions = picture[0, :, : media.MARGIN]
    inked = (captions < media.PAPER).any(1).nonzero().flatten()
    bands = 1 + (inked.diff() > 5).sum().item()
    assert bands == 6  # one caption for each row


def test_captions_are_those_asked_for(monkeypatch):
    said, text = [], ImageDraw.ImageDraw.text
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, place, words, *rest, **options: (
        said.append(words), text(self, place, words, *rest, **options))[1])
    images = torch.zeros(3, 1, 5, 6, dtype=torch.uint8)
    media.image_pairs(images, images, 2, ("above", "below"))
    assert said == ["above", "below"] * 2


def test_only_images_of_8_bits_are_taken():
    with pytest.raises(AssertionError):
        media.image_grid(torch.rand(4, 3, 8, 8))
    with pytest.raises(AssertionError):
        media.image_grid(torch.zeros(4, 2, 8, 8, dtype=torch.uint8))


def rows(name: str) -> list[dict]:
    training = [{"step": step, "split": "train", "loss": 1.0, name: 3 - step / 100, "perplexity": 9.0, "seconds": 1}
                for step in range(10, 101, 10)]
    validation = [{"step": step, "split": "validation", name: value, "perplexity": 8.0, "seconds": 1}
                  for step, value in ((50, 2.75), (75, 2.25), (100, 2.5))]
    return training + validation


def test_curves_show_the_loss_of_both_splits_and_the_best(tmp_path, titles):
    plots.plot_curves(tmp_path / "curves.png", {"stage 1": rows("objective"), "stage 2": rows("bits"), "stage 3": []})
    assert read(tmp_path / "curves.png").shape == (3, 480, 1440)
    said = [arguments[0] for name, arguments in titles if name == "set_title"]
    assert said == ["stage 1: best validation 2.25 at step 75", "stage 2: best validation 2.25 at step 75"]
    curves = [[axis.tolist() for axis in arguments] for name, arguments in titles if name == "plot"]
    assert curves[0] == [list(range(10, 101, 10)), [3 - step / 100 for step in range(10, 101, 10)]]
    assert curves[1] == curves[3] == [[50, 75, 100], [2.75, 2.25, 2.5]]


@pytest.mark.parametrize("metrics", [[], rows("bits")[:10], [{"step": 1, "split": "train", "loss": None}]])
def test_curves_of_what_has_hardly_begun(metrics, tmp_path):
    plots.plot_curves(tmp_path / "curves.png", {"stage 1": metrics})
    assert read(tmp_path / "curves.png").shape[1] == 480


def test_codebook_use_is_sorted_and_titled(tmp_path, titles):
    plots.plot_codebook_use(tmp_path / "use.png", torch.tensor([5, 0, 10, 5]))
    (drawn,) = [arguments[0].tolist() for name, arguments in titles if name == "stairs"]
    assert drawn == [10, 5, 5, 0]
    (title,) = [arguments[0] for name, arguments in titles if name == "set_title"]
    assert title == "3 of 4 codes used, perplexity 2.8"  # exp(1/2 log 2 + 1/2 log 4) = 2 sqrt 2
    assert read(tmp_path / "use.png").shape == (3, 480, 960)


def test_use_of_several_codebooks(tmp_path, titles):
    plots.plot_codebook_use(tmp_path / "use.png", torch.tensor([[5, 0, 10, 5], [1, 1, 1, 1]]))
    drawn = [arguments[0].tolist() for name, arguments in titles if name == "stairs"]
    assert drawn == [[10, 5, 5, 0], [1, 1, 1, 1]]
    (title,) = [arguments[0] for name, arguments in titles if name == "set_title"]
    assert title == "3.5 of 4 codes used, perplexity 3.4 (means over 2 codebooks)"


def test_a_plane_has_a_point_of_its_class_for_each_item(tmp_path, monkeypatch):
    seen, scatter = [], Axes.scatter
    monkeypatch.setattr(Axes, "scatter", lambda self, x, y, **options: (
        seen.append((options["label"], options["color"], x.tolist(), y.tolist())), scatter(self, x, y, **options))[1])
    points, box = torch.arange(6.0).view(3, 2), torch.tensor([[0.0, 1.0], [4.0, 5.0]])
    plots.plot_plane(tmp_path / "plane.png", points, box, torch.tensor([1, 0, 1]), ("a", "b"))
    assert seen == [("a", "C0", [2.0], [3.0]), ("b", "C1", [0.0, 4.0], [1.0, 5.0])]
    assert read(tmp_path / "plane.png").shape == (3, 720, 840)
    plots.plot_plane(tmp_path / "plane.png", points, box)
    assert seen[2:] == [("", "C0", [0.0, 2.0, 4.0], [1.0, 3.0, 5.0])]


def test_named_rows_are_as_wide_as_the_longest_name(tmp_path):
    white = torch.full((3, 1, 100, 100), 255, dtype=torch.uint8)
    images = {"a": torch.zeros_like(white), "a much longer name": white}
    picture = media.image_rows(images)
    short = media.image_rows({"a": images["a"], "b": white})
    body = media.image_grid(torch.cat(list(images.values())), 3)
    assert picture.shape[1:] == (body.shape[1], picture.shape[2]) and picture.shape[2] > short.shape[2]
    assert torch.equal(picture[:, :, -body.shape[2] :], body)
    captions = picture[0, :, : -body.shape[2]]
    half = captions.shape[0] // 2
    assert captions[:half].min() < 255 and captions[half:].min() < 255, "a name beside each row"
    assert (captions[:half] < 255).sum() < (captions[half:] < 255).sum()


def test_lines_are_drawn_by_name_without_what_is_missing(tmp_path, titles):
    lines = {"one": [("0", 1.0), ("0.25", None), ("1", 3.0)], "two": [("0", 2.0)]}
    plots.plot_lines(tmp_path / "plot.png", [("beta", "bound", lines), ("step", "norm", {"": [(1, 2.0)]})])
    assert read(tmp_path / "plot.png").shape[2] == 2 * read_width(tmp_path, lines)
    drawn = [arguments for name, arguments in titles if name == "plot"]
    assert drawn[0] == (("0", "1"), (1.0, 3.0)) and drawn[1] == (("0",), (2.0,)) and drawn[2] == ((1,), (2.0,))


@pytest.mark.parametrize("most, scale", [(100.0, "linear"), (101.0, "log")])
def test_a_wide_span_of_values_is_drawn_on_a_logarithmic_scale(most, scale, tmp_path, titles):
    plots.plot_lines(tmp_path / "plot.png", [("step", "norm", {"one": [(1, 1.0), (2, None)], "two": [(1, most)]})])
    assert ("set_yscale", (scale,)) in titles


@pytest.mark.parametrize("count", [plots.ON_AXES, plots.ON_AXES + 1])
def test_a_legend_of_many_names_stands_beside_the_panels(count, tmp_path, monkeypatch):
    lines = {f"line {number}": [(0, 1.0), (1, float(number))] for number in range(count)}
    found = []
    monkeypatch.setattr(plots, "_write_figure", lambda path, figure: found.append(figure))
    plots.plot_lines(tmp_path / "plot.png", [("x", "one", lines), ("x", "two", lines)])
    on_axes = [axis.get_legend() for axis in found[0].axes]
    if count == plots.ON_AXES:
        assert None not in on_axes and not found[0].legends
    else:
        assert on_axes == [None, None]
        assert [text.get_text() for text in found[0].legends[0].get_texts()] == list(lines)


def read_width(folder, lines) -> int:
    """Of a plot with one panel."""
    plots.plot_lines(folder / "single.png", [("beta", "bound", lines)])
    return read(folder / "single.png").shape[2]
