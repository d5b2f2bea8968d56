"""Codes of other programs: imported, modelled, sampled, scored, filled, compressed and written as they came in."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from pipelines import load
from pipelines.data.codes import CodeData
from pipelines.data.importing import Wishes, import_tokens
from pipelines.files.errors import InputError
from pipelines.runs.continued import own_settings
from pipelines.runs.data import load_data
from pipelines.runs.store import Run, load_stage1
from pipelines.tokens.base import Options

SMALL = ["prior.channels=8", "prior.num_layers=2", "train.steps=20", "train.validate_every=10", "train.batch_size=32"]


ITEMS = 240  # digits


def made(folder: Path, source: Path, name: str = "tokens", **wishes):
    """import_codes.py within this process."""
    return import_tokens(Run(folder / "runs" / name), {"train": source}, Wishes(**wishes))


def all_codes(data: CodeData, split: str) -> torch.Tensor:
    return torch.cat([batch.x for batch in data.split(split).evaluation_batches()])


def digit_tokens() -> tuple[np.ndarray, np.ndarray]:
    """Tokens (n, 4, 4) of digits that a quantiser of another package makes of their 2x2 patches, and the digits."""
    package = pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    digits = load_digits()
    patches = torch.from_numpy(digits.images[:ITEMS]).float().unfold(1, 2, 2).unfold(2, 2, 2).reshape(-1, 16, 4) / 16
    quantiser = package.VectorQuantize(dim=4, codebook_size=24, kmeans_init=True, threshold_ema_dead_code=2)
    for start in range(0, ITEMS, 40):
        quantiser(patches[start : start + 64])
    with torch.no_grad():
        codes = quantiser.eval()(patches)[1]
    return codes.reshape(-1, 4, 4).numpy().astype(np.int32), digits.target[:ITEMS]


@pytest.fixture(scope="module")
def home(tmp_path_factory, command):
    """A user's folder: tokens of another package, imported by the command, and a prior of a few steps."""
    home = tmp_path_factory.mktemp("tokens")
    codes, digits = digit_tokens()
    np.save(home / "tokens.npy", codes)
    np.save(home / "digits.npy", digits)
    given = ["--input", "tokens.npy", "--labels", "digit=digits.npy"]
    printed = command("import_codes", "--run", "tokens", *given, cwd=home)
    assert "grid 4x4, K = 32 (largest code 23, rounded up; --num-codes gives another)" in printed.stdout
    command("train_stage2", "run=tokens", *SMALL, cwd=home)
    return home


def test_codes_and_labels_are_those_of_the_file(home):
    data, codes = CodeData(home / "runs/tokens/codes"), np.load(home / "tokens.npy")
    numbers = {name: len(data.split(name)) for name in data.splits}
    assert numbers == {"train": 216, "validation": 24} and data.classes == (tuple("0123456789"),)
    held = all_codes(data, "validation")
    rows = {item.tobytes(): set() for item in codes}
    for item, digit in zip(codes, np.load(home / "digits.npy"), strict=True):
        rows[item.tobytes()].add(digit)
    for item, label in zip(held.numpy().astype(np.int32), data.split("validation").labels[:, 0].tolist(), strict=True):
        assert label in rows[item.tobytes()]


def test_samples_are_written_as_the_tokens_came_in(home):
    load(home / "runs/tokens", "cpu").sample(5, digit="3").save(home / "samples")
    samples = np.load(home / "samples/samples.npy")
    assert samples.shape == (5, 4, 4) and samples.dtype == np.int32 and 0 <= samples.min() and samples.max() < 32
    assert (home / "samples/samples.labels.csv").read_text() == "digit\n" + "3\n" * 5
    again = load(home / "runs/tokens", "cpu").sample(2, labels=["digit=3"])
    assert np.array_equal(again.codes.numpy(), samples[:2]) and torch.equal(again.x[:, 0], again.codes)


