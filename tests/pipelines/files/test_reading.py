"""Files are checked before they are parsed, and refused in one line that names them."""

import os

import pytest

from pipelines.files.errors import InputError
from pipelines.files.reading import DEPTH, read_file, read_json, read_yaml, yaml_bytes

LAUGHS = "\n".join(["a: &a [x, x]", "b: &b [*a, *a]", "c: [*b, *b]"])


def test_what_is_written_is_read(tmp_path):
    shared = [1, "2001-01-01", 1e-9, None, True]
    content = {"text": "é: #", "first": shared, "second": shared, "inner": {"yes": "no", "empty": []}}
    (tmp_path / "a.yaml").write_bytes(yaml_bytes(content))
    assert b"&id" not in (tmp_path / "a.yaml").read_bytes()
    found = read_yaml(tmp_path / "a.yaml", "a configuration")
    assert found == content and list(found) == list(content)


@pytest.mark.parametrize("make, found", [
    (lambda path: None, "no such file"), (os.mkfifo, "a pipe, socket or device"), (os.mkdir, "a folder"),
    (lambda path: path.symlink_to("nowhere"), "a link to nothing"),
    (lambda path: path.symlink_to("/dev/zero"), "a pipe, socket or device"),
    (lambda path: path.write_bytes(bytes(11)), "11"),
])
def test_only_regular_files_of_a_bounded_size_are_read(make, found, tmp_path):
    path = tmp_path / "latest"
    make(path)
    with pytest.raises(InputError, match=f"latest: expected a pointer.*, found {found}"):
        read_file(path, "a pointer", 10)


@pytest.mark.parametrize("content", [
    b"", b"\xff\xfe", b"[", b"[1]", b"3", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}",
    b'{"a": 99999999999999999999}', b'{"a": "\\ud800"}', b'{"a": "\\u0000"}',
    b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}",
])
def test_json_that_no_run_has(content, tmp_path):
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"state.json: expected a state.*, found ") as error:
        read_json(path, "a state")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("content", [
    "", "[1]", "a: b: c", "a: 2001-99-99", "a: 2001-01-01", "a: &a [*a]", LAUGHS, "a: !!python/name:os.system",
    "a: !!python/object/apply:os.system ['true']", "a: !!binary aGk=", "a: !!int ''", "a: !!bool x", "? [a]\n: b",
    "<<: {a: 1}", "1: 2", "yes: 2", "a: 0x" + "f" * 6000, "a: \0", "--- {}\n--- {}", "a:\t- b", "[" * 3000,
    "a: " + "[" * (DEPTH + 2) + "]" * (DEPTH + 2), "a: !!set {b}",
])
def test_yaml_that_no_run_has(content, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=r"config.yaml: expected a configuration.*, found ") as error:
        read_yaml(path, "a configuration")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
