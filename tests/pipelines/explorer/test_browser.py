"""The pages in a real browser: one Chromium, one server."""

import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

SIZES = [(1280, "light"), (390, "dark")]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync",
         "--disable-component-update"]


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


def test_a_painted_mask_is_filled(tab):
    tab.open("fill")
    tab.wait_for_selector("#fill-mask")
    tab.wait_for_function("document.getElementById('fill-mask').getBoundingClientRect().width > 50")
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
    tab.focus("nav .missing")
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
