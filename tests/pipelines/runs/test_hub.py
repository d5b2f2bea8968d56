"""Runs on a hub: a whole round trip through a server on this machine that speaks the hub's API, and to no other."""

import base64
import hashlib
import json
import re
import shutil
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import torch

from pipelines import load, publish
from pipelines.files.errors import InputError
from pipelines.files.places import outputs
from pipelines.runs.find import PRETRAINED, find_run
from pipelines.runs.hub import FILES, download, parse_hub_name, upload

TOKEN = "hf_a_secret_of_the_user"


class Hub(ThreadingHTTPServer):
    """Repositories of models, each with its commits; `main` is the newest."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.asked: list[tuple[str, str, str | None]] = []  # method, path, authorization
        self.private: list[bool] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, repository: str, files: dict[str, bytes]) -> str:
        commits = self.repositories.setdefault(repository, {})
        sha = hashlib.sha1(b"".join(name.encode() + content for name, content in sorted(files.items()))).hexdigest()
        commits.pop(sha, None)
        commits[sha] = files
        return sha

    def files(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.repositories.get(repository)
        sha = next(reversed(commits), None) if commits and revision == "main" else revision
        return (sha, commits[sha]) if commits and sha in commits else None


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.server.asked.append((self.command, path, self.headers.get("Authorization")))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            self.model(found[1], found[2], found[3] or "main", parse_qs(url.query))
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.file(*found.groups())
        else:
            self.answer(404, b"{}")

    do_HEAD = do_GET

    def model(self, repository: str, what: str | None, revision: str, query: dict) -> None:
        found = self.server.files(repository, revision)
        if found is None:
            missing = "Revision" if repository in self.server.repositories else "Repo"
            return self.answer(404, b"{}", {"X-Error-Code": f"{missing}NotFound"})
        sha, files = found
        if what == "tree":
            entries = [{"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                       for name, content in files.items()]
            return self.answer(200, json.dumps(entries).encode())
        self.answer(200, json.dumps({"id": repository, "modelId": repository, "sha": sha, "private": True, "tags": [],
                                     "siblings": [{"rfilename": name} for name in files]}).encode())

    def file(self, repository: str, revision: str, name: str) -> None:
        found = self.server.files(repository, revision)
        if found is None or name not in found[1]:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        content = found[1][name]
        self.answer(200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": found[0]})

    def do_POST(self) -> None:
        self.server.asked.append((self.command, self.path, self.headers.get("Authorization")))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self.chunk, b""))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" and "validate" not in self.path:
            return self.answer(401, b'{"error": "who are you?"}')
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            self.server.private.append(asked.get("visibility") == "private" or asked.get("private") is True)
            repository = f"{asked['organization']}/{asked['name']}"
            if repository not in self.server.repositories:
                self.server.commit(repository, {".gitattributes": b""})  # as the hub does
            return self.answer(200, json.dumps({"url": f"{self.server.url}/{repository}", "id": repository}).encode())
        if self.path == "/api/validate-yaml":
            return self.answer(200, b'{"errors": [], "warnings": []}')
        repository, what = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path).groups()
        if what == "preupload":
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for file in json.loads(body)["files"]]
            return self.answer(200, json.dumps({"files": files}).encode())
        before = self.server.files(repository, "main")
        files = dict(before[1]) if before else {}
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "deletedFile":
                del files[entry["value"]["path"]]
        sha = self.server.commit(repository, files)
        self.answer(200, json.dumps({"success": True, "commitOid": sha,
                                     "commitUrl": f"{self.server.url}/{repository}/commit/{sha}"}).encode())

    def chunk(self) -> bytes:
        content = self.rfile.read(int(self.rfile.readline(), 16))
        self.rfile.readline()
        return content

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on this machine, a cache of its own, and no way to any other machine."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="requires the extra [hub]")
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + template[template.index("/{repo_id}"):])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    connect = socket.socket.connect

    def here_alone(self, address):
        assert address[0] == "127.0.0.1", f"a connection to {address}"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", here_alone)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def script(*words: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["publish", *map(str, words)])
        publish.main(publish.parse_arguments())


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_goes_to_a_hub_and_comes_back_the_same_to_the_bit(hub, tmp_path, capsys):
    script("--run", "mnist", "--out", tmp_path / "mine", "--to", "hf://someone/digits")
    assert hub.private == [True]
    shown = capsys.readouterr()
    assert f"uploaded to hf://someone/digits: {hub.url}/someone/digits/commit/" in shown.out
    assert TOKEN not in shown.out + shown.err
    sha, files = hub.files("someone/digits", "main")
    assert files.pop(".gitattributes") == b"" and files == content(tmp_path / "mine")
    assert 'load("hf://someone/digits")' in files["README.md"].decode()

    back, here = load("hf://someone/digits", "cpu"), load(tmp_path / "mine", "cpu")
    assert back.folder.name == sha and content(back.folder) == files
    assert any(path.is_symlink() for path in back.folder.rglob("*")), "as the hub's library lays its cache out"
    drawn, expected = (run.sample(2, seed=3, digit="7") for run in (back, here))
    assert torch.equal(drawn.x, expected.x) and torch.equal(drawn.codes, expected.codes)
    assert torch.equal(back.encode(drawn.x), here.encode(drawn.x))
    assert back.outputs == Path("runs/digits"), "the cache is shared, and not written to"

    hub.asked.clear()
    assert download(f"hf://someone/digits@{sha}") == back.folder
    assert not [path for method, path, _ in hub.asked if "/resolve/" in path], "nothing is downloaded twice"


def test_only_what_a_run_consists_of_is_transferred(hub, tmp_path, monkeypatch):
    files = content(PRETRAINED / "mnist")
    step = "stage1/checkpoints/step-0004000"
    foreign = {"model.pkl", "pytorch_model.bin", f"{step}/optimizer.pt", "stage1/code.py",
               "codes/train-00000.safetensors"}
    hub.commit("someone/else", files | {name: b"x" for name in foreign})
    assert content(download("hf://someone/else")).keys() == files.keys()
    mine = tmp_path / "mine"
    shutil.copytree(PRETRAINED / "mnist", mine)
    for name in foreign - {f"{step}/optimizer.pt"}:
        (mine / name).parent.mkdir(exist_ok=True)
        (mine / name).write_bytes(b"x")
    hub.commit("someone/old", {"README.md": b"", "stage1/checkpoints/step-0000001/state.json": b"{}", "mine.txt": b"x"})
    upload(mine, "hf://someone/old")
    assert hub.files("someone/old", "main")[1].keys() == {*files, "mine.txt"}, "the old checkpoint is gone"


def test_a_revision_stays_what_it_was(hub):
    files = content(PRETRAINED / "mnist")
    first = hub.commit("someone/digits", files)
    hub.commit("someone/digits", files | {"metrics.json": b"{}"})
    assert (download(f"hf://someone/digits@{first}") / "metrics.json").read_bytes() == files["metrics.json"]
    assert (download("hf://someone/digits") / "metrics.json").read_bytes() == b"{}"


def test_what_is_wrong_on_a_hub_takes_one_line(hub, monkeypatch, capsys):
    hub.commit("someone/text", {"README.md": b"# not a run"})
    for name, said in (("hf://someone/none", "RepositoryNotFound"), ("hf://someone/text", "found none of its files"),
                       ("hf://someone/text@v9", "RevisionNotFound"), ("hf://someone", "expected hf://OWNER/NAME"),
                       ("hf://../x/..", "expected hf://OWNER/NAME")):
        with pytest.raises(InputError, match=f"^run: .*{said}"):
            load(name)
    before = (PRETRAINED / "mnist" / "README.md").read_bytes()
    with pytest.raises(InputError, match="^--to: expected hf://OWNER/NAME, found .* with a revision"):
        script("--run", "mnist", "--to", "hf://someone/digits@main")
    assert (PRETRAINED / "mnist" / "README.md").read_bytes() == before
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(InputError, match="^to: expected a hub that takes the run, .*401") as refused:
        upload(PRETRAINED / "mnist", "hf://someone/digits")
    assert "hf_another" not in str(refused.value)
    with pytest.raises(InputError, match="^to: .* with a revision"):
        upload(PRETRAINED / "mnist", "hf://someone/digits@main")


def test_a_hub_that_is_gone_serves_what_was_downloaded(hub, monkeypatch):
    hub.commit("someone/digits", content(PRETRAINED / "mnist"))
    folder = download("hf://someone/digits")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert download("hf://someone/digits") == folder
    with pytest.raises(InputError, match="^run: expected a run that can be downloaded, found hf://someone/other: "):
        download("hf://someone/other")


def test_a_run_as_it_was_trained_is_not_uploaded(hub, tmp_path):
    """Its configuration names folders of this machine."""
    shutil.copytree(PRETRAINED / "mnist", tmp_path / "run")
    path = tmp_path / "run/stage1/config.yaml"
    path.write_text(path.read_text().replace("  download: false\n", "  download: false\n  root: /home/me/data\n"))
    with pytest.raises(InputError, match="^--run: expected a published run, .* as it was trained"):
        script("--run", tmp_path / "run", "--to", "hf://someone/digits")
    assert hub.asked == []


def test_no_other_name_makes_a_request(hub):
    with pytest.raises(InputError, match="expected the folder of a run"):
        find_run("someone/digits", Path("runs"))
    assert hub.asked == []


def test_without_the_extra_a_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"^run: expected the extra \[hub\] for hf://a/b.*pip install .*\[hub\]"):
        load("hf://a/b")


def test_names_on_a_hub():
    assert parse_hub_name("hf://a/b", "run") == ("a/b", None)
    assert parse_hub_name("hf://a.b/c-d_e@refs/pr/1", "run") == ("a.b/c-d_e", "refs/pr/1")
    for name in ("hf://", "hf://a", "hf://a/", "hf://a/b/c", "hf://a/b@", "hf://a/b@x y", "hf:/a/b", "hf://a/b\n"):
        with pytest.raises(InputError, match="run: expected hf://OWNER/NAME"):
            parse_hub_name(name, "run")
    assert not any(name.endswith((".pt", ".pkl", ".bin", ".py", "*")) for name in FILES)


def test_what_verbs_make_of_a_downloaded_run_is_not_put_into_the_cache(tmp_path):
    snapshot = tmp_path / "models--someone--digits" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    assert outputs(snapshot) == Path("runs/digits")
    assert outputs(tmp_path / "snapshots" / "mine") == tmp_path / "snapshots" / "mine"