def test_scores_have_a_row_per_item(home):
    run = load(home / "runs/tokens", "cpu")
    run.score_files(home / "tokens.npy", home / "scores", held_out=20)
    with open(home / "scores/scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == ITEMS and {row["file"] for row in rows} == {f"{number:05d}" for number in range(ITEMS)}
    codes = np.load(home / "tokens.npy")
    bits = {row["file"]: float(row["code_bits"]) for row in rows}
    assert [bits["00000"], bits["00007"]] == pytest.approx(run.score(codes[[0, 7]]).code_bits.tolist(), rel=1e-5)
    assert all(row["data_bits"] == "0" for row in rows) and np.load(home / "scores/bits.npy").shape == (ITEMS, 4, 4)


def test_compressed_tokens_come_back_to_the_byte(home):
    run = load(home / "runs/tokens", "cpu")
    run.compress_files(home / "tokens.npy", home / "all.ndc")
    run.decompress_files(home / "all.ndc", home / "back")
    assert (home / "back/items.npy").read_bytes() == (home / "tokens.npy").read_bytes()
    assert (home / "all.ndc").stat().st_size < ITEMS * 12, "a prior that knows nothing takes 16 x 5 bits = 10 bytes"
    run.decompress_files(home / "all.ndc", home / "one", ["7"])
    assert np.array_equal(np.load(home / "one/items.npy"), np.load(home / "tokens.npy")[7:8])


def test_a_hidden_part_is_filled_and_the_rest_kept(home):
    run, codes = load(home / "runs/tokens", "cpu"), np.load(home / "tokens.npy")[0]
    hidden = np.zeros((4, 4), bool)
    hidden[1:3, 2:] = True
    filled = run.sample(3, complete=codes, mask=hidden, particles=4)
    assert (filled.codes.numpy()[:, ~hidden] == codes[~hidden]).all() and filled.bits.isfinite().all()
    np.save(home / "mask.npy", hidden)
    np.save(home / "one.npy", codes)
    again = run.sample(3, complete=home / "one.npy", mask=home / "mask.npy", particles=4)
    assert torch.equal(again.codes, filled.codes)
    for mask, found in ((hidden[:2], "bool (2, 4)"), (hidden.astype(int), "int64 (4, 4)")):
        with pytest.raises(InputError) as refusal:
            run.sample(1, complete=codes, mask=mask)
        assert str(refusal.value).endswith(f"found {found}")


def test_what_needs_a_stage_1_is_refused_in_one_line(home, command):
    run, codes = load(home / "runs/tokens", "cpu"), np.load(home / "tokens.npy")[:2]
    for call in (run.encode, run.decode, run.reconstruct, lambda x: run.export(home / "x", x),
                 lambda x: run.reconstruct_files(home / "tokens.npy", home / "x")):
        with pytest.raises(InputError, match="found one whose codes were imported: it has no stage 1$"):
            call(codes)
    for verb in ("train_stage1", "extract_codes"):
        refusal = command(verb, "run=tokens", cwd=home, check=False)
        assert refusal.returncode == 2 and refusal.stderr.strip().endswith("were imported: it has no stage 1"), verb


@pytest.mark.slow
def test_it_is_measured_listed_reported_and_published(home, command):
    command("evaluate", "run=tokens", "evaluate.samples=8", "evaluate.copies=8", cwd=home)
    figures = load(home / "runs/tokens", "cpu").figures
    assert figures["bits_per_dim"]["distortion"] == 0 and figures["bits_per_dim"]["total_uniform"] == 5
    assert figures["codes"]["num_codes"] == 32 and 0 < figures["codes"]["prior_bits"] < 6
    assert "tokens" in command("list_runs", cwd=home).stdout
    assert command("doctor", "--run", "tokens", cwd=home, check=False).returncode in (0, 1)
    page = command("report", "--run", "tokens", "--n", "4", cwd=home)
    assert "reconstructions: the codes of this run were imported" in page.stderr
    assert (home / "runs/tokens/report.html").read_text().count('alt="sample') == 4
    command("publish", "--run", "tokens", "--out", "published", cwd=home)
    assert "Stage 1: none" in (home / "published/README.md").read_text()
    there, here = (load(home / path, "cpu") for path in ("published", "runs/tokens"))
    assert there.stage1.bottleneck.origin.tolist() == here.stage1.bottleneck.origin.tolist() and any(
        there.stage1.bottleneck.origin)
    assert there.sample(1).codes.shape == (1, 4, 4)


def test_a_run_that_moved_has_its_own_data(home, tmp_path):
    shutil.copytree(home / "runs/tokens", tmp_path / "moved")
    moved = Run(tmp_path / "moved")
    data = load_data(moved, load_stage1(moved, torch.device("cpu")), None)
    assert len(data.split("validation")) == 24 and own_settings(moved)["data"]["run"] == str(tmp_path / "moved")
    assert data.split("validation").batch(torch.arange(2)).x.shape == (2, 1, 4, 4), "an axis of codebooks"


def test_an_imported_split_is_not_divided(tmp_path):
    x = np.arange(24, dtype=np.uint16).reshape(8, 3)
    for name, rows in (("train", slice(0, 5)), ("val", slice(5, 7)), ("test", slice(7, 8))):
        x[rows].tofile(tmp_path / f"{name}.bin")
    data = made(tmp_path, tmp_path, options=Options(item_length=3)).codes
    for name, rows in (("train", slice(0, 5)), ("validation", slice(5, 7)), ("test", slice(7, 8))):
        assert np.array_equal(all_codes(data, name).numpy(), x[rows])


@pytest.mark.parametrize("axis, shape", [("first", (2, 5)), pytest.param("last", (5, 2), marks=pytest.mark.slow)])
def test_codebooks_and_padding_of_an_audio_codec(tmp_path, command, axis, shape):
    """Two codebooks of sequences that -1 fills up: samples have the same layout, and -1 beyond their lengths."""
    draws = np.random.default_rng(0)
    x, lengths = draws.integers(0, 6, (60, *shape)), draws.integers(1, 6, 60)
    beyond = np.arange(5) >= lengths[:, None]
    x[np.broadcast_to(beyond[:, None] if axis == "first" else beyond[:, :, None], x.shape)] = -1
    np.save(tmp_path / "codec.npy", x)
    data = made(tmp_path, tmp_path / "codec.npy", codebook_axis=axis, padding=-1, num_codes=6).codes
    assert data.grid == (5,) and data.num_codebooks == 2 and data.num_codes == 6
    found = sum((data.split(name).lengths.bincount(minlength=6) for name in data.splits), torch.zeros(6, dtype=int))
    assert found.tolist() == np.bincount(lengths, minlength=6).tolist()
    command("train_stage2", "run=tokens", "prior.residual_channels=8", "prior.gate_channels=8", "prior.skip_channels=8",
            "prior.num_layers=2", "train.steps=4", "train.validate_every=4", cwd=tmp_path)
    run = load(tmp_path / "runs/tokens", "cpu")
    run.sample(6).save(tmp_path / "samples")
    samples = np.load(tmp_path / "samples/samples.npy")
    assert samples.shape == (6, *shape) and samples.dtype == np.int64
    run.compress_files(tmp_path / "codec.npy", tmp_path / "x.ndc")
    run.decompress_files(tmp_path / "x.ndc", tmp_path / "back")
    assert (tmp_path / "back/items.npy").read_bytes() == (tmp_path / "codec.npy").read_bytes()
    score = run.score(tmp_path / "codec.npy")
    assert score.num_codes.tolist() == (2 * lengths).tolist() and torch.equal(score.bits_per_dim, score.bits_per_code)
    filled = run.sample(2, complete=np.arange(8).reshape(4, 2) % 6, mask="1-3", particles=2)
    assert filled.codes[:, [0, 3]].tolist() == [[[0, 1], [0, 1]]] * 2 and filled.lengths.tolist() == [4, 4]


@pytest.mark.slow
def test_items_of_their_own_files_come_back_as_files(tmp_path, command):
    draws = np.random.default_rng(0)
    (tmp_path / "items").mkdir()
    for number in range(30):
        np.save(tmp_path / "items" / f"song{number:02d}.npy", draws.integers(0, 9, 3 + number % 4).astype(np.uint8))
    made(tmp_path, tmp_path / "items")
    command("train_stage2", "run=tokens", "prior.residual_channels=8", "prior.gate_channels=8", "prior.skip_channels=8",
            "prior.num_layers=2", "train.steps=4", "train.validate_every=4", cwd=tmp_path)
    run = load(tmp_path / "runs/tokens", "cpu")
    run.sample(3).save(tmp_path / "samples")
    assert [np.load(path).ndim for path in sorted((tmp_path / "samples").glob("*.npy"))] == [1, 1, 1]
    run.compress_files(tmp_path / "items", tmp_path / "x.ndc")
    run.decompress_files(tmp_path / "x.ndc", tmp_path / "back")
    for path in (tmp_path / "items").iterdir():
        assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()


def test_the_same_tokens_give_the_same_hash_and_others_another(tmp_path):
    x = np.arange(40).reshape(10, 4)
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "b.npz", codes=x.astype(np.uint8))
    np.save(tmp_path / "c.npy", x[::-1])
    hashes = [made(tmp_path, tmp_path / name, name[0]).codes.stage1_hash for name in ("a.npy", "b.npz", "c.npy")]
    assert hashes[0] == hashes[1] != hashes[2]


