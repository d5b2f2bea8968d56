"""HTML as text that is safe by construction: whatever is not made by `tag` is escaped."""

import base64
import html
from collections.abc import Collection
from typing import Any

VOID = {"img", "link", "meta", "br"}


class Html(str):
    """Text that is HTML already."""


def tag(name: str, /, *content: Any, **attributes: Any) -> Html:
    """An element. Text among its content is escaped unless it is `Html`; None and False leave content or an attribute
    out, True is an attribute without a value. `class_` is class, and an underscore inside a name a hyphen."""
    words = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        words.append(f" {key}" if value is True else f' {key}="{html.escape(str(value))}"')
    start = f"<{name}{''.join(words)}>"
    return Html(start) if name in VOID else Html(f"{start}{join(*content)}</{name}>")


def join(*content: Any) -> Html:
    """Parts one after another: text is escaped unless it is `Html`, lists are joined, None is left out."""
    parts = []
    for part in content:
        if part is None:
            continue
        if isinstance(part, list | tuple):
            parts.append(join(*part))
        else:
            parts.append(part if isinstance(part, Html) else html.escape(str(part)))
    return Html("".join(parts))


def data_url(mime: str, content: bytes) -> str:
    """A file's content as an address that stands for itself."""
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def table(head: list[str], rows: list[list[Any]], numbers: Collection[int] = ()) -> Html:
    """A table that a click on a column's head sorts. numbers: the columns of numbers, aligned right; a cell is anything
    that `tag` takes, or (what is shown, the number or text that it is sorted by)."""

    def cell(column: int, value: Any) -> Html:
        shown, key = value if isinstance(value, tuple) else (value, None)
        return tag("td", shown, class_="number" if column in numbers else None, data_key=key)

    heads = [tag("th", tag("button", title, type="button"), scope="col", aria_sort="none",
                 class_="number" if column in numbers else None) for column, title in enumerate(head)]
    body = [tag("tr", [cell(column, value) for column, value in enumerate(row)]) for row in rows]
    return tag("div", tag("table", tag("thead", tag("tr", heads)),
                          tag("tbody", body), class_="sortable"), class_="scroll")


def facts(rows: dict[str, Any]) -> Html:
    """Names and what they stand for, two columns; rows whose value is None are left out."""
    there = {name: value for name, value in rows.items() if value is not None}
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in there.items()])


def picture(mime: str, content: bytes, words: str, width: int | None = None, pixelated: bool = False) -> Html:
    """An image, which a click enlarges. words: what it shows; width: in CSS pixels, by default its own."""
    return tag("img", src=data_url(mime, content), alt=words, width=width, loading="lazy",
               class_="pixels" if pixelated else None)
