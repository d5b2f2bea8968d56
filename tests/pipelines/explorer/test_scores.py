"""The page Scores: files ranked by strangeness, and which folders it reads."""

import base64
import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import load
from pipelines.data.digits import Digits
from pipelines.evaluation.held_out import CACHE
from pipelines.explorer.page import Arguments, Context, Upload
from pipelines.explorer.pages.scores import Scores
from pipelines.files.errors import InputError
from pipelines.runs.find import PRETRAINED

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "format1"


@pytest.fixture(scope="module")
def run():
    return load(GOLDEN, "cpu")


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    """A digit, noise, and no picture."""
    digit, noise = Digits().split("train").x[0, 0].numpy(), np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    found = {"broken.png": b"no picture"}
    for name, image in (("digit.png", digit), ("noise.png", noise)):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        found[name] = file.getvalue()
    return found


@pytest.fixture
def rank(run, pictures, monkeypatch):
    """rank(**arguments) -> what the call gives, and how it compares with held-out items; uploads go by their names."""
    monkeypatch.setattr("pipelines.explorer.pages.scores.HELD_OUT", 20)
    shared = {}

    def own(root: Path | None = None, **arguments):
        context = Context(run, Path("runs"), root, {}, shared)
        ranked = Scores().rank(context, Arguments(arguments, lambda name: Upload(name, pictures[name])))
        end = time.monotonic() + 60
        while "waiting" in (compared := Scores().compare(context, Arguments({}, None))):
            assert time.monotonic() < end
            time.sleep(0.02)
        return ranked, compared

    return own


def test_the_strangest_comes_first_with_its_map(run, rank, pictures):
    items, percentiles = rank(files=["digit.png", "broken.png", "noise.png"], rank="bits")
    assert [item["name"] for item in items["items"]] == ["noise.png", "digit.png"]
    assert items["unreadable"] == ["broken.png"]
    expected = run.score(np.array(Image.open(io.BytesIO(pictures["noise.png"]))))
    assert items["items"][0]["bits_per_code"] == pytest.approx(float(expected.bits_per_code))
    assert items["items"][0]["bits_per_dim"] == pytest.approx(float(expected.bits_per_dim))
    for item in items["items"]:
        assert Image.open(io.BytesIO(base64.b64decode(item["map"].partition(",")[2]))).width > 100
    shares = percentiles["percentiles"]
    assert not (GOLDEN / CACHE).exists()
    assert percentiles["among"] == 20 and shares[0] > shares[1] and all(0 <= share <= 100 for share in shares)


def test_a_folder_below_the_data_root_is_ranked(rank, pictures, tmp_path):
    (tmp_path / "data" / "mine" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "mine" / "noise.png").write_bytes(pictures["noise.png"])
    (tmp_path / "data" / "mine" / "deep" / "digit.png").write_bytes(pictures["digit.png"])
    items, _ = rank(tmp_path / "data", folder="mine", rank="bits")
    assert [item["name"] for item in items["items"]] == ["noise.png", "deep/digit.png"]
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "digit.png").write_bytes(pictures["digit.png"])
    (tmp_path / "data" / "link").symlink_to(tmp_path / "secret")
    for folder in ("..", "../secret", str(tmp_path / "secret"), "link", "nowhere", "mine/noise.png"):
        with pytest.raises(InputError, match="^folder: expected one below --data-root, found "):
            rank(tmp_path / "data", folder=folder)
    with pytest.raises(InputError, match="^folder: expected the explorer to be started with --data-root"):
        rank(folder="mine")


def test_folders_are_listed_where_there_is_a_root(run, tmp_path):
    for name in ("a/b/c", ".hidden/x", "d"):
        (tmp_path / name).mkdir(parents=True)
    about = Scores().about(Context(run, Path("runs"), tmp_path, {}), Arguments({}, None))
    assert about["folders"] == [".", "a", "d", "a/b"]
    assert Scores().about(Context(run, Path("runs"), None, {}), Arguments({}, None))["folders"] is None


def test_what_does_not_fit_is_refused_in_words(run, rank, monkeypatch, tmp_path, pictures):
    with pytest.raises(InputError, match="^files: expected some that were ranked, found none"):
        Scores().compare(Context(run, Path("runs"), None, {}), Arguments({}, None))
    with pytest.raises(InputError, match="^files: expected files or a folder, found none$"):
        rank()
    with pytest.raises(InputError, match=r"^broken\.png: expected .*; none of 1 can be read$"):
        rank(files=["broken.png"])
    monkeypatch.setattr("pipelines.explorer.pages.scores.MOST", 1)
    for name in ("digit.png", "noise.png"):
        (tmp_path / name).write_bytes(pictures[name])
    with pytest.raises(InputError, match=r"^folder: expected at most 1 files, found 2; score\.py ranks more"):
        rank(tmp_path, folder=".")


def test_without_data_and_codes_a_line_says_why(run, rank, monkeypatch):
    def none(*_):
        raise InputError("digits: expected data, found none")

    monkeypatch.setattr("pipelines.explorer.pages.scores.held_out_scores", none)
    ranked, compared = rank(files=["digit.png"])
    assert len(ranked["items"]) == 1 and compared == {"why": "digits: expected data, found none"}


def test_the_page_is_of_runs_with_a_prior_of_codes(run):
    assert Scores().why_not(run) is None
    assert Scores().why_not(load(PRETRAINED / "room_video", "cpu")) is None
