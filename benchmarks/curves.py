"""Cost curves: time over image size, number of codes, layers, batch and clip length, each beside its floor, as plots.

Every line is a work of works/ with one of its sizes varied, the project's own contender alone.
"""

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.machine import Rates, facts, rates
from benchmarks.report import machine_lines
from benchmarks.runner import Row, compare, in_child, measure
from benchmarks.work import Sizes

BUDGET = 2.0  # seconds of timed rounds per point


@dataclass(frozen=True)
class Line:
    """A work whose sizes are a function of the varied number x."""

    name: str
    work: str
    sizes: Callable[[int], Sizes]
    values: tuple[int, ...]


@dataclass(frozen=True)
class Panel:
    x: str
    lines: tuple[Line, ...]


PRIOR = {"layers": 15, "p": 64, "k": 512}
WAVENET = {"layers": 40, "k": 256}
VIDEO = {"grid": 16, "layers": 12, "temporal": 6, "p": 64, "k": 512}
SIDES, CODES, LAYERS = (16, 32, 64, 128), (64, 256, 1024, 4096, 16_384), (5, 10, 20, 40)
BATCHES, LENGTHS, FRAMES = (1, 4, 16, 64, 256), (256, 1024, 4096, 16_384), (2, 4, 8, 16)

# file name -> panels
CURVES: dict[str, tuple[Panel, ...]] = {
    "image_size": (Panel("side of the images, pixels (4 per code)", (
        Line("stage-1 training step, 32 images", "stage1_step",
             lambda x: {"batch": 32, "size": x, "network": "compact", "k": 512}, SIDES),
        Line("extraction, per image", "extraction", lambda x: {"count": 256, "size": x, "k": 512}, SIDES),
        Line("stage-2 training step, 16 grids", "stage2_step", lambda x: PRIOR | {"batch": 16, "grid": x // 4}, SIDES),
        Line("sampling, 16 grids", "sampling", lambda x: PRIOR | {"batch": 16, "grid": x // 4}, SIDES),
    )),),
    "num_codes": (Panel("number of codes K", (
        Line("quantiser, training step, 32,768 vectors", "quantizer", lambda x: {"n": 32_768, "k": x, "d": 64}, CODES),
        Line("stage-2 training step, 16 grids of 16x16", "stage2_step",
             lambda x: PRIOR | {"batch": 16, "grid": 16, "k": x}, CODES),
        Line("sampling, 16 grids of 16x16", "sampling", lambda x: PRIOR | {"batch": 16, "grid": 16, "k": x}, CODES),
    )),),
    "num_layers": (Panel("number of layers", (
        Line("stage-2 training step, 16 grids of 16x16", "stage2_step",
             lambda x: PRIOR | {"batch": 16, "grid": 16, "layers": x}, LAYERS),
        Line("sampling, 16 grids of 16x16", "sampling",
             lambda x: PRIOR | {"batch": 16, "grid": 16, "layers": x}, LAYERS),
        Line("WaveNet training step, 4 clips of 2,048", "wavenet_step",
             lambda x: WAVENET | {"batch": 4, "length": 2048, "layers": x}, LAYERS),
        Line("WaveNet generation, per position, 16 clips", "wavenet_generation",
             lambda x: WAVENET | {"batch": 16, "length": 1024, "local": 0, "layers": x}, LAYERS),
    )),),
    "batch": (Panel("batch size", (
        Line("stage-1 training step, 32x32 pixels", "stage1_step",
             lambda x: {"batch": x, "size": 32, "network": "compact", "k": 512}, BATCHES),
        Line("stage-2 training step, 16x16 codes", "stage2_step", lambda x: PRIOR | {"batch": x, "grid": 16}, BATCHES),
        Line("sampling, 16x16 codes", "sampling", lambda x: PRIOR | {"batch": x, "grid": 16}, BATCHES),
        Line("WaveNet generation, per position", "wavenet_generation",
             lambda x: WAVENET | {"batch": x, "length": 512, "local": 0}, BATCHES),
    )),),
    "clip_length": (
        Panel("positions of a clip", (
            Line("WaveNet training step, 4 clips", "wavenet_step", lambda x: WAVENET | {"batch": 4, "length": x},
                 LENGTHS),
            Line("WaveNet generation, per position, 4 clips", "wavenet_generation",
                 lambda x: WAVENET | {"batch": 4, "length": x, "local": 0}, LENGTHS),
        )),
        Panel("frames of a clip", (
            Line("video prior, training step, 2 clips of 16x16", "video_step",
                 lambda x: VIDEO | {"batch": 2, "frames": x}, FRAMES),
            Line("video sampling, 2 clips of 16x16, all frames after 1", "video_sampling",
                 lambda x: VIDEO | {"batch": 2, "frames": x - 1, "context": 1}, FRAMES),
        )),
    ),
}


def draw(folder: Path, names: list[str], device: str, quick: bool) -> None:
    """FOLDER/NAME.png and .json for each of the names of `CURVES`. quick: one point per line."""
    machine = in_child(lambda: facts(device) | {"rates": rates(device, quick)})
    folder.mkdir(parents=True, exist_ok=True)
    print(machine_lines(machine))
    for name in names:
        panels = CURVES[name]
        measured = [{line.name: points(line, device, quick, machine["rates"]) for line in panel.lines}
                    for panel in panels]
        (folder / f"{name}.png").write_bytes(plot(panels, measured))
        numbers: dict[str, Any] = {
            "machine": machine,
            "panels": [{"x": panel.x, "lines": lines} for panel, lines in zip(panels, measured)]}
        (folder / f"{name}.json").write_text(json.dumps(numbers, indent=1) + "\n")
        print(folder / f"{name}.png", folder / f"{name}.json")


def points(line: Line, device: str, quick: bool, machine_rates: Rates) -> list[Row]:
    """x, seconds and those of the floor for each value, with all runs."""
    found = []
    for x in line.values[: 1 if quick else None]:
        row = measure(line.work, line.sizes(x), device, 0.0 if quick else BUDGET, first_only=True)
        row = compare(row, machine_rates)
        ours = row["contenders"][row["ours"]]
        found.append({"x": x, "label": row["label"], "seconds": ours["median_s"], "times_s": ours["times_s"],
                      "floor_s": row["floor"]["seconds"], "peak_mib": ours["peak_mib"]})
        print(f"{line.name}, {x:,}: {ours['median_s']:.3g} s", file=sys.stderr, flush=True)
    return found


def plot(panels: tuple[Panel, ...], measured: list[dict[str, list[Row]]]) -> bytes:
    """A PNG: measured times as lines with dots, floors dashed in the same colour, both axes logarithmic."""
    figure = Figure(figsize=(6.5 * len(panels), 4.5), layout="constrained")
    for axis, panel, lines in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, measured):
        for number, (name, rows) in enumerate(lines.items()):
            x = [row["x"] for row in rows]
            axis.plot(x, [row["seconds"] for row in rows], color=f"C{number}", marker=".", label=name)
            axis.plot(x, [row["floor_s"] for row in rows], color=f"C{number}", linestyle="--", linewidth=1)
        values = sorted({row["x"] for rows in lines.values() for row in rows})
        axis.set(xlabel=panel.x, ylabel="seconds (dashed: floor)", xscale="log", yscale="log")
        axis.set_xticks(values, [f"{value:,}" for value in values])
        axis.set_xticks([], minor=True)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return buffer.getvalue()
