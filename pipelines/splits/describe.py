"""One line that says what was loaded: items of each split, their shape, classes, and what was left out and why.

    data: photos: train 309, validation 34 images of 3x64x96; 3 classes: cat, dog, owl; left out: 12 .txt, 1 broken link
"""

from collections.abc import Mapping

from pipelines.splits.base import Data

NOUNS = {"image": "images", "audio": "recordings", "video": "clips"}  # other kinds: items
SHOWN_CLASSES = 6


def describe(data: Data) -> str:
    """The line, printable whatever names files and folders have."""
    splits = ", ".join(f"{name} {len(data.split(name))}" for name in data.splits)
    parts = [f"{splits} {NOUNS.get(data.kind, 'items')} of {'x'.join(map(str, data.shape))}"]
    for label, names in zip(data.label_names, data.classes, strict=True):
        more = ", ..." if len(names) > SHOWN_CLASSES else ""
        several = "classes" if label == "class" else f"classes of {label}"
        parts.append(f"{len(names)} {several}: {', '.join(names[:SHOWN_CLASSES])}{more}")
    if not data.label_names:
        parts.append("no labels")
    parts += data.remarks
    if data.left_out:
        parts.append(f"left out: {counted(data.left_out)}")
    return printable(f"data: {data.name}: {'; '.join(parts)}")


def counted(reasons: Mapping[str, int]) -> str:
    """{".txt": 12, "broken link": 2} -> "12 .txt, 2 broken links"; the largest number first."""
    order = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {_plural(reason, count)}" for reason, count in order)


def printable(text: str) -> str:
    """`text` with its control characters, line breaks and bytes of no encoding escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _plural(reason: str, count: int) -> str:
    """Of a noun and what follows it in brackets or after a preposition; of suffixes (".txt") there is none."""
    if count == 1 or not reason[0].isalpha() or reason.startswith("without"):
        return reason
    for mark in (" beside ", " of ", " ("):
        noun, found, rest = reason.partition(mark)
        if found:
            return f"{noun}s{found}{rest}"
    return f"{reason}s"
