"""All runs of a folder, each in one row: what it was trained on, for how long, how well, and its size on the disk."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipelines.files.errors import InputError
from pipelines.files.formats import CONFIG, format_of, migrated
from pipelines.runs.config import read_config
from pipelines.runs.example import Example
from pipelines.runs.figures import read_figures
from pipelines.runs.store import Run
from pipelines.training.checkpoint import find_checkpoint, read_state

FIGURES = {  # keys of metrics.json that a row shows, the first two of those that are there
    "bits_per_dim.total_prior": "bits/dim, prior", "bits_per_dim.total_uniform": "bits/dim",
    "bits_per_dim.total_normal": "bits/dim", "psnr_db": "PSNR dB", "log_spectral_distance_db": "LSD dB", "nmse": "NMSE",
}
SHOWN_FIGURES = 2
COLUMNS = ("run", "kind", "data", "age", "stage 1", "stage 2", "figures", "disk", "format")


@dataclass(frozen=True)
class Listed:
    """A row of the table."""

    run: Run
    modified: float  # when a stage last wrote a checkpoint, or was begun, in seconds since 1970
    size: int  # bytes on the disk
    kind: str = ""
    data: str = ""
    stage1: str = ""  # the step of the newest checkpoint; "-": none yet
    stage2: str = ""
    figures: str = ""
    format: str = ""
    damage: str | None = None  # in one line, where the run cannot be read


def list_runs(folder: Path) -> list[Listed]:
    """The runs in a folder, the newest first. One that is damaged is a row that says so."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of runs, found a file")
    rows = [listed(Run(path)) for path in sorted(folder.glob("*")) if is_begun(path)]
    return sorted(rows, key=lambda row: -row.modified)


def is_begun(folder: Path) -> bool:
    """Whether there is a folder of a stage, whatever its state: a run without its config.yaml is listed too."""
    return any((folder / stage).is_dir() for stage in ("stage1", "stage2", "codes"))


def listed(run: Run) -> Listed:
    """A row of the table. Reads no weights."""
    modified, size = last_written(run), disk_use(run.root)
    try:
        path = run.stage1 / "config.yaml"
        saved = read_config(path)
        example = Example.from_config(migrated(saved, path, CONFIG), path)
        return Listed(run, modified, size, example.kind, example.data, step(run.stage1), step(run.stage2),
                      figures_in_words(run), str(format_of(saved, path, CONFIG)))
    except (InputError, OSError) as error:
        return Listed(run, modified, size, damage=" ".join(str(error).split()))


def step(stage: Path) -> str:
    """The step of a stage's newest checkpoint; of a published run, which has one, that of its best."""
    if not stage.is_dir():
        return "-"
    found = find_checkpoint(stage) or find_checkpoint(stage, "best")
    return "-" if found is None else str(read_state(found).step)


def figures_in_words(run: Run) -> str:
    """"bits/dim, prior 1.234, PSNR dB 21.5"; "" for a run that was not evaluated."""
    if not (run.root / "metrics.json").is_file():
        return ""
    content, words, titles = read_figures(run), [], set()
    for key, title in FIGURES.items():
        value: Any = content
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, int | float) and not isinstance(value, bool) and title.split(",")[0] not in titles:
            titles.add(title.split(",")[0])
            words.append(f"{title} {value:.4g}")
    return "; ".join(words[:SHOWN_FIGURES])


def last_written(run: Run) -> float:
    """When a checkpoint was last written; before the first, when the run was begun."""
    stages = (run.stage1, run.stage2)
    for paths in ([stage / "checkpoints" / "latest" for stage in stages], [stage / "config.yaml" for stage in stages],
                  [run.root]):
        if there := [path.stat().st_mtime for path in paths if path.exists()]:
            return max(there)
    return 0.0


def files_of(folder: Path) -> Iterator[os.DirEntry]:
    """Every file below a folder; links are not followed, and what cannot be read is left out."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from files_of(Path(entry.path))
        else:
            yield entry


def disk_use(folder: Path) -> int:
    """Bytes of all files below a folder."""
    total = 0
    for entry in files_of(folder):
        try:
            total += entry.stat(follow_symlinks=False).st_size
        except OSError:  # a temporary file of a training that goes on
            continue
    return total


def remove_run(row: Listed, runs_dir: Path) -> None:
    """Removes a run's folder. Raises InputError for one that is not a folder right in `runs_dir`, or that is in use."""
    root = row.run.root
    if root.is_symlink() or root.resolve().parent != runs_dir.resolve():
        raise InputError(f"remove: expected the name of a run in {runs_dir}, found {root}")
    with ExitStack() as held:
        for path in sorted(Path(entry.path) for entry in files_of(root) if entry.name.endswith(".lock")):
            try:
                held.enter_context(FileLock(path, timeout=0))
            except Timeout:
                raise InputError(f"remove: expected a run that no process uses, found {root.name}, whose {path.name} "
                                 "is held") from None
        doomed = root.with_name(f".{root.name}.{os.getpid()}.removed")
        os.rename(root, doomed)  # gone at once for every other command, however long its files take
        shutil.rmtree(doomed)


def table(rows: list[Listed]) -> str:
    """Aligned columns, a line for each run; a damaged one says what is wrong with it."""
    now = time.time()
    lines = [COLUMNS]
    for row in rows:
        start, end = (row.run.root.name,), (size_in_words(row.size), row.format)
        age = age_in_words(now - row.modified)
        lines.append((*start, row.kind, row.data, age, row.stage1, row.stage2, row.figures, *end) if row.damage is None
                     else (*start, "damaged", "", age, "", "", "", *end))
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    notes = [f"damaged: {row.damage}" for row in rows if row.damage is not None]
    return "\n".join([*shown, *(["", *notes] if notes else [])])


def age_in_words(seconds: float) -> str:
    """12 s, 5 min, 3 h, 9 d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def size_in_words(size: float) -> str:
    """900 B, 1.2 kB, 34 MB."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} {units[0]}" if size >= 10 or units[0] == "B" else f"{size:.1f} {units[0]}"
