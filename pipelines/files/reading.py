"""Reading the files that a run consists of: checked first, then used, and refused in one line.

They are not trusted: any of them may be cut short, of another type, huge, or no file at all but a pipe or a device.
What JSON and YAML may hold is the same: null, booleans, 64-bit integers, numbers, text, lists, and mappings whose keys
are text. A YAML file has no aliases, tags or dates; `yaml_bytes` writes none.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any

import yaml

from pipelines.files.errors import InputError

LARGEST_TEXT = 64 * 2**20  # bytes: the manifest of some 400,000 shards
LARGEST_YAML = 4 * 2**20  # bytes: read ten times as slowly
DEPTH = 50  # of lists and mappings inside each other; a run's own have 10
LARGEST_INTEGER = 2**64

NAMES = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", int: "an integer", float: "a number",
         type(None): "nothing"}


def read_file(path: Path, what: str, largest: int | None = None) -> bytes:
    """The bytes of a regular file of at most `largest` bytes.

    Raises InputError at once for a pipe, a device, a folder, a link to nothing, and where there is none; `what` says
    what was expected."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        kind = "a link to nothing" if path.is_symlink() else "no such file"
        raise InputError(f"{path}: expected {what}, found {kind}") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, socket or device"
        raise InputError(f"{path}: expected {what}, found {kind}")
    if largest is not None and found.st_size > largest:
        raise InputError(f"{path}: expected {what} of at most {largest} bytes, found {found.st_size}")
    with open(path, "rb") as file:
        return file.read(found.st_size + 1)  # and no more of a file that says less than it has, as in /proc


def read_text(path: Path, what: str, largest: int = LARGEST_TEXT) -> str:
    """The same as text. Raises InputError for what is not UTF-8."""
    content = read_file(path, what, largest)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected {what}, found bytes that are not UTF-8 at {error.start}") from None


def read_json(path: Path, what: str, form: type = dict) -> Any:
    """What a JSON file holds, of the type `form`. Raises InputError for any other content."""
    return parse_json(read_text(path, what), str(path), what, form)


def parse_json(text: str, source: str, what: str, form: type = dict) -> Any:
    """What a text in JSON holds, of the type `form`; `source` says where it was found."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: expected {what} in JSON, found {_reason(error)}") from None
    return _checked(content, source, what, form)


def read_yaml(path: Path, what: str) -> dict:
    """What a YAML file holds, a mapping. Raises InputError for any other content."""
    return parse_yaml(read_text(path, what, LARGEST_YAML), str(path), what)


def parse_yaml(text: str, source: str, what: str) -> dict:
    """What a text in YAML holds, a mapping; `source` says where it was found."""
    try:
        content = yaml.load(text, _PlainLoader)
    except yaml.MarkedYAMLError as error:
        line = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{source}: expected {what} in YAML, found {error.problem}{line}") from None
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as error:
        raise InputError(f"{source}: expected {what} in YAML, found {_reason(error)}") from None
    return _checked(content, source, what, dict)


def yaml_bytes(content: dict) -> bytes:
    """The content of a YAML file that `read_yaml` reads: keys in their order, no aliases."""
    return yaml.dump(content, Dumper=_PlainDumper, sort_keys=False).encode()


class _PlainLoader(yaml.SafeLoader):
    """Text, numbers, booleans, null, lists and mappings; no aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: Any) -> None:
        """`<<` is a key like any other, and then refused for its tag."""


_PlainLoader.yaml_constructors = {  # a node of any other tag is refused
    **{f"tag:yaml.org,2002:{name}": yaml.SafeLoader.yaml_constructors[f"tag:yaml.org,2002:{name}"]
       for name in ("null", "bool", "int", "float", "str", "seq", "map")},
    None: yaml.SafeLoader.yaml_constructors[None],
}


class _PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _checked(content: Any, source: str, what: str, form: type) -> Any:
    """`content`, once nothing in it is too deep, too large or of another type."""
    if type(content) is not form:
        raise InputError(f"{source}: expected {what}, {NAMES[form]}, found {NAMES.get(type(content), 'other content')}")
    left = [(content, 0)]
    while left:
        value, depth = left.pop()
        if depth > DEPTH:
            raise InputError(f"{source}: expected {what}, found more than {DEPTH} levels of lists and mappings")
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise InputError(f"{source}: expected {what}, found a key that is not text but {NAMES[type(key)]}")
                left.append((key, depth))
            left.extend((item, depth + 1) for item in value.values())
        elif isinstance(value, list):
            left.extend((item, depth + 1) for item in value)
        elif isinstance(value, str):
            if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value) or "\0" in value:
                raise InputError(f"{source}: expected {what}, found text with a zero or half a character, "
                                 f"{ascii(value[:20])}")
        elif isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            raise InputError(f"{source}: expected {what}, found an integer of more than 64 bits")
    return content


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
