"""The server of the explorer, for browsers of this machine: its pages, uploads, and calls of the models.

It answers before torch is imported: the run is loaded on the worker's thread. No address leads to a file of the disk:
what is served from it is read from `static/` at the start. Requests of other sites are refused by their Host and
Origin; what is sent is bounded while it arrives; uploads and tabs are forgotten, the oldest first.
"""

import json
import os
import re
import threading
import traceback
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pipelines.explorer.worker import Busy, Job, Worker
from pipelines.files.errors import InputError

if TYPE_CHECKING:
    from pipelines.api import TrainedRun
    from pipelines.explorer.page import Page, Upload

STATIC = Path(__file__).parent / "static"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
MOST_UPLOAD = 32 * 2**20  # bytes of one file
MOST_CALL = 8 * 2**20  # bytes of the arguments of one call
MOST_KEPT = 128 * 2**20  # bytes of all uploads that are kept
MOST_TABS = 16  # whose state is kept
AT_ONCE = 4  # bodies that are received at the same time: the others wait, unread
PATIENCE_S = 60  # for one body
PATIENCE_AT_END_S = 5  # for each thread that computes
HOSTS = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
                               "img-src 'self' data: blob:; media-src 'self' data: blob:; base-uri 'none'; "
                               "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Refused(Exception):
    """A request that is refused, with its status and why, in words."""

    def __init__(self, status: int, words: str):
        super().__init__(words)
        self.status = status


class Explorer:
    """A run, its pages, and what tabs have sent."""

    def __init__(self, open_run: "Callable[[], TrainedRun]", title: str, runs_dir: Path, data_root: Path | None):
        self.title, self.runs_dir, self.data_root = title, runs_dir, data_root
        self.run: TrainedRun | None = None
        self.pages: dict[str, Page] = {}
        self.failure: str | None = None
        self._open_run = open_run
        self._uploads: OrderedDict[str, Upload] = OrderedDict()
        self._tabs: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._shared: dict[str, Any] = {}
        self._state: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._warming: threading.Thread | None = None
        self.worker = Worker()

    def start(self, failed: Callable[[], None] = lambda: None) -> None:
        """Begins to load the run; calls wait for it. `failed` is called if it cannot be loaded."""

        def load() -> None:
            self._load()
            if self.failure is not None:
                failed()
            else:
                self._warming = threading.Thread(target=self._warm_up, name="warm-up", daemon=True)
                self._warming.start()

        self.worker.start(load)

    def stop(self) -> None:
        """Waits a few seconds for what is being computed: a thread that is inside PyTorch when the process ends aborts
        it."""
        self._ending.set()
        self.worker.stop(PATIENCE_AT_END_S)
        if self._warming is not None:
            self._warming.join(PATIENCE_AT_END_S)

    def state(self) -> dict[str, Any]:
        """What the first page shows."""
        if self.failure is not None:
            return {"status": "failed", "title": self.title, "words": self.failure}
        return self._state or {"status": "loading", "title": self.title}

    def keep(self, name: str, content: bytes) -> str:
        """Keeps an uploaded file, under a name that cannot be guessed, and forgets older ones."""
        from pipelines.explorer.page import Upload

        key = os.urandom(16).hex()
        with self._lock:
            self._uploads[key] = Upload(name[:100], content)
            while sum(len(own.content) for own in self._uploads.values()) > MOST_KEPT:
                self._uploads.popitem(last=False)
        return key

    def upload(self, key: str) -> "Upload":
        with self._lock:
            if key not in self._uploads:
                raise InputError("file: expected one that was uploaded lately, found none: choose it again")
            return self._uploads[key]

    def call(self, page: str, name: str, tab: str, values: dict[str, Any]) -> Callable[[], Any]:
        """What is to run on the worker's thread."""

        def run() -> Any:
            from pipelines.explorer.page import Arguments, Context

            if self.run is None:
                raise InputError(self.failure or "run: expected one that is loaded, found none")
            if page not in self.pages or name not in self.pages[page].calls:
                raise InputError(f"call: expected one of a page, found {page[:40]}/{name[:40]}")
            if (why := self.pages[page].why_not(self.run)) is not None:
                raise InputError(f"{page}: {why}")
            with self._lock:
                session = self._tabs.setdefault(tab, {})
                self._tabs.move_to_end(tab)
                while len(self._tabs) > MOST_TABS:
                    self._tabs.popitem(last=False)
            context = Context(self.run, self.runs_dir, self.data_root, session, self._shared)
            return self.pages[page].calls[name](context, Arguments(values, self.upload))

        return run

    def _load(self) -> None:
        try:
            run = self._open_run()
            from pipelines.explorer.pages import all_pages

            self.pages = all_pages()
            pages = [{"name": page.name, "title": page.title, "why_not": page.why_not(run)}
                     for page in self.pages.values()]
            self.run = run
            self._state = {"status": "ready", "title": run.folder.name, "words": run.describe(), "kind": run.kind,
                           "classes": run.classes, "pages": pages}
        except (InputError, OSError) as error:
            self.failure = " ".join(str(error).split())
        except Exception as error:
            self.failure = f"the run could not be loaded ({type(error).__name__}); the terminal says more"
            traceback.print_exc()

    def _warm_up(self) -> None:
        """Draws a sample, so that the user's first does not wait for the compiled loop: it is made once on a machine,
        in up to a minute, and read in a second afterwards. Beside the worker: only calls that sample wait for it."""
        assert self.run is not None
        self._state |= {"note": "The sampling loop is being prepared: on a new machine this takes up to a minute."}
        try:
            for _ in self.run.sample_steps(1):
                if self._ending.is_set():
                    break
        except InputError:  # a run that cannot be sampled, or not without further options
            pass
        self._state.pop("note")


