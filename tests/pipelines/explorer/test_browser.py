"""The pages in a real browser: one Chromium, one server."""

import io
import re
import shutil
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from PIL import Image

from pipelines.data.room import Room
from pipelines.runs.find import PRETRAINED

SIZES = [(1280, "light"), (390, "dark")]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync",
         "--disable-component-update", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this system")
    with playwright.sync_playwright() as own:
        browser = own.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def tab(browser, served):
    with opened(browser, served) as page:
        yield page


@contextmanager
def opened(browser, served):
    """A tab of 1,280 pixels, which notes what went wrong in it and every address it asked for."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(30_000)
    page.wrong, page.asked = [], []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda message: page.wrong.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: page.asked.append(request.url))
    page.open = lambda name: (page.goto(f"http://127.0.0.1:{served.port}/#{name}"),
                              page.wait_for_selector(f"#page-{name}"))
    yield page
    assert page.wrong == []
    assert all(address.startswith((f"http://127.0.0.1:{served.port}/", "data:", "blob:")) for address in page.asked)
    page.close()


def grid(tab):
    """Where codes lie over the item: 4 x 4."""
    return tab.locator("#codes-grid").bounding_box()


def test_an_uploaded_image_a_clicked_code_and_another_in_its_place(tab):
    tab.open("codes")
    tab.wait_for_selector(".nearby")
    buffer = io.BytesIO()
    Image.fromarray(np.tril(np.full((8, 8), 255, np.uint8))).save(buffer, "PNG")
    tab.set_input_files("#page-codes input[type=file]", {"name": "mine.png", "mimeType": "image/png",
                                                         "buffer": buffer.getvalue()})
    tab.wait_for_selector("#codes-head:has-text('mine.png')")
    assert "PSNR" in tab.inner_text("#codes-words")
    box = grid(tab)
    tab.mouse.click(box["x"] + 0.6 * box["width"], box["y"] + 0.1 * box["height"])
    tab.wait_for_selector("#codes-side:has-text('row 0, column 2')")
    tab.focus("#codes-grid")
    tab.keyboard.press("ArrowDown")
    tab.wait_for_selector("#codes-side:has-text('row 1, column 2')")
    before = tab.inner_text("#codes-words")
    code = int(re.search(r"code (\d+)", tab.inner_text("#codes-side h2"))[1])
    tab.fill("#codes-other", str((code + 1) % 16))
    tab.click("#codes-replace")
    tab.wait_for_selector("#codes-words:has-text('1 code changed')")
    assert "log2 p changed by" in tab.inner_text("#codes-words") and before != tab.inner_text("#codes-words")
    tab.wait_for_selector(f"#codes-side h2:has-text('code {(code + 1) % 16}')")
    assert tab.locator("#page-codes .tile canvas").count() >= 1, "training items in which the code occurs"


def test_what_cannot_be_read_is_said(tab):
    tab.open("codes")
    tab.wait_for_selector(".nearby")
    tab.set_input_files("#page-codes input[type=file]", {"name": "x.png", "mimeType": "image/png", "buffer": b"no"})
    tab.wait_for_selector("#message.error:has-text('x.png: expected an image')")
    tab.wrong.clear()  # the browser notes the status 400


def test_a_painted_mask_is_filled(tab, until):
    tab.open("fill")
    tab.wait_for_selector("#fill-mask")
    until(lambda: tab.locator("#fill-mask").bounding_box()["width"] > 50)
    tab.fill("#fill-n", "3")
    tab.fill("#fill-particles", "4")
    box = tab.locator("#fill-mask").bounding_box()
    tab.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.8 * box["height"])
    tab.mouse.down()
    tab.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.8 * box["height"], steps=8)
    tab.mouse.up()
    painted = tab.evaluate("""() => {
        const canvas = document.getElementById('fill-mask');
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        return pixels.filter((own, place) => place % 4 === 3 && own > 0).length; }""")
    assert 4 <= painted <= 32
    tab.click("#fill-go")
    tab.wait_for_selector(".candidate >> nth=2")
    bits = [float(found) for found in re.findall(r"([\d.]+) bits", tab.inner_text("#fill-candidates"))]
    assert len(bits) == 3 and bits == sorted(bits)


def test_samples_are_drawn_kept_and_saved(tab):
    tab.open("samples")
    tab.fill("#samples-n", "3")
    tab.click("#samples-draw")
    tab.wait_for_selector(".sample >> nth=2")
    tab.wait_for_selector(".sample:nth-child(3) .nearest img")
    assert tab.inner_text("#samples-drawn").count("bits") == 3
    tab.locator(".sample >> text=Keep").first.click()
    tab.wait_for_selector("h2:has-text('Kept')")
    with tab.expect_download() as saved:
        tab.locator(".sample >> text=Save").first.click()
    assert saved.value.suggested_filename.startswith("seed0-0") and Image.open(saved.value.path()).size == (8, 8)


def test_files_are_ranked_by_strangeness(tab):
    tab.open("scores")
    files = []
    for name, image in {"usual": np.zeros((8, 8)), "noise": np.random.default_rng(0).integers(0, 256, (8, 8))}.items():
        buffer = io.BytesIO()
        Image.fromarray(image.astype(np.uint8)).save(buffer, "PNG")
        files.append({"name": f"{name}.png", "mimeType": "image/png", "buffer": buffer.getvalue()})
    tab.set_input_files("#scores-files", files)
    tab.wait_for_selector("#scores-list li >> nth=1")
    bits = [float(found) for found in re.findall(r"([\d.]+) bits per code", tab.inner_text("#scores-list"))]
    assert bits == sorted(bits, reverse=True) and len(bits) == 2
    assert tab.locator("#scores-list img").count() == 2
    tab.wait_for_selector("#scores-place:has-text('Compared with'), #scores-place:has-text('left out')")


def test_runs_show_curves_and_findings(tab):
    tab.open("runs")
    tab.wait_for_selector("#runs-curves path")
    tab.wait_for_selector("#runs-beside:has-text('codes used')")
    tab.locator("#page-runs select").last.select_option(label="what the doctor finds")
    tab.wait_for_selector("#runs-beside:has-text('looked at')")


def test_a_page_that_the_run_does_not_have_says_why(tab, served, monkeypatch):
    monkeypatch.setitem(served.explorer._state, "pages", [
        *served.explorer.state()["pages"], {"name": "none", "title": "None", "why_not": "this run has none"}])
    tab.open("samples")
    tab.focus("nav .missing:has-text('None')")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#message:has-text('None: this run has none')")


@pytest.mark.parametrize("width, scheme", SIZES)
def test_nothing_is_wider_than_the_window(browser, served, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    for name in ("codes", "samples", "fill", "runs"):
        page.goto(f"http://127.0.0.1:{served.port}/#{name}")
        page.wait_for_selector(f"#page-{name} >> *:visible")
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = max(map(int, re.findall(r"\d+", paper))) < 100
    assert dark == (scheme == "dark")
    page.close()


@pytest.fixture(scope="module")
def world(serve, tmp_path_factory):
    with serve(PRETRAINED / "room_video", tmp_path_factory.mktemp("runs")) as found:
        small = Room(episodes=8, frames=16, size=32, clip_length=16, validation_fraction=0.25)
        # in the place of the 512 walks that the run was trained on
        found.explorer._shared["data"] = SimpleNamespace(wait=lambda seconds: small)
        yield found


@pytest.fixture(scope="module")
def voices(serve, tmp_path_factory):
    with serve(PRETRAINED / "fsdd", tmp_path_factory.mktemp("runs")) as found:
        yield found


def test_ten_steps_with_the_arrow_keys(browser, world):
    with opened(browser, world) as tab:
        tab.open("world")
        tab.wait_for_selector("#world-rate:has-text('held-out clip 0 of 2')")
        views = [tab.get_attribute("#world-view", "src")]
        for number, key in enumerate(["ArrowUp"] * 4 + ["ArrowLeft"] * 2 + ["ArrowUp"] * 2 + ["ArrowRight"] * 2, 1):
            tab.keyboard.press(key)
            tab.wait_for_selector(f"#world-rate:has-text('step {number}: drawn in ')")
            views.append(tab.get_attribute("#world-view", "src"))
        assert len(set(views)) == 11, "each frame is another one"
        assert tab.locator("#world-view").evaluate("image => [image.naturalWidth, image.naturalHeight]") == [32, 32]
        assert tab.locator("#world-strip img").count() == 12
        assert tab.locator("#world-strip figcaption").all_inner_texts()[-3:] == ["forward", "right", "right"]
        tab.focus("#world-seed")
        tab.keyboard.press("ArrowUp")  # in a control it is the control's
        assert tab.input_value("#world-seed") == "1" and "step 10:" in tab.inner_text("#world-rate")
        tab.click("#world-nothing")
        tab.wait_for_selector("#world-view", state="hidden")
        tab.locator("button:has-text('forward')").click()
        tab.wait_for_selector("#world-rate:has-text('step 1: ')")
        with tab.expect_download() as saved:
            tab.click("text=Save the walk")
        assert saved.value.suggested_filename == "walk.png" and Image.open(saved.value.path()).size == (128, 128)


def heard(tab):
    """Seconds of each audio element, once the last one is there, and the width of each spectrogram."""
    tab.wait_for_selector("#voices-conversion audio:not([hidden])")
    tab.wait_for_timeout(100)
    return [(tab.locator(f"#voices-{version} audio").evaluate("audio => audio.duration"),
             tab.locator(f"#voices-{version} img").evaluate("image => image.naturalWidth"))
            for version in ("original", "reconstruction", "conversion")]


def test_three_versions_of_a_recording_are_heard_and_seen(browser, voices):
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.5 * np.sin(np.arange(1600) / 9), 8000, format="WAV")
    with opened(browser, voices) as tab:
        tab.open("voices")
        tab.wait_for_selector("#voices-record")
        tab.locator("#page-voices select").last.select_option("theo")
        tab.set_input_files("#page-voices input[type=file]", {"name": "own.wav", "mimeType": "audio/wav",
                                                              "buffer": buffer.getvalue()})
        for seconds, width in heard(tab):
            assert seconds == pytest.approx(0.2, abs=0.001) and width > 20
        assert "as theo" in tab.inner_text("#voices-conversion") and "own.wav" in tab.inner_text("#voices-original")
        tab.click("#voices-record")  # a microphone that beeps
        tab.wait_for_selector("#voices-record:has-text('Stop')")
        tab.wait_for_timeout(300)
        tab.click("#voices-record")
        tab.wait_for_selector("#voices-original:has-text('recorded')")
        lengths = {round(seconds, 3) for seconds, _ in heard(tab)}
        assert len(lengths) == 1 and 0.05 < lengths.pop() < 20


@pytest.mark.parametrize("width, scheme", SIZES)
def test_world_and_voices_are_no_wider_than_the_window(browser, world, voices, width, scheme):
    for served, name in ((world, "world"), (voices, "voices"), (voices, "scores")):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.goto(f"http://127.0.0.1:{served.port}/#{name}")
        page.wait_for_selector(f"#page-{name} form")
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        page.close()
