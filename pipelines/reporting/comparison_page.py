"""The report on several systems side by side: compare.py's table, reconstructions and plots."""

from pathlib import Path

from pipelines.evaluation.comparison import COLUMNS, filled_columns, legend
from pipelines.reporting.html import picture, table, tag
from pipelines.reporting.page import page

TITLES = {"reconstructions": "Reconstructions", "plot": "Plots"}
WORDS = {"reconstructions": "The same held-out images, and below them the reconstructions of each system.",
         "plot": "Figures over the settings that were varied, or over the steps of training."}


def comparison_page(title: str, rows: list[dict], pictures: list[Path]) -> bytes:
    """rows: those of table.json. pictures: PNG files, whose names are keys of TITLES."""
    keys = filled_columns(rows)
    cells = [[own["system"], *(("", "") if own[key] is None else (COLUMNS[key][1].format(**own), own[key])
                               for key in keys)] for own in rows]
    shown = table(["system", *(COLUMNS[key][0] for key in keys)], cells, numbers=range(1, len(keys) + 1))
    how = "A click on a column's title sorts the rows by it, a second one in falling order. Empty: does not apply."
    sections = [("Figures", [tag("p", how), shown, tag("p", legend(rows), class_="soft")])]
    for path in pictures:
        drawn = tag("figure", picture("image/png", path.read_bytes(), TITLES[path.stem]))
        sections.append((TITLES[path.stem], [tag("p", WORDS[path.stem], " A click enlarges."), drawn]))
    return page(f"Comparison: {title}", None, sections)
