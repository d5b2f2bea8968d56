"""Files inside other files, read in place: a member of a tar, a cell of a Parquet column."""

import io
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


class Member(ABC):
    """A file inside another. Its text is how messages name it."""

    container: str
    name: str

    @abstractmethod
    def read(self) -> bytes:
        """Its bytes. Raises ValueError where they are not all there, and OSError where the container is not."""

    def __str__(self) -> str:
        return f"{self.container}: {self.name}"


Source = Path | Member


@dataclass(frozen=True)
class Slice(Member):
    """Consecutive bytes of a file."""

    container: str
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        with open(self.container, "rb", buffering=0) as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise ValueError(f"it ends after {len(content)} of {self.size} bytes")
        return content


def readable(source: Source | str | BinaryIO) -> Path | str | BinaryIO:
    """What libraries open: a path, or the bytes of a member as a file."""
    return io.BytesIO(source.read()) if isinstance(source, Member) else source


def nameless(message: str) -> str:
    """A library's message without the address of the object that it read a member from."""
    return re.sub(r"^Error opening <_io.BytesIO object at \w+>: | ?<_io.BytesIO object at \w+>", "", message)