class Guard:
    """Refuses requests that do not come from a page of this server, and sends its headers with every answer."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"],
                                      *((name.lower().encode(), value.encode()) for name, value in HEADERS.items())]
            await send(message)

        words = refusal(scope["method"], {name.decode("latin-1"): value.decode("latin-1")
                                          for name, value in scope["headers"]})
        app = self.app if words is None else JSONResponse({"error": words}, 403)
        await app(scope, receive, with_headers)


def refusal(method: str, headers: dict[str, str]) -> str | None:
    """Why a request is refused: another site's name leads to this machine (DNS rebinding), or its page sent it."""
    host = headers.get("host", "")
    if not HOSTS.fullmatch(host):
        return f"Host: expected 127.0.0.1 or localhost, found {host[:80]!r}"
    origin = headers.get("origin")
    if method != "GET" and origin is not None and origin != f"http://{host}":
        return f"Origin: expected a page of this explorer, found {origin[:80]!r}"
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return "Sec-Fetch-Site: expected a page of this explorer, found one of another site"
    return None


def build_app(explorer: Explorer) -> ASGIApp:
    """The application that uvicorn serves."""
    files = {f"/static/{path.relative_to(STATIC).as_posix()}": path for path in sorted(STATIC.rglob("*"))
             if path.suffix in TYPES}
    contents = {address: (path.read_bytes(), TYPES[path.suffix]) for address, path in files.items()}
    receiving = anyio.Semaphore(AT_ONCE)

    async def first_page(request: Request) -> Response:
        content, kind = contents["/static/index.html"]
        return Response(content, media_type=kind)

    async def static(request: Request) -> Response:
        if (found := contents.get(request.url.path)) is None:
            raise Refused(404, f"address: expected one of the explorer, found {request.url.path[:80]!r}")
        return Response(found[0], media_type=found[1])

    async def state(request: Request) -> Response:
        return JSONResponse(explorer.state())

    async def upload(request: Request) -> Response:
        content = await body(request, receiving, MOST_UPLOAD)
        return JSONResponse({"value": explorer.keep(request.query_params.get("name", "file"), content)})

    async def calls(request: Request) -> Response:
        page, name = request.path_params["page"], request.path_params["name"]
        content = await body(request, receiving, MOST_CALL)
        try:
            given = json.loads(content)
        except (ValueError, RecursionError):
            given = None
        tab, values = (given.get("tab"), given.get("arguments")) if isinstance(given, dict) else (None, None)
        if not isinstance(tab, str) or not 0 < len(tab) <= 64 or not isinstance(values, dict):
            raise Refused(400, "call: expected JSON with the keys tab and arguments, found other content")
        job = explorer.worker.add(explorer.call(page, name, tab, values))
        if request.query_params.get("stream"):
            return StreamingResponse(lines(job), media_type="application/x-ndjson")
        return await one_value(request, job)

    async def refused(request: Request, error: Exception) -> Response:
        status = error.status if isinstance(error, Refused) else 503
        return JSONResponse({"error": str(error)}, status, {"Connection": "close"})

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=400)  # nobody reads it

    async def not_found(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": "address: expected one of the explorer, found another"}, 404)

    routes = [Route("/", first_page), Route("/static/{path:path}", static), Route("/api/state", state),
              Route("/api/upload", upload, methods=["POST"]),
              Route("/api/call/{page}/{name}", calls, methods=["POST"])]
    app = Starlette(routes=routes, exception_handlers={
        Refused: refused, Busy: refused, ClientDisconnect: gone, 404: not_found, 405: not_found})
    app.router.redirect_slashes = False
    return Guard(app)


async def body(request: Request, receiving: anyio.Semaphore, most: int) -> bytes:
    """What was sent. Raises Refused as soon as it is too large, or takes too long."""
    words = f"file: expected at most {most // 2**20} MB, found more"
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise Refused(413, words)
    content = bytearray()
    async with receiving:
        with anyio.move_on_after(PATIENCE_S) as clock:
            async for part in request.stream():
                if len(content) + len(part) > most:
                    raise Refused(413, words)
                content += part
    if clock.cancelled_caught:
        raise Refused(408, f"file: expected it within {PATIENCE_S} s, found only a part of it")
    return bytes(content)


async def one_value(request: Request, job: Job) -> Response:
    """The call's value; dropped if the tab goes away before."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        job.cancel()
        group.cancel_scope.cancel()

    value: Any = None
    status, answer = 200, {"value": value}
    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        try:
            async for value in job.values():
                answer = {"value": value}
        except Exception as error:
            status, answer = 400 if isinstance(error, InputError) else 500, {"error": in_words(error)}
        group.cancel_scope.cancel()
    return JSONResponse(answer, status)


async def lines(job: Job) -> AsyncIterator[str]:
    """Each value as one line of JSON, as soon as it is there."""
    try:
        async for value in job.values():
            yield json.dumps({"value": value}, allow_nan=False) + "\n"
    except Exception as error:
        yield json.dumps({"error": in_words(error)}) + "\n"
    finally:
        job.cancel()


def in_words(error: Exception) -> str:
    """What the user reads: of our own bugs no more than the type, whose traceback the terminal shows."""
    if isinstance(error, InputError):
        return " ".join(str(error).split())
    traceback.print_exception(error)
    return f"this went wrong in the explorer itself ({type(error).__name__}); the terminal says more"
