"""Runs by their names: on a hub, a folder, under runs/, or one of the pretrained runs that come with the project."""

from pathlib import Path

from pipelines.files.errors import InputError
from pipelines.files.places import pretrained
from pipelines.runs.hub import download, is_hub_name
from pipelines.runs.store import Run
from pipelines.training.checkpoint import follow, read_state

PRETRAINED = pretrained()


def find_run(name: Path | str, runs_dir: Path) -> Run:
    """The run in the folder `name`, else the one of that name under `runs_dir`, else the pretrained one; of a name
    hf://OWNER/NAME[@REVISION] the one on the hub, and no other name makes a request.

    Raises InputError that lists what there is."""
    if is_hub_name(name):
        folder = download(str(name))
        if not is_run(folder):
            raise InputError(f"run: expected a run on the hub, found none of its files in {name}")
        return Run(folder)
    for folder in (Path(name), runs_dir / name, PRETRAINED / name):
        if is_run(folder):
            return Run(folder)
    places = {f"in {runs_dir}": run_names(runs_dir), "pretrained": run_names(PRETRAINED)}
    there = "; ".join(f"{place}: {', '.join(names)}" for place, names in places.items() if names)
    raise InputError(f"run: expected the folder of a run or the name of one ({there or 'there are none yet'}), found "
                     f"{str(name)!r}; to train one: make stage1, make extract-codes, make stage2")


def chosen_run(name: Path | str | None, runs_dir: Path) -> Run:
    """The run that is named; else the one whose stage 2 was trained last, as its state says; else the pretrained
    mnist."""
    if name is not None:
        return find_run(name, runs_dir)
    trained = []
    for pointer in sorted(runs_dir.glob("*/stage2/checkpoints/best")):
        state = follow(pointer.parent.parent, "best", read_state)
        if state is not None:
            trained.append((state.trained_at or "", pointer.parents[2]))
    if trained:
        return Run(max(trained)[1])
    if is_run(PRETRAINED / "mnist"):
        return Run(PRETRAINED / "mnist")
    raise InputError(f"run: expected a trained one, found no stage 2 in {runs_dir}; train one: make demo")


def is_run(folder: Path) -> bool:
    """Whether a stage was begun in this folder."""
    return any((folder / stage / "config.yaml").is_file() for stage in ("stage1", "stage2"))


def run_names(folder: Path) -> list[str]:
    """The names of the runs in a folder, sorted."""
    return sorted(path.name for path in folder.glob("*") if is_run(path))
