"""The table of RESULTS.md from the JSON files of `make bench`: one line per work and sizes.

    python -m benchmarks.summary bench.json
"""

import json
import sys
from pathlib import Path

from benchmarks.report import duration, number
from benchmarks.runner import Row

HEADINGS = "| work | sizes | time | times the floor | compared with | its time / ours | peak MiB |"

FORWARD = ("one forward pass", "one forward pass, PyTorch's own layers", "one forward pass, all frames")


def main() -> None:
    print(HEADINGS, "| --- | --- | --- | --- | --- | --- | --- |", sep="\n")
    for name in sys.argv[1:]:
        for row in json.loads(Path(name).read_text())["rows"]:
            print(summary(row))


def summary(row: Row) -> str:
    """Compared with the fastest rival and, where something is sampled, with forward passes over it."""
    ours = row["contenders"][row["ours"]]
    timed = {name: facts for name, facts in row["contenders"].items() if name != row["ours"] and "median_s" in facts}
    chosen = [row["rival"]] if row["rival"] else []
    chosen += [name for name in timed if name in FORWARD]
    compared = ", ".join(f"{name}" + " (estimated)" * ("estimated" in timed[name]) for name in chosen)
    ratios = ", ".join(number(timed[name]["median_s"] / ours["median_s"]) for name in chosen)
    speed = f" ({1 / ours['median_s']:,.0f} {row['unit']}s/s)" if row["unit"] else ""
    peak = "" if ours.get("peak_mib") is None else f"{ours['peak_mib']:,.0f}"
    time, floor = duration(ours["median_s"]) + speed, number(row["ratio_to_floor"])
    return f"| {row['title']} | {row['label']} | {time} | {floor} | {compared} | {ratios} | {peak} |"


if __name__ == "__main__":
    main()
