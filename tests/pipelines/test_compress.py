"""Files compressed and decompressed by the verbs and from Python, of images; audio, video and codes in their files."""

import io
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from pipelines import load
from pipelines.codec.container import Reader
from pipelines.codec.items import open_compressed, restore
from pipelines.files.errors import InputError

DIGITS = (load_digits().images[:40] * 255 / 16).round().astype(np.uint8)


@pytest.fixture(scope="module")
def run(tiny_run):
    return load(tiny_run, "cpu")


@pytest.fixture(scope="module")
def x():
    return torch.from_numpy(DIGITS)[:, None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 digits, two of them below folders, one with a name of another script, and a file that is no image."""
    root = tmp_path_factory.mktemp("digits")
    (root / "even").mkdir()
    for number, digit in enumerate(DIGITS):
        name = {0: "even/0.png", 2: "even/2.png", 3: "трі.png"}.get(number, f"{number}.png")
        Image.fromarray(digit).save(root / name)
    (root / "bad.png").write_bytes(b"no image")
    return root


def pixels(path):
    return np.array(Image.open(path))


def test_what_comes_back_are_the_reconstructions(run, x):
    data = run.compress(x)
    assert torch.equal(run.decompress(data), run.reconstruct(x))
    assert torch.equal(run.decompress(data, [3, 1]), run.reconstruct(x)[[3, 1]])
    assert run.compress(x, batch_size=7) == data, "batches change nothing"


def test_lossless_is_lossless(run, x):
    data = run.compress(x, lossless=True)
    assert torch.equal(run.decompress(data), x)
    bits = float(run.score(x).bits.sum())  # marginal over the digit, which the file states: up to 3.4 bits more
    assert bits / 8 < len(data) < (bits + 3.4 * len(x)) / 8 * 1.01 + 8 * len(x), "as long as the data are improbable"


def test_a_file_is_as_long_as_its_codes_are_improbable(run, x):
    data, bits = run.compress(x), float(run.score(x).code_bits.sum())
    reader = Reader(io.BytesIO(data))
    payload = sum(len(record.payload) for record in reader.records())
    assert bits / 8 - 1 < payload < (bits + 3.4 * len(x)) / 8 * 1.01 + 1, "the file states each digit"
    assert len(run.compress(x[:1])) < float(run.score(x[:1]).code_bits.sum()) / 8 + 24


def test_a_damaged_byte_is_found_out_and_costs_one_record(run, x):
    """Of 60 flipped bytes none yields other items unnoticed."""
    data, draws = run.compress(x.repeat(8, 1, 1, 1)), np.random.default_rng(0)
    whole, lost = run.decompress(data), 0
    count = len(Reader(io.BytesIO(data)).entries)
    assert count >= 3
    for place in draws.integers(0, len(data), 60):
        damaged = bytearray(data)
        damaged[place] ^= int(draws.integers(1, 256))
        try:
            found = run.decompress(bytes(damaged))
        except InputError as error:
            assert "expected whole items, found damage in items" in str(error)
            lost += 1
            continue
        assert torch.equal(found, whole)
    assert lost > 30, "most bytes are payload"


def test_a_file_of_another_run_is_refused(run, x):
    with pytest.raises(InputError, match="data: expected a file compressed with .*mnist.*, found [0-9a-f]{16}:"):
        load("mnist", "cpu").decompress(run.compress(x))
    with pytest.raises(InputError, match="data: expected a compressed file, found something else"):
        run.decompress(b"PK" + bytes(100))


@pytest.mark.parametrize("flags", [["--lossless"], pytest.param([], marks=pytest.mark.slow)])
def test_a_folder_becomes_one_file_and_comes_back_by_name(run, tiny_run, folder, command, tmp_path, flags):
    file = tmp_path / "out" / "digits.ndc"
    result = command("compress", "--run", str(tiny_run), "--input", str(folder), "--out", str(file), *flags)
    assert result.stdout.splitlines()[-1] == (f"40 items in {file.stat().st_size} bytes, "
                                              f"{file.stat().st_size / 40:.1f} each: {file}")
    assert "left out 1 of 41" in result.stderr and "bad.png" in result.stderr
    assert [path.name for path in file.parent.iterdir() if not path.name.startswith(".")] == ["digits.ndc"]
    result = command("decompress", "--run", str(tiny_run), "--input", str(file), "--out", str(tmp_path / "back"))
    assert f"40 items of {file}" in result.stdout
    names = {path.name for path in (tmp_path / "back").glob("*.png")}
    assert names == {"even-0.png", "even-2.png", "трі.png", *(f"{n}.png" for n in range(40) if n not in (0, 2, 3))}
    expected = torch.from_numpy(DIGITS)[:, None] if flags else run.reconstruct(torch.from_numpy(DIGITS)[:, None])
    for name, number in {"even-2.png": 2, "трі.png": 3, "17.png": 17}.items():
        assert np.array_equal(pixels(tmp_path / "back" / name), expected[number, 0].numpy())
    command("decompress", "--run", str(tiny_run), "--input", str(file), "--out", str(tmp_path / "some"), "--item",
            "even/2.png", "--item", "0")
    assert {path.name for path in (tmp_path / "some").glob("*.png")} == {"even-2.png", "1.png"}


def test_damage_is_named_and_all_else_is_written(tiny_run, folder, command, tmp_path):
    big = tmp_path / "big"
    for copy in range(8):
        shutil.copytree(folder, big / str(copy), ignore=shutil.ignore_patterns("bad.png"))
    file = tmp_path / "digits.ndc"
    command("compress", "--run", str(tiny_run), "--input", str(big), "--out", str(file))
    reader = Reader(io.BytesIO(file.read_bytes()))
    offset, first, count = reader.entries[1]
    data = bytearray(file.read_bytes())
    data[offset + 20] ^= 1
    file.write_bytes(bytes(data))
    result = command("decompress", "--run", str(tiny_run), "--input", str(file), "--out", str(tmp_path / "back"),
                     check=False)
    assert result.returncode == 2 and f"{320 - count} items" in result.stdout
    error = result.stderr.strip().splitlines()[-1]
    assert error.startswith(f"error: {file}: expected whole items, found damage in {count}: {reader.names[first]}, ")
    assert len(list((tmp_path / "back").glob("*.png"))) == 320 - count


@pytest.mark.parametrize("arguments, message", [
    (["compress", "--input", "nowhere"], "nowhere: expected an image or a folder of images, found nothing"),
    (["compress", "--input", "FOLDER", "--label", "speaker=theo"], "--label: expected one of the labels"),
    (["compress", "--input", "FOLDER", "--actions", "forward"], "--actions: expected none"),
    (["decompress", "--input", "nowhere"], "nowhere: expected a compressed file, found none"),
    (["decompress", "--input", "ZIP"], "expected a compressed file, found something else"),
])
def test_what_cannot_be_done_is_refused_in_one_line(tiny_run, folder, command, tmp_path, arguments, message):
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("a", "b")
    places = {"FOLDER": str(folder), "ZIP": str(tmp_path / "some.zip")}
    verb, *rest = (places.get(word, word) for word in arguments)
    result = command(verb, "--run", str(tiny_run), *rest, "--out", str(tmp_path / "out"), check=False, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1] and result.stderr.splitlines()[-1].startswith("error: ")
    assert not list(tmp_path.glob("out/*.ndc")) and not list(tmp_path.glob("out/*.png"))


def test_names_in_a_file_are_not_trusted(run, x, tmp_path):
    """A name can neither leave the folder nor hide in it, and two items never share a file."""
    from pipelines.codec.items import Given, compress, safe_stems
    from pipelines.codec.models import Models

    models, file = Models(run._loaded), io.BytesIO()
    names = ["../../etc/passwd.png", "/abs.png", ".hidden", "", "..", "a.png", "a.jpg", "A.gif", "b\nc", "x" * 5000]
    compress(models, file, [Given(x[:10], models.wanted_labels({}, 10), names=names)], False, 64)
    stems = safe_stems(Reader(file))
    assert len({stem.lower() for stem in stems}) == 10
    assert all(stem and stem[0] not in ".-" and not set(stem) & set('/\\\n:') and len(stem) <= 210 for stem in stems)
    (tmp_path / "names.ndc").write_bytes(file.getvalue())
    made = run.decompress_files(tmp_path / "names.ndc", tmp_path / "out")
    assert made.count == 10 and len(list((tmp_path / "out").glob("*.png"))) == 10


def test_labels_that_are_not_given_are_chosen_and_given_ones_are_obeyed():
    """Of pretrained/mnist: the bits of the likeliest label's codes and of the label itself."""
    run = load("mnist", "cpu")
    seven = run.sample(1, digit="7", seed=1).x
    free, right, wrong = (len(run.compress(seven, **labels)) for labels in ({}, {"digit": "7"}, {"digit": "1"}))
    assert free <= right < wrong
    assert torch.equal(run.decompress(run.compress(seven, digit="1")), run.reconstruct(seven))
    with pytest.raises(InputError, match="label digit: expected one of 0, 1"):
        run.compress(seven, digit="11")


def test_the_overview_of_samples_is_no_item(run, tiny_run, command, tmp_path):
    """A folder of samples holds `grid.png` beside them; one's own file of that name is an item."""
    run.sample(3).save(tmp_path / "samples")
    out = ("--out", str(tmp_path / "a.ndc"))
    result = command("compress", "--run", str(tiny_run), "--input", str(tmp_path / "samples"), *out)
    assert "3 items in " in result.stdout and "left out: overviews of earlier calls, grid.png" in result.stderr
    (tmp_path / "own").mkdir()
    shutil.copy(tmp_path / "samples" / "00000.png", tmp_path / "own" / "grid.png")
    assert "1 items in " in command("compress", "--run", str(tiny_run), "--input", str(tmp_path / "own"), *out).stdout


def test_a_larger_rate_weight_makes_smaller_files_of_more_error(run, x):
    files = [run.compress(x, rate_weight=weight) for weight in (0.0, 1.0, 8.0, 1e9)]
    assert run.compress(x, rate_weight=1e-9) == files[0] == run.compress(x), "next to nothing: the encoder's codes"
    sizes = [len(file) for file in files]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4
    codes = torch.stack([each.codes for each in (next(restore(run._models, open_compressed(
        run._models, io.BytesIO(file), "file"), None, 64)).group for file in files)])
    z = run.stage1.embed(x[:codes.shape[1]]).detach().double()
    errors = [(z - run.stage1.bottleneck.lookup(own)).square().mean() for own in codes]
    assert errors == sorted(errors) and len(set(errors)) == 4


def test_a_rate_weight_that_does_not_fit_is_refused(run, x, tmp_path, folder):
    for weight, words in ((-1.0, "rate_weight: expected a number >= 0, found -1"), (float("nan"), "found nan")):
        with pytest.raises(InputError, match=words):
            run.compress(x, rate_weight=weight)
    with pytest.raises(InputError, match="expected 0 for a lossless file"):
        run.compress_files(folder, tmp_path / "a.ndc", lossless=True, rate_weight=0.1)
    assert not list(tmp_path.iterdir())
