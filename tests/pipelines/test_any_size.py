"""Items of any size through the Python door and the verbs: images, recordings and clips, compressed files, samples."""

import io

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from pipelines import load
from pipelines.codec.container import Reader
from pipelines.codec.pieces import Place, pieces, shape_of
from pipelines.files.errors import InputError


@pytest.fixture(scope="module")
def run(tiny_run):
    """On digits of 8x8, two pixels per code along each axis."""
    return load(tiny_run, "cpu")


@pytest.fixture(scope="module")
def image():
    """Odd height and width."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 37, 23), generator=generator).to(torch.uint8)


def test_an_image_of_any_size_is_encoded_decoded_and_cut_to_its_size(run, image):
    codes, usual = run.encode(image), torch.cat([image[:, :8, :8], image[:, 8:16, :8]], 2)[..., :8]
    assert codes.shape == (19, 12), "rounded up"
    made = run.reconstruct(image)
    assert made.shape == image.shape and torch.equal(made, run.decode(codes)[:, :37, :23])
    filled = torch.cat([torch.cat([image, image[:, -1:]], 1), torch.cat([image, image[:, -1:]], 1)[..., -1:]], 2)
    assert torch.equal(run.encode(filled), codes), "the border is repeated"
    assert torch.equal(run.encode(image.numpy()), codes) and torch.equal(run.encode(image[None])[0], codes)
    assert torch.equal(run.encode(image[0, :, :, None].numpy()), codes)
    assert torch.equal(run.encode(usual), run.stage1.encode(usual[None])[0]), "nothing is added where nothing is short"
    with pytest.raises(InputError, match="images: expected items of one size, found 37x23 and 8x8"):
        run.encode([image, usual])


def test_files_keep_their_size_when_asked_to(run, image, tmp_path, command, tiny_run):
    for name, size in (("a.png", 37), ("b.png", 20)):
        Image.fromarray(image[0, :size].numpy()).save(tmp_path / name)
    assert torch.equal(run.encode(tmp_path / "a.png", whole=True), run.encode(image))
    assert run.encode(tmp_path / "a.png").shape == run.grid
    result = command("reconstruct", "--run", str(tiny_run), "--input", str(tmp_path), "--whole", "--out",
                     str(tmp_path / "out"))
    assert "2 reconstructions with" in result.stdout
    for name, size in (("00000-a.png", 37), ("00001-b.png", 20)):
        assert np.array_equal(np.array(Image.open(tmp_path / "out" / name)), run.reconstruct(image[:, :size])[0])
    assert (tmp_path / "out" / "comparison.png").exists()


def test_a_compressed_file_holds_items_of_any_size(run, image):
    data = run.compress(image)
    assert torch.equal(run.decompress(data)[0], run.reconstruct(image))
    assert torch.equal(run.decompress(run.compress(image, lossless=True))[0], image)
    assert len(run.compress(image, rate_weight=4.0)) < len(data)
    several = torch.stack([image, image.flip(1)])
    data = run.compress(several, batch_size=3)
    assert torch.equal(run.decompress(data), run.reconstruct(several))
    assert torch.equal(run.decompress(data, [1]), run.reconstruct(several)[1:])


def test_damage_in_a_piece_costs_its_item_and_no_other(run, image):
    x = image.repeat(1, 4, 4)
    data = run.compress(torch.stack([x, x.flip(1)]))
    reader, whole = Reader(io.BytesIO(data)), run.decompress(data)
    first = [number for number, (_, item, count) in enumerate(reader.entries) if item + count == 1]
    assert 2 < len(first) < len(reader.entries)
    lost = 0
    for number in (0, first[1], first[-1]):
        offset, *_ = reader.entries[number]
        for place in range(3, 30, 9):
            damaged = bytearray(data)
            damaged[offset + place] ^= 64
            try:
                assert torch.equal(run.decompress(bytes(damaged)), whole)
            except InputError as error:
                assert str(error) == "data: expected whole items, found damage in items 0 to 0"
                lost += 1
        assert torch.equal(run.decompress(bytes(damaged), [1])[0], whole[1])
    assert lost > 6, "of nine"


def test_a_folder_of_files_of_any_size(run, image, tiny_run, command, tmp_path):
    sizes = {"a": (37, 23), "b": (8, 8), "c": (5, 16), "d": (8, 8)}
    (tmp_path / "in").mkdir()
    for name, (height, width) in sizes.items():
        Image.fromarray(image[0, :height, :width].numpy()).save(tmp_path / "in" / f"{name}.png")
    file = tmp_path / "a.ndc"
    command("compress", "--run", str(tiny_run), "--input", str(tmp_path / "in"), "--out", str(file), "--whole",
            "--lossless")
    result = command("decompress", "--run", str(tiny_run), "--input", str(file), "--out", str(tmp_path / "out"))
    assert "4 items of" in result.stdout
    for name, (height, width) in sizes.items():
        assert np.array_equal(np.array(Image.open(tmp_path / "out" / f"{name}.png")), image[0, :height, :width]), name
    one, two = tmp_path / "in" / "a.png", tmp_path / "b.ndc"
    run.compress_files(one, two, whole=True)
    assert two.read_bytes() == run.compress(image), "a file by itself"
    run.compress_files(tmp_path / "in", two)
    assert Reader(io.BytesIO(two.read_bytes())).header.any_size is False


@pytest.mark.parametrize(("grid", "usual"), [((19, 12), (4, 4)), ((3,), (128,)), ((129,), (128,)),
                                             ((2, 5, 7), (2, 2, 9))])
def test_pieces_cover_a_grid_once_and_none_is_larger_than_the_priors(grid, usual):
    covered, cells = torch.zeros(grid), pieces(grid, usual)
    for cell in cells:
        covered[cell] += 1
        assert all(size <= most for size, most in zip(shape_of(cell), usual, strict=True))
    assert (covered == 1).all() and [shape_of(cell) for cell in cells] == sorted(map(shape_of, cells))
    place = Place(tuple(grid), 300, 7)
    assert Place.from_bytes(place.to_bytes() + b"rest", len(grid)) == (place, len(place.to_bytes()))


def test_samples_of_another_size(run, tiny_run, command, tmp_path):
    """Each is a function of the seed and its number, and of the size."""
    samples = run.sample(2, seed=1, size="12x20", digit="3")
    assert samples.x.shape == (2, 1, 12, 20) and samples.codes.shape == (2, 6, 10)
    assert torch.equal(run.sample(1, seed=1, size=(12, 20), digit="3").codes, samples.codes[:1])
    assert torch.equal(run.decode(samples.codes), samples.x)
    assert run.sample(1, size="11x7").x.shape == (1, 1, 11, 7)
    assert torch.equal(run.sample(2, seed=3, size="8x8").x, run.sample(2, seed=3).x)
    command("sample", "--run", str(tiny_run), "--n", "1", "--size", "12x20", "--out", str(tmp_path))
    assert Image.open(tmp_path / "00000.png").size == (20, 12)
    for wrong in ("12", "0x4", "axb", "1x2x3", 7):
        with pytest.raises(InputError, match="^size: expected HxW, as 8x8, found"):
            run.sample(1, size=wrong)


@pytest.fixture(scope="module")
def speech():
    return load("fsdd", "cpu")


@pytest.fixture(scope="module")
def recording():
    """9,001 samples: longer than the run's items, and no whole number of codes."""
    return torch.sin(torch.arange(9001) / 7 + torch.arange(9001) ** 2 / 3e5) * 0.4


