"""Charts as inline SVG, which takes the page's colours, light or dark."""

import math
from collections.abc import Sequence

from pipelines.reporting.html import Html, join, tag

WIDTH, HEIGHT = 480, 290
LEFT, RIGHT, TOP, BOTTOM = 58, 22, 10, 44  # pixels around the area that is drawn in
COLOURS = 8  # of lines, in STYLE
STEEP = 10  # times the median that the largest bar may be on a linear scale
MOST_POINTS = 400  # of a line: more would fall on the same pixels
MOST_BARS = 1000  # more would be thinner than half a pixel: each is then the highest of several values

Point = tuple[float, float]


def line_chart(lines: dict[str, Sequence[Point]], x: str, y: str, caption: str = "", logarithmic: str = "",
               points: frozenset[str] = frozenset()) -> Html:
    """Named lines of points (x, y), or those named in `points` as single dots, with labels of the axes.

    logarithmic: "x", "y" or "xy", the axes that are so; their values have to be above 0."""
    drawn = {name: thinned(own) for name, own in lines.items() if own}
    across, up = (_Scale([point[axis] for own in drawn.values() for point in own], name in logarithmic, *span)
                  for axis, (name, span) in enumerate((("x", (LEFT, WIDTH - RIGHT)), ("y", (HEIGHT - BOTTOM, TOP)))))
    marks = []
    for number, (name, own) in enumerate(drawn.items()):
        colour = f"var(--s{number % COLOURS})"
        places = [(across(a), up(b)) for a, b in own]
        if name not in points and len(places) > 1:
            marks.append(tag("polyline", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in places), class_="line",
                             style=f"stroke:{colour}"))
        if name in points or len(places) < 25:
            size = 6 if name in points else 2.5
            marks += [tag("circle", tag("title", f"{name}: {x} {a:.4g}, {y} {b:.4g}"), cx=f"{place[0]:.1f}",
                          cy=f"{place[1]:.1f}", r=size, style=f"fill:{colour}")
                      for (a, b), place in zip(own, places, strict=True)]
    return _figure(_axes(across, up, x, y), marks, list(drawn), caption, f"{y} over {x}")


def bar_chart(values: Sequence[float], x: str, y: str, caption: str = "", level: tuple[str, float] | None = None
              ) -> Html:
    """Bars of values >= 0, one of them above 0, side by side in their order; `level`: a named horizontal line.

    The scale is logarithmic where most bars would not be seen otherwise."""
    above = [value for value in [*values, *([level[1]] if level else [])] if value > 0]
    logarithmic = max(above) > STEEP * sorted(above)[len(above) // 2]
    across = _Scale([0, len(values)], False, LEFT, WIDTH - RIGHT, whole=False)
    up = _Scale([*([] if logarithmic else [0]), *above], logarithmic, HEIGHT - BOTTOM, TOP)
    foot = HEIGHT - BOTTOM
    path = [f"M{across(0):.1f},{foot}"]
    step = -(-len(values) // MOST_BARS)
    for start in range(0, len(values), step):
        value = max(values[start : start + step])
        path.append(f"V{up(value) if value > 0 else foot:.1f}H{across(min(start + step, len(values))):.2f}")
    marks = [tag("path", d="".join([*path, f"V{foot}Z"]), style="fill:var(--s0);fill-opacity:.75")]
    names = ["frequency of each code"]
    if level:
        marks.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{up(level[1]):.1f}", y2=f"{up(level[1]):.1f}",
                         class_="line", style="stroke:var(--s1)", stroke_dasharray="6 4"))
        names.append(level[0])
    return _figure(_axes(across, up, x, y), marks, names, caption, f"{y} over {x}")


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most MOST_POINTS of them, evenly spaced, the last among them."""
    step = -(-len(points) // MOST_POINTS)
    return [*points[::step], *([points[-1]] if (len(points) - 1) % step else [])]


class _Scale:
    """Values to pixels from `start` to `end`, and round values to mark."""

    def __init__(self, values: Sequence[float], logarithmic: bool, start: float, end: float, whole: bool = True):
        self.logarithmic, self.start, self.end = logarithmic, start, end
        low, high = min(values), max(values)
        if logarithmic:
            self.ticks = _log_ticks(low, high)
            low, high = math.log(low), math.log(high)
        else:
            self.ticks = _ticks(low, high)
            if whole:  # from mark to mark
                low, high = min(low, self.ticks[0]), max(high, self.ticks[-1])
            self.ticks = [value for value in self.ticks if low <= value <= high]
        spare = 0.5 if high == low else 0.03 * (high - low) * logarithmic
        self.low, self.high = low - spare, high + spare

    def __call__(self, value: float) -> float:
        own = math.log(value) if self.logarithmic else value
        return self.start + (own - self.low) / (self.high - self.low) * (self.end - self.start)


def _ticks(low: float, high: float) -> list[float]:
    """About five round values that span [low, high]."""
    if high == low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (factor * step) <= 6)
    return [number * step for number in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Round values within [low, high]: 1, 2, 5 of each power of ten, or the powers alone where there are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if len(powers) > 4 else (1, 2, 5)
    found = [factor * 10.0**power for power in powers for factor in factors]
    return [value for value in found if low * 0.999 <= value <= high * 1.001] or [low]


def _axes(across: _Scale, up: _Scale, x: str, y: str) -> list[Html]:
    parts = []
    for value in up.ticks:
        height = f"{up(value):.1f}"
        parts += [tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=height, y2=height, class_="grid"),
                  tag("text", in_words(value), x=LEFT - 6, y=f"{up(value) + 4:.1f}", text_anchor="end")]
    for value in across.ticks:
        parts.append(tag("text", in_words(value), x=f"{across(value):.1f}", y=HEIGHT - BOTTOM + 18,
                         text_anchor="middle"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return [*parts, tag("text", x, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 6, text_anchor="middle"),
            tag("text", y, x=12, y=middle, text_anchor="middle", transform=f"rotate(-90 12 {middle})")]


def in_words(value: float) -> str:
    """12000 -> 12k, 0.05 -> 0.05."""
    value = 0.0 if abs(value) < 1e-12 else value
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.4g}"


def _figure(axes: list[Html], marks: list[Html], names: list[str], caption: str, words: str) -> Html:
    keys = [tag("span", tag("i", style=f"background:var(--s{number % COLOURS})"), name)
            for number, name in enumerate(names)]
    return tag("figure",
               tag("svg", join(axes, marks), viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=words),
               tag("div", keys, class_="key") if len(keys) > 1 else None,
               tag("figcaption", caption) if caption else None, class_="chart")
