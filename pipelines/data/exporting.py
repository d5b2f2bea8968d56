"""The code data set of a run as token files of any format, with a card of what they are."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.codes import CodeData, read_fields
from pipelines.data.importing import CARD
from pipelines.files.atomic import folder_made_whole, write_atomically
from pipelines.files.errors import InputError
from pipelines.runs.chain import LoadedRun
from pipelines.runs.store import check_same_stage1
from pipelines.splits.describe import printable
from pipelines.tokens import format_of
from pipelines.tokens.base import LOCAL, Format, Label, Layout, Tokens

README = "README.md"
FIELDS = ("codes", "labels", "lengths")  # of a shard; others are local fields
SHOWN_CLASSES = 20


@dataclass(frozen=True)
class ExportedCodes:
    """What was written."""

    folder: Path
    files: dict[str, str]  # of each split
    items: dict[str, int]


def export_codes(loaded: LoadedRun, form: str, out: Path) -> ExportedCodes:
    """Writes each split of the run's codes in the format of that name, README.md and card.json into `out`, which does
    not exist yet. Raises InputError for a run without codes, and for what the format cannot hold."""
    own = format_of(form)
    if out.exists():
        raise InputError(f"output: expected a folder that does not exist yet, found {out}")
    data = CodeData(loaded.run.codes)
    check_same_stage1(data.stage1_hash, loaded.stage1, loaded.run.codes)
    layout = layout_for(loaded, data, own)
    files: dict[str, str] = {}
    out.parent.mkdir(parents=True, exist_ok=True)
    with folder_made_whole(out, "export_codes") as folder:
        for name in data.splits:
            tokens = tokens_of(loaded, data, name, layout)
            files[name] = own.write(folder, name, tokens).name
            fields = {field: list(array.shape[1:]) for field, array in tokens.local.items()}
        items = {name: len(data.split(name)) for name in data.splits}
        facts = described(loaded, data, layout, files, items, fields)
        write_atomically(folder / CARD, (json.dumps(facts, indent=1) + "\n").encode())
        write_atomically(folder / README, card(facts, own).encode())
    return ExportedCodes(out, files, items)


def layout_for(loaded: LoadedRun, data: CodeData, form: Format) -> Layout:
    """Codes lie as they came in, where they were imported; else (n, *grid[, g]) in the smallest type."""
    if loaded.stage1.example.imported:
        known = Layout.from_facts(loaded.stage1.example.facts["tokens"])
        return known if known.format == form.name else replace(known, format=form.name, key=None)
    padded = data.split("train").lengths is not None
    return Layout(form.name, data.manifest.dtype.str, data.shape, data.grid, data.num_codebooks,
                  "last" if data.num_codebooks > 1 else None, None, padded)


def tokens_of(loaded: LoadedRun, data: CodeData, split: str, layout: Layout) -> Tokens:
    """All items of a split, as they are to be written."""
    fields = {name: rows.array(np.arange(len(rows)))
              for name, rows in read_fields(loaded.run.codes, split, data.manifest).items()}
    lengths = fields.get("lengths")
    labels = {name: Label(fields["labels"][:, column], data.classes[column])
              for column, name in enumerate(data.label_names)}
    local = {name: array for name, array in fields.items() if name not in FIELDS}
    return Tokens(layout.to_items(fields["codes"], lengths), layout, lengths, labels, local)


def described(loaded: LoadedRun, data: CodeData, layout: Layout, files: dict[str, str], items: dict[str, int],
              local: dict[str, list[int]]) -> dict[str, Any]:
    """card.json."""
    stage1, manifest = loaded.stage1, data.manifest
    made = ("imported from files of another program" if stage1.example.imported else
            f"{type(stage1.module.bottleneck).__name__} of a stage 1 trained for {stage1.state.step} steps on "
            f"{stage1.example.data}, items {'x'.join(map(str, stage1.example.shape))} ({stage1.example.kind})")
    return {
        "num_codes": data.num_codes, "num_codebooks": data.num_codebooks, "grid": list(data.grid),
        "format": layout.format, "dtype": layout.dtype, "shape": list(layout.shape),
        "codebook_axis": layout.codebook_axis, "padded": layout.padded, "padding": layout.padding,
        "files": files, "items": items, "views": manifest.views, "data": data.name, "made_by": made,
        "stage1_hash": manifest.stage1_hash, "parent_hash": manifest.parent_hash,
        "labels": {name: list(classes) for name, classes in zip(data.label_names, data.classes, strict=True)},
        "local": local,
    }


def card(facts: dict[str, Any], form: Format) -> str:
    """README.md of the files."""
    grid, books = " x ".join(map(str, facts["grid"])), facts["num_codebooks"]
    each = f", {books} codebooks at each position" if books > 1 else ""
    axis = {"first": ", the axis of codebooks first", "last": ", the axis of codebooks last"}.get(
        facts["codebook_axis"], "")
    bits = math.prod(facts["grid"]) * books * math.log2(facts["num_codes"])
    files = ", ".join(f"`{file}` ({facts['items'][name]} items)" for name, file in facts["files"].items())
    lines = [
        "# Discrete codes", "",
        f"Codes of {printable(facts['data'])}: integers from 0 to {facts['num_codes'] - 1} (K = {facts['num_codes']}) "
        f"on a grid of {grid}{each}; {bits:.0f} bits per item at most.", "",
        f"- Files: {files}; format {form.name}, numbers {facts['dtype']}, an item is "
        f"{' x '.join(map(str, facts['shape']))}{axis}.",
        f"- Made by: {printable(facts['made_by'])}. SHA-256 of the stage 1: `{facts['stage1_hash']}`.",
    ]
    if facts["padded"]:
        lines.append("- Items have lengths: how many positions of each are not padding"
                     + ("." if facts["padding"] is None else f", which is {facts['padding']}."))
    for name, classes in facts["labels"].items():
        more = ", ..." if len(classes) > SHOWN_CLASSES else ""
        lines.append(f"- Label {printable(name)}: {printable(', '.join(classes[:SHOWN_CLASSES]))}{more}.")
    for name, shape in facts["local"].items():
        lines.append(f"- Local field `{LOCAL}{name}`, {' x '.join(map(str, shape))} per item: what a model of these "
                     "codes can be conditioned on, position by position.")
    if facts["views"] > 1:
        lines.append(f"- The training items are {facts['views']} views of each example, one after the other: first "
                     "unchanged, then augmented.")
    if facts["labels"] or facts["padded"] or facts["local"]:
        lines.append(f"- Labels, lengths and local fields are {form.others}.")
    python = [*form.lines.splitlines(), "print(len(codes), codes[0])"]
    lines += ["", "## How to read them", "", "```python", *python, "```", "",
              f"`{CARD}` has all of the above as JSON. With the package `neural-discrete-representations`, "
              "`import_codes.py --run NAME --input` THIS FOLDER makes a run of them, for `train_stage2.py run=NAME`."]
    if "imported" not in facts["made_by"]:
        lines.append("New codes of a model of your own become data again by `load(RUN).decode(codes)` with the run "
                     "whose stage 1 has the SHA-256 above.")
    return "\n".join(lines) + "\n"