def test_a_recording_of_any_length_is_encoded_and_compressed(speech, recording, tmp_path):
    codes = speech.encode(recording)
    assert codes.shape == (141,)
    filled = torch.nn.functional.pad(recording, (0, 141 * 64 - 9001))
    assert torch.equal(codes, speech.stage1.encode(filled[None, None])[0]), "as one pass"
    assert speech.encode([recording, recording[:100]]).shape == (2, 141)
    soundfile.write(tmp_path / "long.wav", recording.numpy(), 8000)
    soundfile.write(tmp_path / "short.wav", recording[:500].numpy(), 8000)
    made = speech.compress_files(tmp_path, tmp_path / "a.ndc", labels={"speaker": "theo", "digit": "7"})
    assert made.count == 2
    data = (tmp_path / "a.ndc").read_bytes()
    models, found = speech._models, {}
    from pipelines.codec.items import open_compressed, restore

    for part in restore(models, open_compressed(models, io.BytesIO(data), "a"), None, 64, "stepper"):
        found[part.numbers.start] = part.group.codes[0]
    assert torch.equal(found[0], speech.encode(tmp_path / "long.wav"))
    assert torch.equal(found[1][:8], speech.encode(tmp_path / "short.wav")[:8]) and not found[1][8:].any()


def test_networks_of_one_size_refuse_others(tmp_path, monkeypatch, run, image):
    """In one line, that says why."""
    from stage1_vqvae.receptive_field import NotLocal
    from stage1_vqvae.tiles import Tiled

    def refuse(self):
        raise NotLocal("28x28 become a grid of 3, which does not divide them")

    monkeypatch.setattr(Tiled, "strides", property(refuse))
    for call in (run.encode, run.reconstruct, run.compress):
        with pytest.raises(InputError, match="^size: expected 8x8, since the networks of this run take no other, found "
                                             "37x23: 28x28 become"):
            call(image)
