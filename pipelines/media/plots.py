"""Plots as PNG files: curves, codebook use, latent planes."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from pipelines.files.atomic import write_atomically
from pipelines.media.images import INK
from stage1_vqvae.codebook import perplexity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAIN, VALIDATION = "#9ab3cc", "#c0392b"
ON_AXES = 6  # names in a legend that has room between the lines


def plot_lines(path: Path, panels: list[tuple[str, str, dict[str, list[tuple]]]]) -> None:
    """Panels side by side: label of x, label of y, and the points (x, y) of each named line; y = None skips a point.

    Strings as x are spaced evenly in the order of their first use. The scale of y is logarithmic if positive values
    span a factor of more than 100."""
    figure = _new_figure(figsize=(5 * len(panels), 4))
    names = [list(lines) for _, _, lines in panels]
    # one legend beside all panels, where it hides no point
    apart = all(own == names[0] and len(own) > ON_AXES for own in names)
    for axis, (x, y, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, points in lines.items():
            points = [point for point in points if point[1] is not None]
            axis.plot(*zip(*points), marker="." if len(points) < 20 else None, label=name or None)
        values = [value for points in lines.values() for _, value in points if value is not None]
        wide = bool(values) and 0 < 100 * min(values) < max(values)
        axis.set(xlabel=x, ylabel=y, yscale="log" if wide else "linear")
        axis.grid(alpha=0.3)
        if any(lines) and not apart:
            axis.legend()
    if apart:
        figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper")
    _write_figure(path, figure)


def plot_curves(path: Path, stages: dict[str, list[dict]]) -> None:
    """Training and validation loss of each stage over its steps, from the rows of its metrics.jsonl.

    A stage's loss is the first figure that rows of both splits contain. Stages without rows are left out.
    """
    stages = {title: rows for title, rows in stages.items() if rows}
    figure = _new_figure(figsize=(6 * max(len(stages), 1), 4))
    axes = figure.subplots(1, max(len(stages), 1), squeeze=False)[0]
    if not stages:
        axes[0].text(0.5, 0.5, "no rows in metrics.jsonl", ha="center")
    for axis, (title, rows) in zip(axes, stages.items(), strict=False):
        splits = {split: [row for row in rows if row["split"] == split] for split in ("train", "validation")}
        known = {name for row in splits["validation"] for name in row} - {"step", "split", "seconds"}
        name = next((name for row in splits["train"] for name in row if name in known), "loss")
        drawn = {split: np.array([(row["step"], row[name]) for row in own if row.get(name) is not None]).reshape(-1, 2)
                 for split, own in splits.items()}
        axis.plot(*drawn["train"].T, color=TRAIN, linewidth=1, label="training")
        axis.plot(*drawn["validation"].T, color=VALIDATION, linewidth=1.5, marker=".", label="validation")
        if len(drawn["validation"]):
            step, best = drawn["validation"][drawn["validation"][:, 1].argmin()]
            axis.axhline(best, color=VALIDATION, linewidth=0.5, linestyle=":")
            axis.set_title(f"{title}: best validation {best:.4g} at step {step:.0f}", fontsize=10)
        settled = [value for curve in drawn.values() for step, value in curve if step > 0.05 * curve[-1, 0]]
        if settled and max(settled) > min(settled):  # the first steps would flatten the rest of the curve
            margin = 0.05 * (max(settled) - min(settled))
            axis.set_ylim(min(settled) - margin, max(settled) + margin)
        axis.set(xlabel="step", ylabel=name)
        axis.grid(alpha=0.3)
        axis.legend()
    _write_figure(path, figure)


def plot_codebook_use(path: Path, counts: Tensor) -> None:
    """Number of occurrences of each code, int64 (k,) or (g, k), in descending order on a logarithmic axis."""
    counts = counts.cpu().reshape(-1, counts.shape[-1])
    books, size = counts.shape
    used, effective = (counts > 0).sum(1).double().mean().item(), perplexity(counts).mean().item()
    figure = _new_figure(figsize=(8, 4))
    axis = figure.subplots()
    for book in counts.sort(dim=1, descending=True).values.numpy():
        axis.stairs(book, fill=books == 1, color=TRAIN)
    axis.axhline(counts.sum().item() / counts.numel(), color=VALIDATION, linewidth=1, linestyle="--", label="even use")
    axis.set(xlabel="code, sorted by use", ylabel="occurrences", yscale="log", xlim=(0, size), ylim=(0.5, None))
    axis.set_title(f"{used:.4g} of {size} codes used, perplexity {effective:.1f}"
                   + (f" (means over {books} codebooks)" if books > 1 else ""), fontsize=10)
    axis.legend()
    _write_figure(path, figure)


def plot_plane(path: Path, points: Tensor, box: Tensor, labels: Tensor | None = None,
               names: Sequence[str] = ()) -> None:
    """Points (n, 2) coloured by `labels` (n,), indices of `names`; box (2, 2): two corners of a rectangle."""
    figure = _new_figure(figsize=(7, 6))
    axis = figure.subplots()
    for number, name in enumerate(names if labels is not None else ("",)):
        of_class = points if labels is None else points[labels == number]
        horizontal, vertical = of_class.T.numpy()
        axis.scatter(horizontal, vertical, s=4, color=f"C{number}", label=name, linewidths=0)
    (left, bottom), (right, top) = box.tolist()
    axis.plot([left, right, right, left, left], [bottom, bottom, top, top, bottom], color=str(INK / 255), linewidth=1)
    axis.set(xlabel="latent 1", ylabel="latent 2")
    if labels is not None:
        figure.legend(loc="outside right upper", markerscale=3)
    _write_figure(path, figure)


def _new_figure(figsize: tuple[float, float]) -> "Figure":
    from matplotlib.figure import Figure  # takes half a second to import

    return Figure(figsize=figsize, layout="constrained")


def _write_figure(path: Path, figure: "Figure") -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(Path(path), buffer.getvalue())
