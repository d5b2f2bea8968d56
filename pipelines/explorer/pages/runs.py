"""All runs side by side: figures, curves over each other, pictures, use of the codebook, and what the doctor finds."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.api import load
from pipelines.data.codes import CodeData
from pipelines.data.manifest import MANIFEST
from pipelines.evaluation.checkup import code_use, command
from pipelines.explorer.page import Arguments, Context, Page, address, call
from pipelines.files.errors import InputError
from pipelines.files.places import pretrained
from pipelines.runs.listing import Listed, age_in_words, list_runs, listed, size_in_words
from pipelines.runs.store import Run, stage1_hash
from pipelines.training.log import read_metrics
from stage1_vqvae.bottlenecks.base import Quantizer
from stage1_vqvae.codebook import perplexity

MOST_RUNS = 12  # whose curves are drawn over each other
POINTS = 600  # of a curve
MOST_PICTURES, MOST_BYTES = 200, 16 * 2**20  # of a run, and of one picture
BARS = 512  # codes of a codebook that are drawn; of larger ones evenly spaced


class Runs(Page):
    name, title, place = "runs", "Runs", 70

    @call
    def table(self, context: Context, arguments: Arguments) -> dict[str, Any]:
        """A row for each run of the folder of runs, the newest first; then the run that is explored, if it is
        elsewhere, and the pretrained ones."""
        now, rows = time.time(), []
        for name, row in self._listed(context).items():
            rows.append({"name": name, "kind": row.kind, "data": row.data, "age": age_in_words(now - row.modified),
                         "stage1": row.stage1, "stage2": row.stage2, "figures": row.figures,
                         "size": size_in_words(row.size), "damage": row.damage,
                         "open": row.run.root.resolve() == context.run.folder.resolve()})
        return {"rows": rows, "folder": str(context.runs_dir)}

    @call
    def curves(self, context: Context, arguments: Arguments) -> dict[str, Any]:
        """The figures of metrics.jsonl of some runs, by stage: points (step, value) of each split."""
        found: dict[str, Any] = {}
        for name in arguments.texts("runs", MOST_RUNS):
            run = self._run(context, name)
            stages = {stage.name: series(read_metrics(stage / "metrics.jsonl")) for stage in (run.stage1, run.stage2)}
            found[name] = {stage: own for stage, own in stages.items() if own}
        return found

    @call
    def pictures(self, context: Context, arguments: Arguments) -> list[str]:
        """The images that verbs have written into a run."""
        return [path.as_posix() for path in self._pictures(self._run(context, arguments.text("run")))]

    @call
    def picture(self, context: Context, arguments: Arguments) -> str:
        """One of them."""
        run, wanted = self._run(context, arguments.text("run")), arguments.text("file", most=500)
        found = {path.as_posix(): path for path in self._pictures(run)}
        if wanted not in found:
            raise InputError(f"file: expected one of the run's images, found {wanted[:80]!r}")
        path = run.root / found[wanted]
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{wanted}: expected at most {size_in_words(MOST_BYTES)}, found more")
        return address("image/gif" if path.suffix == ".gif" else "image/png", path.read_bytes())

    @call
    def doctor(self, context: Context, arguments: Arguments) -> dict[str, Any]:
        """What the doctor finds in a run."""
        run = self._run(context, arguments.text("run"))
        checkup = load(run.root, "cpu").checkup()
        return {"looked_at": checkup.looked_at, "findings": [
            {"rule": own.rule, "stage": own.stage.replace("stage", "stage "), "evidence": own.evidence,
             "meaning": own.meaning, "advice": own.advice,
             "command": command(own.changes[0], run.root.name) if own.changes else None} for own in checkup.findings]}

    @call
    def codebook(self, context: Context, arguments: Arguments) -> dict[str, Any]:
        """How often each code of a run is used, in descending order, and what was counted."""
        trained = load(self._run(context, arguments.text("run")).root, "cpu")
        counts, words = use(trained.folder, trained.stage1, stage1_hash(trained._loaded.stage1))
        if counts is None:
            return {"words": words, "books": []}
        books = []
        for book in counts.double().sort(1, descending=True).values:
            places = torch.linspace(0, len(book) - 1, min(BARS, len(book))).round().long()
            books.append({"shares": (book[places] / book.sum()).tolist(), "used": int((book > 0).sum()),
                          "num_codes": len(book), "perplexity": float(perplexity(book))})
        return {"words": words, "books": books}

    def _listed(self, context: Context) -> dict[str, Listed]:
        rows = {row.run.root.name: row for row in list_runs(context.runs_dir)}
        seen = {row.run.root.resolve() for row in rows.values()}
        for folder in [context.run.folder, *sorted(path for path in pretrained().glob("*") if path.is_dir())]:
            if folder.resolve() not in seen:
                seen.add(folder.resolve())
                name = folder.name if folder.name not in rows else f"{folder.parent.name}/{folder.name}"
                rows[name] = listed(Run(folder))
        return rows

    def _run(self, context: Context, name: str) -> Run:
        """The run of a name of the list: no other folder can be named."""
        rows = self._listed(context)
        if name not in rows:
            raise InputError(f"run: expected one of the list, found {name[:80]!r}")
        return rows[name].run

    @staticmethod
    def _pictures(run: Run) -> list[Path]:
        """Images below a run, relative to it, in their places in fact: links lead nowhere."""
        root, found = run.root.resolve(), []
        for path in sorted(run.root.glob("**/*")):
            if path.suffix in (".png", ".gif") and path.is_file() and path.resolve().is_relative_to(root):
                found.append(path.relative_to(run.root))
        overviews = [path for path in found if not path.stem[:1].isdigit()]
        return [*overviews, *(path for path in found if path not in overviews)][:MOST_PICTURES]


def series(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows of a log -> {figure: {split: points (step, value)}}, thinned to POINTS."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        for figure, value in row.items():
            if figure not in ("step", "split", "seconds") and value is not None:
                found.setdefault(figure, {}).setdefault(row["split"], []).append((row["step"], value))
    for splits in found.values():
        for split, points in splits.items():
            if len(points) > POINTS:
                splits[split] = [points[number * (len(points) - 1) // (POINTS - 1)] for number in range(POINTS)]
    return found


def use(folder: Path, stage1: Any, digest: str) -> tuple[Tensor | None, str]:
    """How often each code occurs (g, k), and where it was counted; or None, and why."""
    if not isinstance(stage1.bottleneck, Quantizer):
        return None, f"latents without codes: {type(stage1.bottleneck).__name__}"
    if (folder / "codes" / MANIFEST).exists():
        return code_use(CodeData(folder / "codes"), digest).counts, "counted in the extracted training codes"
    if (counts := getattr(stage1.bottleneck, "counts", None)) is not None:
        return counts.cpu(), "moving averages of the last training steps: the run has no extracted codes"
    return None, "the run has no extracted codes: make extract-codes writes them"
