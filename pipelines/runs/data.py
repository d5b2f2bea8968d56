"""The data set that a run was trained on, built from the run's own configuration."""

import inspect
import os
from pathlib import Path
from typing import Any

from pipelines.files.errors import InputError
from pipelines.runs import plugins
from pipelines.runs.config import build, check_arguments, find_target
from pipelines.runs.store import Run, TrainedStage, check_same_data
from pipelines.splits.base import Data
from pipelines.splits.describe import describe
from pipelines.training import distributed


def open_data(cfg: Any) -> Data:
    """The data set that a configuration describes; one process prints the line that says what was loaded."""
    data = build(cfg)
    if distributed.rank() == 0:
        print(describe(data), flush=True)
    return data


def load_data(run: Run, stage1: TrainedStage, root: Path | None) -> Data:
    """The data set that a run was trained on, as its configuration states it. `root`: its folder, if it has moved.

    Nothing is downloaded, and nothing is imported because a file says so: only data sets of this project are built.
    Raises InputError for any other, and where names, shapes or classes are not those of training; other files than
    those of training are noted on stderr."""
    path, cfg = run.stage1 / "config.yaml", dict(stage1.config["data"])
    name, home = cfg.pop("_target_", None), os.environ.get("DATA_ROOT", "data")
    target = data_set_class(path, name)
    places = {"root": str(root or cfg.get("root", home)), "cache": str(Path(home) / "cache"), "download": False,
              "run": str(run.root if target.own_run else cfg.get("run", run.published_parent))}
    accepted = inspect.signature(target).parameters
    arguments = build(cfg, trusted_only=True) | {key: place for key, place in places.items() if key in accepted}
    check_arguments(name, target, arguments)
    try:
        data = target(**arguments)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: data: expected the settings of {name}, found others: "
                         f"{(str(error).splitlines() or [type(error).__name__])[0][:120]}") from None
    check_same_data(run, stage1, data, stage1.config["data"], other_data=True)
    return data


def data_set_class(path: Path, name: Any) -> type[Data]:
    """The class of that name, which was read from `path`. Raises InputError unless it is a data set of pipelines.data
    or of a folder that the user named."""
    if not (str(name).startswith("pipelines.data.") or plugins.is_trusted(str(name))):
        raise InputError(f"{path}: data._target_: expected a data set of pipelines.data, found {name!r}")
    target = find_target(name, trusted_only=False)
    if not (isinstance(target, type) and issubclass(target, Data)):
        raise InputError(f"{path}: data._target_: expected a data set, found {name!r}")
    return target
