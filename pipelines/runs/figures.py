"""metrics.json, what evaluate.py measured of a run, read back."""

from typing import Any

from pipelines.files.formats import FIGURES, migrated
from pipelines.files.reading import read_json
from pipelines.runs.store import Run


def read_figures(run: Run) -> dict[str, Any]:
    """A run's metrics.json in the present format. Raises InputError where there is none that can be read."""
    path = run.root / "metrics.json"
    return migrated(read_json(path, "the figures of a run that was evaluated"), path, FIGURES)