def test_k_is_found_and_a_grid_is_cut_from_flat_items(tmp_path):
    for largest, expected in ((1, 2), (8, 16), (50256, 65536)):
        np.save(tmp_path / "x.npy", np.array([[0, 0, 1, 0, 0, largest]] * 4))
        imported = made(tmp_path, tmp_path / "x.npy", f"k{largest}", grid=[2, 3])
        assert imported.codes.num_codes == expected and imported.largest == largest and imported.codes.grid == (2, 3)
        assert all_codes(imported.codes, "train")[0].tolist() == [[0, 0, 1], [0, 0, largest]]


# What cannot be imported: the array, what is asked for, and the end of the line.
REFUSED = {
    "negative": ([[0, 1], [2, -1]], {},
                 "expected codes from 0 to 1048575, found -1 in item 1; --padding -1 if it stands for none"),
    "too large": ([[0, 1], [2, 9]], {"num_codes": 9}, "expected codes from 0 to 8, found 9 in item 1"),
    "far too large": ([[0, 1], [2, 2**40]], {}, f"expected codes from 0 to 1048575, found {2**40} in item 1"),
    "floats": ([[0.0, 1.0]], {}, "expected integers, found float64"),
    "one axis": ([0, 1, 2], {}, "expected an array of items, (n, ...), with at least one code, found shape (3,)"),
    "another grid": ([[0, 1, 2]] * 3, {"grid": [2, 2]}, "expected items of 2 x 2 = 4 codes, found shape (3,), 3 codes"),
    "no codebooks": ([[0, 1, 2]] * 3, {"codebook_axis": "last"},
                     "expected items with an axis of codebooks, found shape (3,); --grid cuts them"),
    "odd codebooks": ([[0, 1, 2]] * 3, {"codebook_axis": "last", "grid": [2]},
                      "expected items of 2 = 2 codes times a number of codebooks, found shape (3,), 3 codes"),
    "one item": ([[0, 1, 2]], {}, "expected at least 2 items, one of which is held out for validation, found 1"),
    "many axes": (np.zeros((2, 1, 1, 1, 1), int), {}, "expected items with 1 to 3 axes, found shape (1, 1, 1, 1); "
                  "--grid gives the axes, --codebook-axis says that one is of codebooks"),
    "padding alone": ([[0, 1], [3, 3]], {"padding": 3}, "padding: expected a code in each item, found none in item 1"),
    "a padded grid": (np.zeros((3, 2, 2), int), {"padding": 3}, "padding: expected items with one axis, found a grid "
                                                                "(2, 2)"),
    "an unknown format": ([[0, 1]] * 3, {"format": "pickle"},
                          "expected one of npz, bin, npy, parquet, safetensors, folder, found 'pickle'"),
    "no labels": ([[0, 1]] * 3, {"labels": ["x=nowhere.npy"]},
                  "labels: expected FILE or NAME=FILE, a .csv or .npy file, found 'x=nowhere.npy'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_imported_is_refused_in_one_line_and_leaves_nothing(tmp_path, name):
    array, wishes, expected = REFUSED[name]
    np.save(tmp_path / "x.npy", np.array(array))
    with pytest.raises(InputError) as refusal:
        made(tmp_path, tmp_path / "x.npy", **wishes)
    message = str(refusal.value)
    assert message.endswith(expected) or (name == "an unknown format" and "found 'pickle'" in message)
    assert "\n" not in message and not (tmp_path / "runs/tokens").exists()


def test_lengths_and_labels_of_another_number_of_items_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 3), int))
    for lengths, found in (([1, 2, 3], "found 3 from 1 to 3"), ([0, 1, 1, 1], "found 4 from 0 to 1"),
                           ([4, 1, 1, 1], "found 4 from 1 to 4")):
        np.save(tmp_path / "lengths.npy", np.array(lengths))
        with pytest.raises(InputError, match=f"lengths: expected 4 numbers from 1 to 3, {found}$"):
            made(tmp_path, tmp_path / "x.npy", lengths=tmp_path / "lengths.npy")
    np.save(tmp_path / "digit.npy", np.arange(3))
    with pytest.raises(InputError, match="labels: expected a digit for each of 4 items, found 3$"):
        made(tmp_path, tmp_path / "x.npy", labels=[str(tmp_path / "digit.npy")])


