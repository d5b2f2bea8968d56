"""report.py and the pages that compare.py writes: what they show, what they leave out and why, and, in a browser, that
they ask nobody for anything, sort and enlarge."""

import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from pipelines import load
from pipelines.data.digits import Digits
from pipelines.evaluation import image
from pipelines.evaluation.comparison import COLUMNS
from pipelines.files.errors import InputError
from pipelines.kinds.audio import HEARD_S, Audio
from pipelines.kinds.base import Medium
from pipelines.kinds.image import Image
from pipelines.kinds.video import Video
from pipelines.reporting import charts
from pipelines.reporting.comparison_page import comparison_page
from pipelines.reporting.html import VOID, Html, join, table, tag
from pipelines.reporting.page import page
from pipelines.reporting.run_page import all_sections
from pipelines.reporting.sections import codebook, figures, nearest, rate_distortion
from pipelines.reporting.subject import ITEM_BYTES, Reported, shown, within_budget
from pipelines.runs.example import Example
from pipelines.runs.find import PRETRAINED
from stage1_vqvae.codebook import usage

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
             "--disable-component-update", "--disable-sync"]
LARGEST = 5_000_000  # bytes
SPOKEN = Example("spoken", "audio", (1, 16000), (), (), {"sample_rate_hz": 8000})


@pytest.fixture(scope="module")
def reported(tiny_run, tmp_path_factory, command):
    """The report on a run that was not evaluated, and what the verb said."""
    out = tmp_path_factory.mktemp("report") / "report.html"
    return out, command("report", "--run", str(tiny_run), "--n", "4", "--out", str(out))


