"""What the explorer refuses, and that it goes on: other sites, paths, sizes, crowds, tabs that go away."""

import http.client
import io
import json
import socket
import subprocess
import sys
import threading
import zlib
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import explore
from pipelines.explorer import server, worker
from pipelines.explorer.page import Arguments, Context, Page, call
from pipelines.files.errors import InputError


class Trial(Page):
    """Calls that wait, go on, fail and remember."""

    name, title = "trial", "Trial"

    def __init__(self) -> None:
        self.may_end, self.closed = threading.Event(), threading.Event()
        self.began, self.ran = 0, []

    @call
    def wait(self, context: Context, arguments: Arguments) -> int:
        self.began += 1
        assert self.may_end.wait(60)
        self.ran.append(arguments.integer("number", 0, 100))
        return self.ran[-1]

    @call
    def forever(self, context: Context, arguments: Arguments):
        try:
            while True:
                yield {"more": "x" * arguments.integer("size", 0, 10**6, 1)}
        finally:
            self.closed.set()

    @call
    def wrong(self, context: Context, arguments: Arguments) -> int:
        return arguments.integer("number", 0, 100) // 0

    @call
    def remember(self, context: Context, arguments: Arguments) -> list[int]:
        """All numbers that this tab has given."""
        context.session["trial"] = context.session.get("trial", []) + arguments.integers("numbers", 0, 9)
        return context.session["trial"]


@pytest.fixture
def trial(served):
    page = served.explorer.pages["trial"] = Trial()
    yield page
    page.may_end.set()
    del served.explorer.pages["trial"]