def test_codebooks_that_differ_in_number_are_no_lengths(tmp_path):
    """Items (t, g) in files of their own: t may differ, g may not."""
    (tmp_path / "items").mkdir()
    for number in range(4):
        np.save(tmp_path / "items" / f"{number}.npy", np.zeros((3, 1 + number % 2), int))
    with pytest.raises(InputError, match="expected items whose axis 0 has lengths, found axis 1; --codebook-axis says"):
        made(tmp_path, tmp_path / "items", codebook_axis="last")


def test_a_refusal_of_the_command_is_one_line_and_status_2(tmp_path, command):
    np.save(tmp_path / "x.npy", np.zeros((4, 3)))
    for arguments, end in (([], "x.npy: expected integers, found float64"),
                           (["--grid", "0"], "--grid: expected sizes >= 1, at most 3 of them, found [0]"),
                           (["--run", "../x"], "expected the name of a run, found '../x'")):
        result = command("import_codes", "--run", "a", "--input", "x.npy", *arguments, cwd=tmp_path, check=False)
        assert result.returncode == 2 and result.stderr.count("\n") == 1 and result.stderr.strip().endswith(end)
    assert not (tmp_path / "runs").exists()


def test_a_run_that_exists_is_not_replaced(home):
    before = (home / "runs/tokens/codes/manifest.json").read_bytes()
    with pytest.raises(InputError, match="^run: expected a name that is not taken, found"):
        made(home, home / "tokens.npy")
    assert (home / "runs/tokens/codes/manifest.json").read_bytes() == before


