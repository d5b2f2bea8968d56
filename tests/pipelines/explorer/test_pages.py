"""What the pages say of a run: samples as `run.sample` draws them, codes, fillings, runs."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import load
from pipelines.explorer.page import Arguments, Context, Upload
from pipelines.explorer.pages import all_pages
from pipelines.explorer.pages.runs import POINTS, series
from pipelines.files.errors import InputError
from pipelines.generation.scores import prior_bits

PAGES = all_pages()


@pytest.fixture(scope="module")
def digits(small):
    return load(small, "cpu")


@pytest.fixture(scope="module")
def fsdd():
    return load("fsdd", "cpu")


@pytest.fixture(scope="module")
def shared():
    return {}


class Tab:
    """A tab that calls pages of a run, without a server; values are what JSON holds."""

    def __init__(self, run, runs_dir, shared):
        self.context, self.uploads = Context(run, runs_dir, None, {}, shared), {}

    def __call__(self, page, name, **values):
        arguments = Arguments(json.loads(json.dumps(values)), self.uploads.__getitem__)
        found = PAGES[page].calls[name](self.context, arguments)
        found = list(found) if hasattr(found, "__next__") else found
        return json.loads(json.dumps(found, allow_nan=False))

    def file(self, image):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        self.uploads["own"] = Upload("own.png", buffer.getvalue())
        return "own"


@pytest.fixture
def tab(digits, tmp_path, shared):
    return Tab(digits, tmp_path, shared)


def pixels(address):
    """The image of an address, as an array."""
    head, content = address.split(",")
    assert head == "data:image/png;base64"
    return np.array(Image.open(io.BytesIO(base64.b64decode(content))))


def test_every_page_has_its_module(small):
    from pipelines.explorer.server import STATIC

    assert set(PAGES) == {path.stem for path in (STATIC / "pages").glob("*.js")}
    assert [page.place for page in PAGES.values()] == sorted(page.place for page in PAGES.values())


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_k": 5}, {"top_p": 0.8, "seed": 5}])
def test_samples_appear_in_raster_order_and_are_those_of_run_sample(tab, digits, options):
    *steps, last = [step for step in tab("samples", "draw", n=3, **options) if "nearest" not in step]
    expected = digits.sample(3, **options)
    for step in steps:
        for codes, whole in zip(step["codes"], expected.codes.flatten(1).tolist(), strict=True):
            drawn = [code for code in codes if code >= 0]
            assert codes == drawn + [-1] * (len(codes) - len(drawn)) and drawn == whole[: len(drawn)]
    counts = [sum(code >= 0 for codes in step["codes"] for code in codes) for step in steps]
    assert counts[0] == 0 and counts == sorted(counts) and len(set(counts)) > 2
    assert [sample["codes"] for sample in last["samples"]] == expected.codes.flatten(1).tolist()
    for sample, x in zip(last["samples"], expected.x, strict=True):
        assert np.array_equal(pixels(sample["image"]), x[0].numpy())


@pytest.mark.parametrize("name", ["mnist", "fsdd"])
def test_the_steps_of_a_run_end_with_its_samples(name, fsdd):
    run = fsdd if name == "fsdd" else load(name, "cpu")
    *steps, last = run.sample_steps(2, seed=4, labels={"digit": "7"})
    expected = run.sample(2, seed=4, digit="7")
    assert torch.equal(last.codes, expected.codes) and torch.equal(last.x, expected.x)
    assert last.labels == expected.labels and torch.equal(steps[-1], expected.codes)


def test_samples_have_their_likelihood_and_nearest_training_items(tab, digits):
    found = tab("samples", "draw", n=2, seed=1)
    samples = next(step["samples"] for step in found if "samples" in step)
    codes = torch.tensor([sample["codes"] for sample in samples]).view(2, *digits.grid)
    names = digits._loaded.stage2.condition_on
    given = {name: torch.tensor([digits.classes[name].index(own["labels"][name]) for own in samples]) for name in names}
    bits = prior_bits(digits._loaded, codes, None, given, None).flatten(1).sum(1)
    assert [sample["bits"] for sample in samples] == pytest.approx(bits.tolist())
    train = digits.codes("train").codes
    for step in found:
        if "nearest" in step:
            differ = (train != codes[step["nearest"]]).flatten(1).double().mean(1)
            assert step["differ"] == pytest.approx(float(differ.min()))
            assert float(differ[step["number"]]) == float(differ.min()) and step["source"] == "real"
    assert sum("nearest" in step for step in found) == 2


@pytest.mark.parametrize("values, words", [
    ({"n": 65}, "n: expected a whole number from 1 to 64, found 65"), ({"n": True}, "n: expected"),
    ({"temperature": "1"}, "temperature: expected a number"), ({"seed": -1}, "seed: expected"),
    ({"top_p": 1.5}, "top_p: expected"), ({"labels": {"digit": "x"}}, "label"), ({"labels": {"x": "1"}}, "label"),
    ({"labels": {"digit": 3}}, "labels: expected texts")])
def test_options_out_of_range_are_refused_by_name(tab, values, words):
    with pytest.raises(InputError, match=f"^{words}"):
        tab("samples", "draw", **values)


def test_codes_of_a_file_are_those_of_the_run(tab, digits):
    image = digits.sample(1, seed=3).x[0]
    found = tab("codes", "item", file=tab.file(image[0].numpy()))
    codes = digits.encode(image)
    assert found["codes"] == codes.flatten().tolist() and found["grid"] == list(digits.grid)
    assert np.array_equal(pixels(found["item"]["image"]), image[0].numpy())
    made = digits.decode(codes)
    assert np.array_equal(pixels(found["made"]["image"]), made[0].numpy())
    error = (image.double() - made.double()).square().mean()
    assert found["error"]["words"] == f"PSNR {10 * np.log10(255**2 / float(error)):.1f} dB"
    scores = digits.score(image)
    assert found["bits"] == pytest.approx(scores.code_map[0].flatten().tolist())


def test_a_held_out_item_comes_with_its_labels(tab):
    found = tab("codes", "item", number=3)
    assert found["words"].startswith("validation item 3 of") and set(found["labels"]) <= {"digit"}
    with pytest.raises(InputError, match="^number: expected a whole number from 0 to"):
        tab("codes", "item", number=10**9)


def test_a_click_shows_the_code_and_the_nearest_of_the_codebook(tab, digits):
    found = tab("codes", "sample", seed=2)
    position = 5
    click = tab("codes", "click", position=position)
    assert click["code"] == found["codes"][position]
    vectors = digits.stage1.bottleneck.vectors()[0].detach().double()
    distances = (vectors - vectors[click["code"]]).norm(dim=1)
    near = [own["code"] for own in click["near"]]
    others = sorted(float(own) for number, own in enumerate(distances) if number != click["code"])
    assert click["code"] not in near and len(near) == 8
    assert [own["distance"] for own in click["near"]] == pytest.approx(others[:8], abs=1e-5)
    codes = torch.tensor(found["codes"])
    alone = torch.full_like(codes, int(codes.mode().values))
    alone[position] = click["code"]
    assert np.array_equal(pixels(click["alone"]["image"]), digits.decode(alone.view(digits.grid))[0].numpy())
    for wrong in (-1, 16, 1.5, None):
        with pytest.raises(InputError, match="^position: expected a whole number from 0 to 15"):
            tab("codes", "click", position=wrong)


def test_another_code_changes_what_is_decoded_and_its_likelihood(tab, digits):
    found = tab("codes", "sample", seed=2)
    other = (found["codes"][5] + 1) % digits.num_codes
    changed = tab("codes", "replace", position=5, code=other)
    codes = torch.tensor(found["codes"])
    codes[5] = other
    assert changed["codes"] == codes.tolist() and changed["changed"] == 1
    assert np.array_equal(pixels(changed["made"]["image"]), digits.decode(codes.view(digits.grid))[0].numpy())
    assert changed["before_bits"] == pytest.approx(sum(found["bits"]))
    assert sum(changed["bits"]) != pytest.approx(sum(found["bits"]))
    again = tab("codes", "reset")
    assert again["codes"] == found["codes"] and again["changed"] == 0 and again["difference"]["words"] == "identical"
    with pytest.raises(InputError, match="^item: expected one that was opened in this tab"):
        Tab(digits, tab.context.runs_dir, {})("codes", "click", position=0)


def test_where_a_code_occurs_is_counted_in_the_training_codes(tab, digits):
    train = digits.codes("train").codes
    code = int(train.flatten().mode().values)
    found = tab("codes", "where", code=code)
    assert found["items"] == int((train == code).flatten(1).any(1).sum())
    assert found["share"] == pytest.approx(float((train == code).double().mean()))
    for example in found["examples"]:
        at = (train[example["number"]].flatten() == code).nonzero().flatten().tolist()
        assert example["positions"] == at and example["source"] == "real"
    assert 1 <= len(found["examples"]) <= 8


def test_sounds_have_codes_too(fsdd, tmp_path):
    tab = Tab(fsdd, tmp_path, {})
    found = tab("codes", "sample", seed=0, labels={"digit": "3", "speaker": "theo"})
    assert found["made"]["audio"].startswith("data:audio/wav") and len(found["codes"]) == len(found["bits"])
    assert found["labels"] == {"digit": "3", "speaker": "theo"}
    click = tab("codes", "click", position=len(found["codes"]) - 1)
    assert click["alone"]["seconds"] == pytest.approx(8 * 64 / 8000)
    assert "make extract-codes" in tab("codes", "where", code=0)["why"]


def test_a_painted_part_is_filled_and_the_rest_stays(tab, digits):
    opened = tab("fill", "sample", seed=0)
    rows, columns = opened["rows"], opened["columns"]
    mask = np.zeros((rows, columns), dtype=int)
    mask[rows // 2 :] = 1
    found = tab("fill", "fill", n=3, mask=mask.flatten().tolist(), particles=4)
    before = pixels(opened["image"])
    assert len(found) == 3 and [own["bits"] for own in found] == sorted(own["bits"] for own in found)
    for own in found:
        assert np.array_equal(pixels(own["image"])[: rows // 2], before[: rows // 2])
    x = torch.from_numpy(before)[None]
    expected = digits.sample(3, complete=x, mask=torch.from_numpy(mask > 0), particles=4)
    assert [own["bits"] for own in found] == pytest.approx(expected.bits[expected.ranking].tolist())
    for wrong, words in (([0] * 64, "mask: expected a part to fill"), ([1], "mask: expected 8 x 8 values, found 1"),
                         ([2] * 64, "mask: expected a list of whole numbers from 0 to 1"),
                         ("x", "mask: expected a list")):
        with pytest.raises(InputError, match=f"^{words}"):
            tab("fill", "fill", mask=wrong)


def test_runs_lists_all_runs_and_marks_the_open_one(tab, small):
    rows = {row["name"]: row for row in tab("runs", "table")["rows"]}
    assert {"format1", "mnist", "fsdd"} <= set(rows)
    assert [name for name, row in rows.items() if row["open"]] == ["format1"]
    curves = tab("runs", "curves", runs=["format1", "mnist"])
    assert set(curves["format1"]) == {"stage1", "stage2"} and curves["mnist"] == {}
    logged = [json.loads(line) for line in (small / "stage1" / "metrics.jsonl").read_text().splitlines()]
    points = [[row["step"], row["loss"]] for row in logged if row["split"] == "train"]
    assert curves["format1"]["stage1"]["loss"]["train"] == points


def test_long_curves_keep_both_ends():
    rows = [{"step": step, "split": "train", "loss": 1.0, "seconds": 2.0} for step in range(10_000)]
    points = series(rows)["loss"]["train"]
    assert len(points) == POINTS and points[0] == (0, 1.0) and points[-1] == (9999, 1.0)
    assert set(series(rows)) == {"loss"}


def test_runs_show_the_use_of_the_codebook_and_the_doctors_findings(tab, digits):
    found = tab("runs", "codebook", run="format1")
    train = digits.codes("train").codes
    assert found["words"] == "counted in the extracted training codes"
    assert found["books"][0]["used"] == len(train.unique())
    assert sum(found["books"][0]["shares"]) == pytest.approx(1)
    assert [own["rule"] for own in tab("runs", "doctor", run="format1")["findings"]] == [
        own.rule for own in digits.doctor()]


def test_pages_that_a_run_does_not_have_say_why(digits, fsdd):
    class Without:
        kind, stage2, stage1 = "codes", None, fsdd.stage1

    assert PAGES["fill"].why_not(Without()) == "a part of an item on codes cannot be filled"
    assert all(PAGES[name].why_not(digits) is None for name in ("codes", "samples", "fill", "runs"))
