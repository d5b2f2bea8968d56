"""A server in a thread, with pages of the tests beside those of the project, and requests to it."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from pipelines import load
from pipelines.explorer.server import Explorer, build_app

SMALL = Path(__file__).resolve().parents[2] / "golden" / "format1"


@dataclass
class Served:
    """A running explorer."""

    explorer: Explorer
    port: int

    def request(self, method: str, address: str, body: Any = None, headers: dict[str, str] | None = None,
                timeout: float = 60) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, address, body, headers or {})
            answer = connection.getresponse()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def call(self, page: str, name: str, tab: str = "a", **arguments: Any) -> tuple[int, Any]:
        """Status, and value or error, of a call."""
        body = json.dumps({"tab": tab, "arguments": arguments})
        status, _, content = self.request("POST", f"/api/call/{page}/{name}", body)
        found = json.loads(content)
        return status, found["value"] if status == 200 else found["error"]

    def stream(self, page: str, name: str, tab: str = "a", **arguments: Any) -> list[dict[str, Any]]:
        """The lines of a streamed call."""
        body = json.dumps({"tab": tab, "arguments": arguments})
        status, _, content = self.request("POST", f"/api/call/{page}/{name}?stream=1", body)
        assert status == 200, content
        return [json.loads(line) for line in content.splitlines()]

    def upload(self, content: bytes, name: str = "item.png") -> str:
        status, _, answer = self.request("POST", f"/api/upload?name={name}", content)
        assert status == 200, answer
        return json.loads(answer)["value"]

    def alive(self) -> bool:
        """Whether it answers pages and calls."""
        return self.request("GET", "/")[0] == 200 and self.call("samples", "about")[0] == 200


@contextmanager
def serving(run: Path | str, runs_dir: Path, data_root: Path | None = None) -> Iterator[Served]:
    explorer = Explorer(lambda: load(run, "cpu"), "test", runs_dir, data_root)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(build_app(explorer), log_level="warning", access_log=False, lifespan="off",
                                           ws="none", timeout_graceful_shutdown=1))
    explorer.start()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    served = Served(explorer, listening.getsockname()[1])
    wait_until(lambda: explorer.state()["status"] == "ready" and server.started)
    yield served
    server.should_exit = True
    thread.join(10)
    listening.close()


def wait_until(holds: Callable[[], bool], limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], bool]], None]:
    """until(function): waits until it returns True."""
    return wait_until


@pytest.fixture(scope="session")
def serve():
    """serve(run, runs_dir, data_root=None): `serving`, for other runs."""
    return serving


@pytest.fixture(scope="session")
def small() -> Path:
    """A run on digits of 8x8, with its codes; the data come with scikit-learn."""
    return SMALL


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    with serving(SMALL, tmp_path_factory.mktemp("runs")) as found:
        yield found
