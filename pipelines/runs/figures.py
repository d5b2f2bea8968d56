"""metrics.json, what evaluate.py measured of a run, read back."""

import json
from typing import Any

from pipelines.files.checks import expect
from pipelines.files.errors import InputError
from pipelines.files.formats import FIGURES, migrated
from pipelines.runs.store import Run


def read_figures(run: Run) -> dict[str, Any]:
    """A run's metrics.json in the present format. Raises InputError where there is none that can be read."""
    path = run.root / "metrics.json"
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: expected the figures of a run that was evaluated, found no such file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON, found {str(error).splitlines()[0]}") from None
    expect(path, "figures", content, isinstance(content, dict), "an object")
    return migrated(content, path, FIGURES)
