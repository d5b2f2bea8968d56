"""The table of runs, damaged ones among them, and the removal of one."""

import io
import json
import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from pipelines import list_runs
from pipelines.files.errors import InputError
from pipelines.runs.listing import age_in_words, disk_use, size_in_words

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FORMAT = "format1"  # of the project, with both stages and codes


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """`runs/` with a whole run, a damaged one, and a folder that is no run, in the present folder."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("old", "damaged", "new")):
        shutil.copytree(GOLDEN / FORMAT, tmp_path / "runs" / name)
        for path in (tmp_path / "runs" / name).rglob("*"):
            os.utime(path, (1e9 + number, 1e9 + number))
    (tmp_path / "runs" / "damaged" / "stage1" / "config.yaml").write_text("- 1\n")
    (tmp_path / "runs" / "notes").mkdir()
    return tmp_path / "runs"


def call(*words: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["list_runs", *words])
        list_runs.main(list_runs.parse_arguments())


def test_the_newest_comes_first_and_a_damaged_one_says_what_is_wrong(runs, capsys):
    call()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["run", "kind", "data"]
    assert sorted(line.split()[0] for line in lines[1:4]) == ["damaged", "new", "old"]
    assert lines.index(next(line for line in lines if line.startswith("new"))) < lines.index(
        next(line for line in lines if line.startswith("old")))
    row = next(line for line in lines if line.startswith("new"))
    assert "image" in row and FORMAT.removeprefix("format") in row.split()[-1]
    assert ("damaged: runs/damaged/stage1/config.yaml: expected the configuration of a trained stage, a mapping, "
            "found a list") in lines[-1]
    assert not any("notes" in line for line in lines)


def test_main_figures_are_shown(runs, capsys):
    figures = {"format": 2, "bits_per_dim": {"total_prior": 1.2345, "total_uniform": 2.0}, "psnr_db": 21.5, "nmse": 0.1}
    (runs / "new" / "metrics.json").write_text(json.dumps(figures))
    call()
    assert "bits/dim, prior 1.234; PSNR dB 21.5" in capsys.readouterr().out.replace("1.235", "1.234")


def test_one_is_removed_after_asking(runs, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    call("--remove", "old")
    assert (runs / "old").is_dir() and "kept" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    call("--remove", "old")
    call("--remove", "damaged", "--yes")
    assert sorted(path.name for path in runs.iterdir()) == ["new", "notes"]


@pytest.mark.parametrize("name", ["../elsewhere", "notes", "", ".", "nosuch", "new/stage1", "linked"])
def test_nothing_else_is_removed(name, runs):
    shutil.copytree(runs / "new", runs.parent / "elsewhere")
    (runs / "linked").symlink_to(runs.parent / "elsewhere")
    before = sorted(runs.parent.rglob("*"))
    with pytest.raises(InputError, match="^-?-?remove: expected"):
        call("--remove", name, "--yes")
    assert sorted(runs.parent.rglob("*")) == before


def test_a_run_in_use_is_not_removed(runs):
    lock = runs / "new" / "stage1" / ".lock"
    with FileLock(lock), pytest.raises(InputError, match="expected a run that no process uses, found new"):
        call("--remove", "new", "--yes")
    call("--remove", "new", "--yes")
    assert not (runs / "new").exists()


def test_without_runs_it_says_how_to_get_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    call()
    assert capsys.readouterr().out == "no runs in runs; train one: make demo\n"


def test_words_for_ages_and_sizes(tmp_path):
    assert [age_in_words(seconds) for seconds in (-5, 59, 60, 7200, 86400 * 400)] == [
        "0 s", "59 s", "1 min", "2 h", "400 d"]
    assert [size_in_words(size) for size in (0, 999, 1000, 12345, 3.4e9, 5e13)] == [
        "0 B", "999 B", "1.0 kB", "12 kB", "3.4 GB", "50 TB"]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"1234")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert disk_use(tmp_path) == 4 + (tmp_path / "loop").lstat().st_size
