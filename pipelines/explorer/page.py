"""A page of the explorer: what it needs of a run, and what the browser may call.

A new page is two files that are found by looking: `pages/NAME.py`, which defines one subclass of `Page`, and
`static/pages/NAME.js`, which draws it: `export default function mount(root, api)`. There `api.call("look", {seed: 3})`
runs the method `look` below and gives what it returns; `api.stream` gives what it yields, value by value.

    class Hello(Page):
        name, title, place = "hello", "Hello", 90

        @call
        def look(self, context: Context, arguments: Arguments) -> dict:
            return {"picture": png(context.run.sample(1, seed=arguments.integer("seed", 0, 1000)).x[0])}

Calls of all tabs run one after another on one thread, and need no locks. What they raise as InputError is shown to the
user in words.
"""

import base64
import inspect
import io
import math
import re
import tempfile
from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import soundfile
from PIL import Image
from torch import Tensor

from pipelines.api import TrainedRun
from pipelines.data.audio_files import FULL_SCALE
from pipelines.files.errors import InputError
from pipelines.kinds.base import Kind
from pipelines.runs.chain import LoadedRun

F = TypeVar("F", bound=Callable[..., Any])
SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")
MOST_NUMBERS = 2**20  # integers of one argument: codes and masks of the largest items are a tenth of it


@dataclass(frozen=True)
class Upload:
    """A file that the browser sent."""

    name: str  # as the browser gave it, for messages alone
    content: bytes


@dataclass(frozen=True)
class Context:
    """What a call may use."""

    run: TrainedRun
    runs_dir: Path
    data_root: Path | None
    session: dict[str, Any]  # of the browser's tab, kept between its calls; of a bounded number of tabs
    shared: dict[str, Any] = field(default_factory=dict)  # of all tabs, such as codes that are read once

    @property
    def loaded(self) -> LoadedRun:
        """The run as the rooms below take it."""
        return self.run._loaded

    @property
    def kind(self) -> Kind:
        """Its kind of data."""
        return self.run._kind


def call(method: F) -> F:
    """Marks a method of a page that the browser may call: (self, context, arguments) -> what JSON holds; a generator
    sends its values while it runs, and is closed when the tab goes away."""
    method.is_call = True  # type: ignore[attr-defined]
    return method


class Page(ABC):
    """A page, made once for all tabs: what differs between them belongs into `Context.session`."""

    name: str  # of its two files
    title: str
    place: int = 100  # pages are listed in this order

    def why_not(self, run: TrainedRun) -> str | None:
        """Why this run has no such page, in words; None where it has."""
        return None

    @property
    def calls(self) -> dict[str, Callable[[Context, "Arguments"], Any]]:
        """What the browser may call, by name."""
        methods = inspect.getmembers(type(self), lambda member: getattr(member, "is_call", False))
        return {name: getattr(self, name) for name, _ in methods}


class Arguments:
    """What the browser gave a call, read with a check for each value. Raises InputError that names it."""

    def __init__(self, values: Mapping[str, Any], uploads: Callable[[str], Upload]):
        self._values, self._uploads = values, uploads

    def integer(self, name: str, least: int, most: int, default: int | None = None) -> int:
        value = self._values.get(name)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise InputError(f"{name}: expected a whole number from {least} to {most}, found {_brief(value)}")
        return value

    def number(self, name: str, least: float, most: float, default: float | None = None) -> float:
        value = self._values.get(name)
        value = default if value is None else value
        if (not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value)
                or not least <= value <= most):
            raise InputError(f"{name}: expected a number from {least:g} to {most:g}, found {_brief(value)}")
        return float(value)

    def has(self, name: str) -> bool:
        """Whether it was given, and is not null."""
        return self._values.get(name) is not None

    def text(self, name: str, default: str | None = None, most: int = 200) -> str:
        value = self._values.get(name)
        value = default if value is None else value
        if not isinstance(value, str) or len(value) > most:
            raise InputError(f"{name}: expected a text of at most {most} characters, found {_brief(value)}")
        return value

    def choice(self, name: str, choices: Sequence[str], default: str | None = None) -> str:
        value = self._values.get(name)
        value = default if value is None else value
        if not isinstance(value, str) or value not in choices:
            shown = ", ".join(choices[:12]) + (", ..." if len(choices) > 12 else "")
            raise InputError(f"{name}: expected one of {shown}, found {_brief(value)}")
        return value

    def texts(self, name: str, most: int = 100) -> list[str]:
        """A list of texts; [] where none was given."""
        value = self._values.get(name, [])
        if not isinstance(value, list) or len(value) > most or not all(isinstance(own, str) for own in value):
            raise InputError(f"{name}: expected a list of at most {most} texts, found {_brief(value)}")
        return value

    def named_texts(self, name: str, most: int = 20) -> dict[str, str]:
        """Texts by name, such as the class of each label; those that are null or empty are left out."""
        value = self._values.get(name) or {}
        if not isinstance(value, dict) or len(value) > most or not all(
                own is None or isinstance(own, str) and len(own) <= 200 for own in value.values()):
            raise InputError(f"{name}: expected texts by name, found {_brief(value)}")
        return {key: own for key, own in value.items() if own}

    def integers(self, name: str, least: int, most: int) -> list[int]:
        """A flat list of whole numbers."""
        value = self._values.get(name)
        if not isinstance(value, list) or len(value) > MOST_NUMBERS or not all(
                type(own) is int and least <= own <= most for own in value):
            raise InputError(f"{name}: expected a list of whole numbers from {least} to {most}, found {_brief(value)}")
        return value

    def upload(self, name: str) -> Upload:
        """The file that was uploaded before: `{file: await api.upload(file)}`."""
        return self._uploads(self.text(name))

    def uploads(self, name: str, most: int) -> list[Upload]:
        """The files that were uploaded before, by a list of such names; [] where none was given."""
        return [self._uploads(key) for key in self.texts(name, most)]


@contextmanager
def as_file(upload: Upload) -> Iterator[Path]:
    """An uploaded file as one on the disk, for as long as the context; errors about it name the user's file."""
    suffix = Path(upload.name).suffix
    with tempfile.TemporaryDirectory(prefix="explorer-") as folder:
        path = Path(folder) / f"item{suffix if SUFFIX.fullmatch(suffix) else ''}"
        path.write_bytes(upload.content)
        try:
            yield path
        except InputError as error:
            raise InputError(str(error).replace(str(path), upload.name)) from None


def png(image: Tensor) -> str:
    """uint8 (c, h, w), c = 1 or 3, as the address of a PNG, for the `src` of an image."""
    pixels = image.cpu().movedim(0, -1).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, format="PNG")
    return address("image/png", buffer.getvalue())


def wav(wave: Tensor, sample_rate_hz: int) -> str:
    """A wave (t,) in [-1, 1] as the address of a WAV file of 16 bits, for the `src` of an audio element."""
    samples = np.clip(np.rint(wave.detach().cpu().double().numpy() * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.astype(np.int16), sample_rate_hz, format="WAV", subtype="PCM_16")
    return address("audio/wav", buffer.getvalue())


def address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _brief(value: Any) -> str:
    words = "none" if value is None else repr(value)
    return words if len(words) <= 60 else f"{words[:57]}..."
