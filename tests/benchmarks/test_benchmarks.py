"""`make bench` at tiny sizes: each work runs, and its rows have all fields. No time is tested."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.runner import turn

ROOT = Path(__file__).resolve().parents[2]
WORKS = sorted(path.stem for path in (ROOT / "benchmarks" / "works").glob("*.py") if path.stem != "__init__")


def bench(*arguments: str, module: str = "benchmarks") -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300)


class Timed:
    """A contender's process whose runs take the given seconds."""

    def __init__(self, *seconds: float):
        self.seconds = list(seconds)

    def ask(self, _: bool) -> float:
        return self.seconds.pop(0)


@pytest.mark.parametrize(("in_a_row", "seconds", "expected", "left"), [
    (0.0, [5.0, 1.0], 5.0, 1),            # one run a turn
    (0.5, [0.75, 1.0], 0.75, 1),          # a run that long is a turn
    (0.5, [0.25, 0.125, 0.25, 9.0], 0.1875, 1),  # the first, which finds cold caches, does not count
    (0.5, [0.4375, 0.125, 9.0], 0.125, 1),
])
def test_a_turn_is_one_run_or_the_mean_of_those_in_a_row(in_a_row, seconds, expected, left):
    timed = Timed(*seconds)
    assert turn(timed, in_a_row) == expected and len(timed.seconds) == left


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[dict, str, Path]:
    """The JSON file of all works, each at its tiny sizes, what was printed, and the file's path."""
    out = tmp_path_factory.mktemp("bench") / "bench.json"
    result = bench("--quick", "--out", str(out))
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(out.read_text()), result.stdout, out


@pytest.mark.slow
def test_the_machine_is_stated(run):
    machine = run[0]["machine"]
    assert {"cpu", "cores", "threads", "torch", "date", "rates"} <= machine.keys() and machine["threads"] == 1
    assert machine["rates"].keys() == {"float32", "bfloat16", "memory", "cache"}
    assert all(rate > 0 for rate in machine["rates"].values())


@pytest.mark.parametrize("name", WORKS)
@pytest.mark.slow
def test_a_work_has_rows_with_all_fields(run, name):
    rows = [row for row in run[0]["rows"] if row["work"] == name]
    assert rows
    for row in rows:
        contenders = row["contenders"]
        ours = contenders[row["ours"]]
        assert list(contenders)[0] == row["ours"] and not ours["rival"]
        assert ours["median_s"] > 0 and len(ours["times_s"]) >= 1 and ours["fastest_s"] == min(ours["times_s"])
        assert ours["first_s"] > 0 and "peak_mib" in ours
        assert row["floor"]["seconds"] > 0 and row["ratio_to_floor"] > 0
        assert row["label"] and row["title"] and row["device"] == "cpu" and row["threads"] == 1
        for other in contenders.values():
            assert "median_s" in other or other["left_out"]


@pytest.mark.parametrize("name", ["sampling", "transformer_sampling", "video_sampling", "wavenet_generation"])
@pytest.mark.slow
def test_what_is_timed_is_right(run, name):
    """In float32 a draw on a rounding edge of the distribution may differ, in float64 none does."""
    (checks,) = (row["checks"] for row in run[0]["rows"] if row["work"] == name and row["checks"])
    assert [value for check, value in checks.items() if check.endswith("float64")] == [0]


@pytest.mark.slow
def test_rivals_are_the_fastest_that_ran(run):
    for row in run[0]["rows"]:
        times = {name: facts["median_s"] for name, facts in row["contenders"].items()
                 if facts["rival"] and "median_s" in facts}
        assert row["rival"] == (min(times, key=times.get) if times else None)
        if times:
            ours = row["contenders"][row["ours"]]["median_s"]
            assert row["ratio_to_rival"] == pytest.approx(min(times.values()) / ours)


@pytest.mark.slow
def test_the_table_has_a_line_for_each_contender(run):
    lines = run[1].splitlines()
    for row in run[0]["rows"]:
        for name in row["contenders"]:
            assert any(f"  {name}" in line for line in lines), f"{row['work']}: {name}"


@pytest.mark.slow
def test_the_summary_has_a_line_for_each_row(run):
    result = bench(str(run[2]), module="benchmarks.summary")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 2 + len(run[0]["rows"]) and len({line.count("|") for line in lines}) == 1


@pytest.mark.slow
def test_a_curve_has_a_plot_and_its_numbers(tmp_path):
    result = bench("--curves", str(tmp_path), "--quick", "--only", "clip_length")
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "clip_length.png").read_bytes().startswith(b"\x89PNG")
    panels = json.loads((tmp_path / "clip_length.json").read_text())["panels"]
    assert [len(panel["lines"]) for panel in panels] == [2, 2]
    for points in (points for panel in panels for points in panel["lines"].values()):
        assert all(point["seconds"] > 0 and point["floor_s"] > 0 and point["x"] > 0 for point in points)


SLOW = [pytest.param(*flags, marks=pytest.mark.slow) for flags in ([("--only", "nothing")], [("--device", "tpu")])]


@pytest.mark.parametrize("flags", [("--threads", "-1"), ("--quik",), *SLOW])
def test_bad_flags_are_refused_in_one_line(flags):
    result = bench(*flags)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1 and result.stderr.startswith("error: ")