def png(size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full(size, 90, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_server_needs_no_torch_to_answer():
    code = ("import sys, pipelines.explore, pipelines.explorer.server; from pathlib import Path\n"
            "from pipelines.explorer.server import Explorer, build_app\n"
            "build_app(Explorer(lambda: None, 'x', Path('runs'), None))\n"
            "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=Path(__file__).parents[3])


def test_the_page_asks_no_other_host(served):
    status, headers, content = served.request("GET", "/")
    assert status == 200 and b"app.js" in content
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "unsafe" not in policy
    for path in Path(server.STATIC).rglob("*"):
        if path.suffix in (".html", ".css", ".js"):
            text = path.read_text().replace("http://www.w3.org/2000/svg", "")
            assert "http:" not in text and "https:" not in text and "innerHTML" not in text, path


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:7860", "", "[::2]", "[x"])
def test_a_name_that_leads_here_is_refused(served, host):
    status, _, content = served.request("GET", "/", headers={"Host": host})
    assert status in (400, 403) and b"<html" not in content


def test_pages_of_other_sites_may_call_nothing(served):
    body = json.dumps({"tab": "a", "arguments": {}})
    own = f"http://127.0.0.1:{served.port}"
    for headers, expected in (({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403),
                              ({"Origin": own}, 200), ({"Origin": own.replace("http", "https")}, 403),
                              ({"Origin": f"http://127.0.0.1:{served.port + 1}"}, 403),
                              ({"Sec-Fetch-Site": "cross-site"}, 403), ({"Sec-Fetch-Site": "same-site"}, 403),
                              ({"Sec-Fetch-Site": "same-origin"}, 200)):
        status, _, content = served.request("POST", "/api/call/samples/about", body, headers)
        assert status == expected, headers
        assert status == 200 or "expected a page of this explorer" in json.loads(content)["error"]


@pytest.mark.parametrize("address", [
    "/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2fserver.py", "/static//etc/passwd", "//etc/passwd",
    "/static/pages/../../page.py", "/static/%00", "/..", "/static", "/static/", "/static/pages", "/api/call/samples",
    "/static/C:%5cWindows%5cwin.ini", "/api/upload"])
def test_no_address_leads_to_a_file(served, address):
    status, _, content = served.request("GET", address)
    assert status == 404 and json.loads(content)["error"].startswith("address: expected one of the explorer")


def test_pictures_are_those_of_the_run_alone(served, tmp_path_factory):
    runs = served.explorer.runs_dir
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.png"
    secret.write_bytes(png())
    figures = runs / "mine" / "figures"
    (runs / "mine" / "stage1").mkdir(parents=True)
    figures.mkdir()
    (figures / "own.png").write_bytes(png())
    (figures / "link.png").symlink_to(secret)
    (figures / "folder").symlink_to(secret.parent)
    try:
        assert served.call("runs", "pictures", run="mine") == (200, ["figures/own.png"])
        assert served.call("runs", "picture", run="mine", file="figures/own.png")[1].startswith("data:image/png")
        for file in ("figures/link.png", "figures/folder/secret.png", str(secret), "../../secret.png", "stage1", ""):
            status, words = served.call("runs", "picture", run="mine", file=file)
            assert status == 400 and words.startswith("file: expected one of the run's images")
        for run in ("..", str(secret.parent), "mine/..", "", "nosuch"):
            status, words = served.call("runs", "pictures", run=run)
            assert status == 400 and words.startswith("run: expected one of the list")
    finally:
        (figures / "link.png").unlink()
        (figures / "folder").unlink()


def test_a_gigabyte_is_refused_before_it_is_read(served):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    connection.putrequest("POST", "/api/upload?name=large.png")
    connection.putheader("Content-Length", str(2**30))
    connection.endheaders()  # and nothing is sent
    answer = connection.getresponse()
    assert answer.status == 413 and json.loads(answer.read())["error"] == "file: expected at most 32 MB, found more"
    connection.close()
    assert served.alive()


def test_a_file_without_a_stated_size_is_refused_while_it_arrives(served):
    sent = 0
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        connection.sendall(b"POST /api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        part = b"100000\r\n" + bytes(2**20) + b"\r\n"
        try:
            while sent < 2**30:
                connection.sendall(part)
                sent += 2**20
        except OSError:  # the server has closed the connection
            pass
    assert 32 * 2**20 <= sent < 200 * 2**20, "what the system's buffers hold beyond the limit"
    assert served.alive()


def test_uploads_are_forgotten_the_oldest_first(served, monkeypatch):
    monkeypatch.setattr(server, "MOST_KEPT", 3000)
    first, *others = [served.upload(bytes(1000), f"{number}.png") for number in range(4)]
    with pytest.raises(InputError, match="expected one that was uploaded lately"):
        served.explorer.upload(first)
    assert [served.explorer.upload(key).name for key in others] == ["1.png", "2.png", "3.png"]
    assert served.call("codes", "item", file=first)[0] == 400


def bomb() -> bytes:
    """A PNG of a few kB that claims 40,000 x 40,000 pixels."""
    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    size = (40_000).to_bytes(4, "big")
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + size + b"\x08\x00\x00\x00\x00")
            + chunk(b"IDAT", zlib.compress(bytes(2**20))) + chunk(b"IEND", b""))


@pytest.mark.parametrize("content, name", [(bomb(), "bomb.png"), (b"no image", "x.png"), (b"", "empty.png"),
                                           (b"%PDF-1.4", "../../etc/passwd"), (png()[:45], "cut.png")],
                         ids=["bomb", "text", "empty", "path", "cut"])
def test_files_that_are_no_images_are_refused_in_words(served, content, name):
    status, words = served.call("codes", "item", file=served.upload(content, name))
    assert status == 400 and words.startswith(f"{name}: expected an image") and "/tmp" not in words, words
    assert served.alive()


def test_a_crowd_is_queued_or_refused_in_words(served, trial, until):
    """50 calls at once: one runs, 32 wait, the others are refused at once; all that waited are answered."""
    answers = []
    with ThreadPoolExecutor(50) as pool:
        def ask(number: int) -> None:
            answers.append(served.call("trial", "wait", tab=f"tab {number % 2}", number=number))

        asked = [pool.submit(ask, number) for number in range(50)]
        until(lambda: len(answers) >= 50 - worker.MOST_WAITING - 1)
        assert served.request("GET", "/")[0] == 200, "pages are served meanwhile"
        trial.may_end.set()
        for own in asked:
            own.result()
    refused = [words for status, words in answers if status == 503]
    assert len(refused) == 50 - worker.MOST_WAITING - 1 and set(refused) == {
        "the explorer is busy: 32 calls are waiting; try again in a moment"}
    assert sorted(value for status, value in answers if status == 200) == sorted(trial.ran)
    assert len(trial.ran) == worker.MOST_WAITING + 1 and served.alive()


def test_a_call_whose_tab_has_gone_is_dropped(served, trial, until):
    running = threading.Thread(target=served.call, args=("trial", "wait"), kwargs={"number": 1})
    running.start()
    waiting = served.explorer.worker._jobs.queue
    until(lambda: not waiting and trial.began == 1)
    gone = http.client.HTTPConnection("127.0.0.1", served.port)
    gone.request("POST", "/api/call/trial/wait", json.dumps({"tab": "b", "arguments": {"number": 2}}))
    until(lambda: len(waiting) == 1)
    gone.close()
    until(lambda: waiting[0].cancelled.is_set())
    trial.may_end.set()
    running.join()
    assert served.call("trial", "wait", number=3) == (200, 3)
    assert trial.ran == [1, 3]


def test_a_stream_whose_tab_has_gone_is_stopped(served, trial):
    gone = http.client.HTTPConnection("127.0.0.1", served.port)
    gone.request("POST", "/api/call/trial/forever?stream=1", json.dumps({"tab": "b", "arguments": {}}))
    assert gone.getresponse().readline() == b'{"value": {"more": "x"}}\n'
    gone.sock.shutdown(socket.SHUT_RDWR)
    gone.close()
    assert trial.closed.wait(30) and served.alive()


def test_a_tab_that_does_not_read_holds_up_nobody_for_long(served, trial, monkeypatch):
    monkeypatch.setattr(worker, "PATIENCE_S", 0.3)
    with socket.create_connection(("127.0.0.1", served.port)) as idle:
        body = json.dumps({"tab": "b", "arguments": {"size": 10**6}})
        idle.sendall(f"POST /api/call/trial/forever?stream=1 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}"
                     f"\r\n\r\n{body}".encode())
        assert trial.closed.wait(60) and served.alive()


def test_two_tabs_share_nothing_and_old_ones_are_forgotten(served, trial, monkeypatch):
    monkeypatch.setattr(server, "MOST_TABS", 3)
    assert served.call("trial", "remember", "one", numbers=[1]) == (200, [1])
    assert served.call("trial", "remember", "two", numbers=[2]) == (200, [2])
    assert served.call("trial", "remember", "one", numbers=[3]) == (200, [1, 3])
    for number in range(3):
        served.call("trial", "remember", f"later {number}", numbers=[])
    assert served.call("trial", "remember", "one", numbers=[]) == (200, [])
    assert len(served.explorer._tabs) <= 3


def test_our_own_errors_show_no_traceback(served, trial, capfd):
    status, words = served.call("trial", "wrong", number=1)
    assert status == 500 and words == ("this went wrong in the explorer itself (ZeroDivisionError); the terminal says "
                                       "more")
    assert served.stream("trial", "wrong", number=1) == [{"error": words}]
    assert "ZeroDivisionError" in capfd.readouterr().err and served.alive()


@pytest.mark.parametrize("body", ["", "[]", "nonsense", "[" * 100_000, '{"tab": 1, "arguments": {}}', '{"tab": "a"}',
                                  '{"tab": "' + "a" * 100 + '", "arguments": {}}', b"\xff\xfe"])
def test_calls_that_are_none_are_refused(served, body):
    status, _, content = served.request("POST", "/api/call/samples/about", body)
    assert status == 400 and json.loads(content)["error"].startswith("call: expected JSON with the keys")


def test_only_calls_of_pages_can_be_called(served):
    for page, name in (("nosuch", "about"), ("samples", "nosuch"), ("samples", "why_not"), ("samples", "calls"),
                       ("samples", "__init__"), ("samples", "_bits")):
        status, words = served.call(page, name)
        assert status == 400 and words.startswith("call: expected one of a page")


def verb(run: str, port: int) -> None:
    """The verb, in this process."""
    explore.main(Namespace(run=run, runs_dir=Path("nowhere"), data_root=None, port=port, no_browser=True, device="cpu"))


def test_a_run_that_cannot_be_loaded_ends_the_verb_in_one_line(capsys):
    with pytest.raises(InputError, match="^run: expected the folder of a run"):
        verb("nosuch", 0)
    assert capsys.readouterr().out.startswith("explorer: http://127.0.0.1:")


def test_a_port_that_is_taken_is_refused(served):
    with pytest.raises(InputError, match="^--port: expected one that is free"):
        verb("mnist", served.port)
    with pytest.raises(InputError, match="^--port: expected a number from 0 to 65535, found 70000"):
        verb("mnist", 70000)


def test_without_the_extra_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(InputError, match=r"expected the package uvicorn, found none; .*pip install '.\[explorer\]'"):
        verb("mnist", 0)
