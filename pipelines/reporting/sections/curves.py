"""What both trainings logged: the loss, and what else tells whether it went well."""

from collections.abc import Sequence

from pipelines.reporting.charts import line_chart
from pipelines.reporting.html import Html, join, tag
from pipelines.reporting.subject import LeftOut, Reported
from pipelines.training.log import read_metrics

TITLE, ORDER = "Training curves", 20

ALSO = {"perplexity": "perplexity of the codes", "codes used": "codes used", "distortion": "distortion", "rate": "rate"}
SETTLED = 0.02  # of the steps: what was logged before would flatten the rest


def section(reported: Reported) -> Html:
    parts = []
    for title, folder in (("Stage 1", reported.run.stage1), ("Stage 2", reported.run.stage2)):
        rows = read_metrics(folder / "metrics.jsonl")
        if rows:
            parts += [tag("h3", title), tag("div", charts(rows), class_="charts")]
    if not parts:
        raise LeftOut("the run has no log of its training; published runs come without one")
    return join(tag("p", "The first 2% of the steps are not drawn: they would flatten the rest.", class_="soft"), parts)


def charts(rows: Sequence[dict]) -> list[Html]:
    """The loss, and the figures of ALSO that were logged."""
    validation = [row for row in rows if row["split"] == "validation"]
    known = {name for row in validation for name in row} - {"step", "split", "seconds"}
    names = [name for row in rows if row["split"] == "train" for name in row]
    loss = next((name for name in names if name in known), None)
    chosen = ([loss] if loss else []) + [name for name in ALSO if name in {*names, *known} and name != loss]
    drawn = []
    for name in chosen:
        lines = curves(rows, name)
        best = ""
        if name == loss and lines.get("validation"):
            step, value = min(lines["validation"], key=lambda point: point[1])
            best = f"Best validation {name}: {value:.4g}, at step {step:,}."
        if lines:
            drawn.append(line_chart(lines, "step", ALSO.get(name, name), best))
    return drawn


def curves(rows: Sequence[dict], name: str) -> dict[str, list[tuple[float, float]]]:
    """Points (step, figure) of training and of validation, those of the first steps left out where more follow."""
    lines = {}
    for split, title in (("train", "training"), ("validation", "validation")):
        points = [(row["step"], row[name]) for row in rows if row["split"] == split and row.get(name) is not None]
        late = [point for point in points if point[0] > SETTLED * points[-1][0]]
        if points:
            lines[title] = late or points
    return lines
