"""Logs of a training: metrics.jsonl, TensorBoard, the progress bar."""

import json
import math
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import NoneType
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from pipelines.files.atomic import write_atomically
from pipelines.files.checks import brief, is_integer
from pipelines.files.errors import InputError, naming
from pipelines.files.reading import parse_json, read_file
from pipelines.health.evidence import Facts
from pipelines.health.watch import Watch

FOR_RULES = {"equal values", "z_q nmse", "codebook lag"}  # figures that the progress bar has no room for


def read_metrics(path: Path) -> list[dict]:
    """The rows of a metrics.jsonl, in order: `step`, `split`, and figures, numbers or None. [] where there is none.

    A last line without its end, as a kill leaves it, is left out. Raises InputError that names any other line that is
    no row: what follows it is not dropped in silence."""
    if not (path.exists() or path.is_symlink()):
        return []
    *lines, last = read_file(path, "a log of figures").split(b"\n")
    rows = [_row(line, path, number) for number, line in enumerate(lines, 1)]
    if last:
        with suppress(InputError):
            rows.append(_row(last, path, len(lines) + 1))
    return rows


def _row(line: bytes, path: Path, number: int) -> dict:
    """One line. Raises InputError that says how to go on where it is damaged."""
    source, hint = f"{path}: line {number}", "remove this line to go on without it"
    try:
        row = parse_json(line.decode("utf-8", "replace"), source, "a row of figures")
    except InputError as error:
        raise InputError(f"{error}; {hint}") from None
    figures = [value for key, value in row.items() if key not in ("step", "split")]
    if not (is_integer(row.get("step")) and isinstance(row.get("split"), str)
            and all(type(value) in (int, float, NoneType) for value in figures)):
        raise InputError(f"{source}: expected a row of figures, found {brief(row)}; {hint}")
    return row


class RunLog:
    """Writes rows of figures to metrics.jsonl and TensorBoard, and shows the latest in the progress bar.

    A log that starts at step s > 0 first removes the rows after s: these steps are about to be repeated.
    Ranks other than 0 have an inactive log (`active=False`) that writes nothing.
    """

    def __init__(self, folder: Path, step: int, total_steps: int, title: str, active: bool):
        self.active = active
        if active:
            self._open(folder, step)
        self.bar = tqdm(total=total_steps, initial=step, desc=title, unit="step", disable=not active, mininterval=0.5,
                        dynamic_ncols=True)

    def _open(self, folder: Path, step: int) -> None:
        self.path = folder / "metrics.jsonl"
        kept = [row for row in read_metrics(self.path) if row["step"] <= step]
        write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self.watch = Watch(kept)
        self.file = open(self.path, "a", buffering=1)
        self.tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def figures(self, step: int, split: str, figures: dict[str, float], seconds: float) -> None:
        if not self.active:
            return
        row = {"step": step, "split": split} | {name: round_figure(value) for name, value in figures.items()}
        self.watch.see(row)
        with naming(self.path):
            self.file.write(json.dumps(row | {"seconds": round(seconds, 3)}) + "\n")
        with naming(self.path.with_name("tensorboard")):
            for name, value in figures.items():
                self.tensorboard.add_scalar(f"{name}/{split}", value, step)

    def image(self, step: int, name: str, image: Tensor) -> None:
        """image: uint8 (3, h, w)."""
        self.tensorboard.add_image(name, image, step)

    def audio(self, step: int, name: str, wave: Tensor, sample_rate_hz: int) -> None:
        """wave: (t,) in [-1, 1]."""
        self.tensorboard.add_audio(name, wave, step, sample_rate_hz)

    def show(self, step: int, figures: dict[str, float], items_per_second: float) -> None:
        self.bar.update(step - self.bar.n)
        words = {name: f"{value:.4g}" for name, value in figures.items() if name not in FOR_RULES}
        self.bar.set_postfix(words | {"items/s": f"{items_per_second:.0f}"}, refresh=False)

    def warn(self, facts: Facts, settings: Mapping[str, Any]) -> None:
        """Prints on stderr what the figures say is wrong with the training, each finding once."""
        for finding in self.watch.news(facts, settings) if self.active else ():
            tqdm.write(f"warning: {finding}", file=sys.stderr)

    def close(self) -> None:
        self.bar.close()
        if self.active:
            with naming(self.path):
                self.file.close()
            with naming(self.path.with_name("tensorboard")):
                self.tensorboard.close()


def round_figure(value: float) -> float | None:
    """Seven significant digits, the precision of float32; None for NaN and infinity, which JSON lacks."""
    return float(f"{value:.7g}") if math.isfinite(value) else None