def test_an_interrupted_import_leaves_nothing(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.arange(20).reshape(10, 2))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.data.importing.write_codes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, tmp_path / "x.npy")
    assert not [path for path in (tmp_path / "runs").iterdir() if path.is_dir()]
    monkeypatch.undo()
    assert len(made(tmp_path, tmp_path / "x.npy").codes.split("train")) == 9


def test_tokens_are_read_in_batches(tmp_path, monkeypatch):
    """Never more than a batch of items at once, and each of them twice."""
    from pipelines.tokens.base import ArraySource

    monkeypatch.setattr("pipelines.data.importing.AT_ONCE", 64)
    asked, rows = [], ArraySource.rows
    monkeypatch.setattr(ArraySource, "rows", lambda self, numbers: (asked.append(len(numbers)), rows(self, numbers))[1])
    np.save(tmp_path / "x.npy", np.arange(400).reshape(100, 4))
    made(tmp_path, tmp_path / "x.npy")
    assert max(asked) == 16 and sum(asked) == 201, "once more the first item, for the shape of its codes"


def test_files_of_other_tokens_are_refused_by_a_run(home, tmp_path):
    run = load(home / "runs/tokens", "cpu")
    for array, end in ((np.zeros((3, 5, 4), int), "expected integers of shape (4, 4) per item, found int64 (5, 4)"),
                       (np.full((3, 4, 4), 32), "expected codes from 0 to 31, found 32 to 32"),
                       (np.zeros((3, 4, 4)), "expected integers, found float64")):
        np.save(tmp_path / "x.npy", array)
        with pytest.raises(InputError) as refusal:
            run.score(tmp_path / "x.npy")
        assert str(refusal.value).endswith(end)
    with pytest.raises(InputError, match=r"^codes: expected integers of shape \(4, 4\) or \(n, 4, 4\), found int64 "):
        run.score(np.zeros(4, int))


def test_a_configuration_that_states_another_layout_is_refused(home, tmp_path):
    shutil.copytree(home / "runs/tokens", tmp_path / "x")
    path = tmp_path / "x/stage1/config.yaml"
    path.write_text(path.read_text().replace("dtype: <i4", "dtype: <f4"))
    with pytest.raises(InputError, match="tokens: expected how codes lie in files .expected a type of integers, found"):
        load(tmp_path / "x", "cpu")


def test_card_of_an_export_says_what_is_not_given(home, tmp_path, command):
    """Of a stream of numbers too: grid, K and the length of an item."""
    command("export_codes", "--run", "tokens", "--format", "bin", "--output", str(tmp_path / "out"), cwd=home)
    data = made(tmp_path, tmp_path / "out").codes
    assert data.grid == (4, 4) and data.num_codes == 32 and len(data.split("train")) == 216
    assert data.classes == (tuple("0123456789"),)
    card = json.loads((tmp_path / "out/card.json").read_text())
    (tmp_path / "out/card.json").write_text(json.dumps(card | {"num_codes": -4}))
    with pytest.raises(InputError, match="card.json: num_codes: expected the value that .* wrote, found -4"):
        made(tmp_path, tmp_path / "out", "again")