class Elements(HTMLParser):
    """Checks that elements are closed in order; collects the addresses that a browser would load."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, name, attributes):
        found = dict(attributes)
        self.addresses += [found[key] for key in ("src", "srcset", "poster", "data") if key in found]
        self.addresses += [found["href"]] if "href" in found and name != "a" else []
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name


def body_of(text: str, title: str) -> str:
    """The section of that title."""
    return text.partition(f"<h2>{title}</h2>")[2].partition("</section>")[0]


def test_a_report_is_one_file_that_loads_nothing(reported, tiny_run):
    path, said = reported
    text = path.read_text()
    found = Elements(text)
    assert found.open == [] and "<h1>Report on tiny</h1>" in text
    assert len(found.addresses) > 4 + 8 and all(own.startswith("data:") for own in found.addresses)
    assert path.stat().st_size < LARGEST and "default-src &#x27;none&#x27;" in text
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert titles == [module.TITLE.replace("'", "&#x27;") for module in all_sections()] and len(titles) == 9
    assert said.stdout.startswith(f"report on {tiny_run}, ") and said.stdout.strip().endswith(str(path))


def test_what_a_run_lacks_is_left_out_with_the_reason(reported):
    path, said = reported
    text = path.read_text()
    assert re.findall("Left out: ([^<]*)", text) == ["the run was not evaluated; make evaluate measures it."]
    assert said.stderr.count("note:") == 1 and "note: left out: figures: the run was not evaluated" in said.stderr


def test_every_part_of_a_run_is_shown(reported):
    text = reported[0].read_text()
    assert body_of(text, "Samples").count("<img") == 4 and body_of(text, "Reconstructions").count("<img") == 8
    assert body_of(text, "Codebook").count("<img") == 32, "each of K codes decoded alone"
    assert body_of(text, "Training curves").count("<svg") >= 3
    near = body_of(text, "Nearest training items")
    assert near.count("<img") == 4 * 3 and "nearest by pixels" in near and "nearest by codes" in near
    rates = body_of(text, "Rate and distortion")
    assert "JPEG of at least" in rates and "WebP, lossless" in rates and "<svg" in rates
    assert "make stage1" in body_of(text, "How to reproduce") and "steps: 30" in text


def test_the_same_run_makes_the_same_file(reported, tiny_run, tmp_path):
    again = load(tiny_run, "cpu").report(tmp_path / "again.html", n=4)
    assert again.read_bytes() == reported[0].read_bytes()


def test_a_published_run_without_its_data_is_reported_on_all_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATA_ROOT", raising=False)
    text = load("mnist", "cpu").report("page.html", n=2).read_text()
    for title in ("Reconstructions", "Nearest training items"):
        assert "Left out: the run&#x27;s data are not at hand; --data-root FOLDER names them" in body_of(text, title)
    assert "published runs come without one" in body_of(text, "Training curves")
    assert "How often codes are used is left out" in body_of(text, "Codebook")
    assert body_of(text, "Codebook").count("<img") == 128, "codes can be decoded without data"
    assert "9.3" in body_of(text, "Rate and distortion"), "as metrics.json has it"
    assert "2.5926" in body_of(text, "Figures") and "no sign of copying" not in body_of(text, "Nearest training items")
    noted = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert len(noted) == 2 and "reconstructions, nearest training items: the run's data" in noted[1]


def test_a_wrong_folder_of_data_is_refused_and_the_old_report_stays(tiny_run, tmp_path, command):
    out = tmp_path / "old.html"
    out.write_text("old")
    (tmp_path / "empty").mkdir()
    flags = ["--data-root", str(tmp_path / "empty"), "--out", str(out)]
    refused = command("report", "--run", "mnist", *flags, check=False)
    assert refused.returncode == 2 and refused.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in refused.stderr
    run = load(tiny_run, "cpu")
    for count in (0, 257):
        with pytest.raises(InputError, match="^n: expected a number"):
            run.report(out, n=count)
    with pytest.raises(InputError, match="out: expected the name of a file, found the folder"):
        run.report(tmp_path)
    assert out.read_text() == "old"


def test_damaged_figures_are_refused(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "metrics.json").write_text("{")
    with pytest.raises(InputError, match=re.escape("metrics.json")):
        load(run, "cpu").report(tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_text_is_escaped():
    bad = "<script>alert('x')</script>"
    for made in (tag("p", bad), tag("p", title=bad), join(bad), table([bad], [[bad], [(bad, bad)]])):
        assert "<script" not in made and "&lt;script&gt;" in made and "'" not in made.replace('="', "")
    made = tag("p", Html("<b>"), None, ["a", ["&"]], class_="c", hidden=False, open=True)
    assert made == '<p class="c" open><b>a&amp;</p>'
    surrogate = os.fsdecode(b"\xe9")  # of a folder's name, in no encoding
    assert rb"\udce9" in page(surrogate, None, [])


def test_every_figure_of_a_published_run_is_explained():
    """One that is new is in FIGURES, or it is said why not, in NOT_SHOWN."""
    for path in sorted(PRETRAINED.glob("*/metrics.json")):
        found = json.loads(path.read_text())
        rows = list(figures.measured(found))
        assert len(rows) > 20 and len({title for title, *_ in rows}) == len(rows), "titles differ"
        assert not [title for title, *_, meaning in rows if "of your own" in meaning]
    mine = {title: (value, meaning) for title, value, _, _, meaning in figures.measured(found | {"my_metric": 2.5})}
    assert mine["my_metric"] == (2.5, "Of a metric of your own.")
    books = {"codes": {"perplexity": {"each": [1.0, 3.0], "mean": 2.0}}}
    assert [row[1] for row in figures.measured(books)] == [2.0], "of several codebooks the mean"


def test_the_mean_of_predictions_is_shown_where_there_are_several():
    video = {"context": 6, "prediction_psnr_db": [20.0, 18.0], "mean_psnr_db": None}
    found = json.loads((PRETRAINED / "room_video" / "metrics.json").read_text())
    titles = {title: value for title, value, *_ in figures.measured(found | {"video": video})}
    assert titles["predicted frames: PSNR"] == 19 and "mean of several predictions: PSNR" not in titles
    several = found | {"video": video | {"mean_psnr_db": [21.0, 22.0]}}
    titles = {title: value for title, value, *_ in figures.measured(several)}
    assert titles["mean of several predictions: PSNR"] == 21.5


def test_codes_are_counted_over_the_training_split(tiny_run):
    run = load(tiny_run, "cpu")
    counts, where = codebook.code_counts(Reported(run._loaded, run._kind))
    assert counts.tolist() == [usage(run.codes("train").codes, 32).tolist()] and where.startswith("the 1,438 extracted")


def test_a_code_decoded_alone_is_the_middle_of_a_field_of_it(tiny_run):
    run = load(tiny_run, "cpu")
    found = codebook.fields(Reported(run._loaded, run._kind), [7, 3], 0, torch.tensor([0]))
    whole = run.decode(torch.full((1, 4, 4), 3))
    assert [own.shape for own in found] == [(1, 6, 6)] * 2, "3 of 4 positions, of 2 pixels each"
    assert torch.equal(found[1], whole[0][:, :6, :6])


def test_a_training_item_is_its_own_nearest():
    train = Digits().split("train")
    x = train.batch(torch.tensor([5, 900])).x
    numbers, distances, compared = nearest.by_features(x, None, train, Digits(), image)
    assert numbers.tolist() == [5, 900] and compared == len(train) and float(distances.max()) < 1e-3
    assert float(nearest.by_features(255 - x, None, train, Digits(), image)[1].min()) > 0.1


def test_other_formats_keep_what_they_say():
    """A smooth image: more bytes, more PSNR; the lossless ones are smaller than the values themselves."""
    x = (torch.arange(64)[:, None] + 2 * torch.arange(64)).to(torch.uint8)[None, None].clamp(max=190)
    low, high = (rate_distortion.foreign(x, "JPEG", quality) for quality in (5, 90))
    assert low[0] < high[0] and low[1] < high[1] and low[1] > 20
    assert rate_distortion.lossless(x, "PNG") < x.numel()
    line = [(10.0, 20.0), (30.0, 25.0), (20.0, 26.0)]
    assert rate_distortion.at_least(line, 24.0) == (20.0, 26.0) and rate_distortion.at_least(line, 27.0) is None


def test_media_of_each_kind():
    noise = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(0)).mul(255).to(torch.uint8)
    assert [(own.mime, own.width) for own in Image().media(noise, None)] == [("image/png", 8)]
    clip = Video().media(noise[:, None].expand(-1, 4, -1, -1), None)
    assert [(own.mime, own.width) for own in clip] == [("image/webp", 8)] and clip[0].content[8:12] == b"WEBP"
    assert Image().media(noise[:, :1, :1].expand(-1, 300, 1200), None)[0].width == 256
    assert Video().media(noise[:, None, :1, :1].expand(-1, 2, 300, 150), None)[0].width == 64
    picture, sound = Audio().media(torch.zeros(1, 4000), SPOKEN)
    assert len(sound.content) == 44 + 2 * 4000 and picture.content.startswith(b"\x89PNG")
    long = Audio().media(torch.zeros(1, 80000), SPOKEN)[1]
    assert len(long.content) == 44 + 2 * round(HEARD_S * 8000), "its beginning"


def test_a_section_shows_what_fits():
    group = [Medium("image/png", bytes(ITEM_BYTES // 3), 8)]
    assert [within_budget([group] * count) for count in (0, 2, 3, 9)] == [0, 2, 3, 3]
    assert within_budget([[Medium("image/png", bytes(2 * ITEM_BYTES), 8)]]) == 1


def test_charts_have_round_marks_and_few_points():
    assert charts._ticks(0.0503, 0.31) == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35])
    assert charts._ticks(2, 2) == [2] and charts._log_ticks(0.4, 30) == pytest.approx([0.5, 1, 2, 5, 10, 20])
    points = [(step, 1.0) for step in range(1001)]
    thin = charts.thinned(points)
    assert len(thin) <= charts.MOST_POINTS and thin[0] == (0, 1.0) and thin[-1] == (1000, 1.0)
    drawn = charts.line_chart({"a": [(1, 2.0), (3, 4.0)], "none": []}, "x", "y", logarithmic="xy")
    assert Elements(drawn).open == [] and drawn.count("<polyline") == 1 and "none" not in drawn
    bars = [charts.bar_chart([1.0] * count, "x", "y") for count in (charts.MOST_BARS, 65_536)]
    assert max(len(bar) for bar in bars) < 60 * charts.MOST_BARS and all("H458.00V" in bar for bar in bars)
    assert "NaN" not in charts.bar_chart([50.0, 0.01, 0.01, 0.0], "x", "y", level=("even", 25.0))


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: extra [dev]")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def opened(browser):
    """opened(path, width, scheme) -> the page in a browser; at the end: nothing was requested or went wrong."""
    requests, wrong, pages = [], [], []

    def open_page(path: Path, width: int = 1280, scheme: str = "light"):
        made = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        made.on("request", lambda request: requests.append(request.url))
        made.on("console", lambda message: wrong.append(message.text))
        made.on("pageerror", lambda error: wrong.append(str(error)))
        made.goto(path.as_uri())
        pages.append((made, path.as_uri()))
        return made

    yield open_page
    assert [url for url in requests if not url.startswith("data:")] == [url for _, url in pages]
    assert wrong == []
    for made, _ in pages:
        made.close()


def column(found, number: int) -> list[str]:
    return found.locator(f"table tbody td:nth-child({number})").all_inner_texts()


def test_a_browser_shows_the_report_without_a_request(reported, opened):
    for width, scheme in ((1280, "light"), (390, "dark")):
        found = opened(reported[0], width, scheme)
        assert found.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        found.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
        found.wait_for_function("[...document.images].every(image => image.complete)")
        assert found.evaluate("[...document.images].every(image => image.naturalWidth > 0 && image.width > 0)")
        dark = found.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 28)"
        assert dark == (scheme == "dark")
    image = found.locator(".items img").first
    image.click()
    assert found.locator(".large img").bounding_box()["width"] > 2 * image.bounding_box()["width"]
    found.keyboard.press("Escape")
    assert found.locator(".large").count() == 0


def test_a_browser_sorts_tables_and_plays_audio(tmp_path, opened):
    rows = [["b", ("1,000", 1000), None], ["a", ("20", 20), "x"], ["c", ("-3", -3), ""]]
    sound = shown(Audio().media(torch.zeros(1, 4000), SPOKEN), "a clip")
    (tmp_path / "page.html").write_bytes(page("x", None, [("t", [table(["name", "size", "note"], rows, {1}), sound])]))
    found = opened(tmp_path / "page.html")
    heads = found.locator("th")
    heads.nth(1).locator("button").click()
    assert column(found, 2) == ["-3", "20", "1,000"] and heads.nth(1).get_attribute("aria-sort") == "ascending"
    heads.nth(1).locator("button").click()
    assert column(found, 2) == ["1,000", "20", "-3"]
    heads.nth(0).locator("button").click()
    assert column(found, 1) == ["a", "b", "c"] and heads.nth(1).get_attribute("aria-sort") == "none"
    heads.nth(2).locator("button").click()
    assert column(found, 3)[0] == "x", "empty cells come last"
    found.wait_for_function("document.querySelector('audio').readyState > 0")
    assert found.evaluate("document.querySelector('audio').duration") == 0.5


def test_a_comparison_sorts_by_figures_whatever_they_look_like(tmp_path):
    rows = [{"system": name, **dict.fromkeys(COLUMNS)} | own for name, own in
            (("VAE", {"bound": 3.5, "updates": 20}), ("<VQ>", {"bound": 12.0, "updates": 20}))]
    text = comparison_page("mnist: digits", rows, []).decode()
    assert Elements(text).open == [] and "&lt;VQ&gt;" in text
    assert re.findall('data-key="([^"]+)">([^<]+)', text) == [
        ("3.5", "3.5000"), ("20", "20"), ("12.0", "12.0000"), ("20", "20")]
