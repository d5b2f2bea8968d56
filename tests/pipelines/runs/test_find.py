"""Runs by name: a folder, then one under runs/, then a pretrained one."""

import shutil

import pytest

from pipelines.files.errors import InputError
from pipelines.runs import find
from pipelines.runs.find import chosen_run, find_run
from pipelines.runs.store import Run


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Runs in runs/, in pretrained/ and in the present folder, and there a folder that is none."""
    for folder in ("runs/mine", "runs/mnist", "pretrained/mnist", "pretrained/fsdd", "here"):
        (tmp_path / folder / "stage1").mkdir(parents=True)
        (tmp_path / folder / "stage1" / "config.yaml").write_text("")
    (tmp_path / "fsdd").mkdir()
    monkeypatch.setattr(find, "PRETRAINED", tmp_path / "pretrained")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_comes_first_then_runs_then_pretrained(places):
    runs = places / "runs"
    assert find_run(str(runs / "mine"), places / "elsewhere") == Run(runs / "mine")
    assert find_run("here", runs).root.resolve() == places / "here"
    assert find_run("mine", runs) == Run(runs / "mine")
    assert find_run("mnist", runs) == Run(runs / "mnist")
    assert find_run("fsdd", runs) == Run(places / "pretrained" / "fsdd"), "a folder that is no run is passed over"
    shutil.rmtree(runs)
    assert find_run("mnist", runs) == Run(places / "pretrained" / "mnist")


def test_what_there_is_is_listed(places):
    with pytest.raises(InputError, match=r"^run: .*runs: mine, mnist; pretrained: fsdd, mnist.*found 'nosuch'"):
        find_run("nosuch", places / "runs")
    shutil.rmtree(places / "pretrained")
    with pytest.raises(InputError, match="there are none yet"):
        find_run("nosuch", places / "elsewhere")


def test_without_a_name_it_is_pretrained_mnist_where_nothing_was_trained(places):
    assert chosen_run(None, places / "runs") == Run(places / "pretrained" / "mnist")
    assert chosen_run("mine", places / "runs") == Run(places / "runs" / "mine")
    shutil.rmtree(places / "pretrained")
    with pytest.raises(InputError, match="^run: expected a trained one, found no stage 2 in"):
        chosen_run(None, places / "runs")
