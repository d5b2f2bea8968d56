"""Scores: files ranked by how strange the run finds them, with maps of where."""

import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.api import TrainedRun
from pipelines.evaluation.held_out import HeldOut, held_out_scores
from pipelines.evaluation.score_table import RANKS, captions, in_order, rank_values, shares
from pipelines.explorer.items import layout
from pipelines.explorer.page import SUFFIX, Arguments, Context, Page, address, call
from pipelines.files.errors import InputError
from pipelines.generation.scores import score
from pipelines.kinds import check_able, kind_of

MOST = 200  # files of one call: others wait for it
HELD_OUT = 100  # held-out items that percentiles are among
MOST_FOLDERS = 500  # that are listed
TYPES = {".png": "image/png", ".gif": "image/gif"}


class Scores(Page):
    name, title, place = "scores", "Scores", 60

    def why_not(self, run: TrainedRun) -> str | None:
        if run.num_codes is None:
            return "this run has latents without codes, and a score is of codes"
        if run.stage2 is None:
            return "this run has no prior that could say how likely codes are: make stage2 trains one"
        if run._loaded.stage1.example.imported:
            return "this page shows images and sounds; score.py ranks token files"
        try:
            check_able(kind_of(run.kind), "load_files", run.folder)
        except InputError as error:
            return str(error)
        return None

    @call
    def about(self, context: Context, arguments: Arguments) -> dict[str, Any]:
        """What the form offers; folders only where the explorer was given --data-root."""
        return layout(context) | {"ranks": RANKS, "most": MOST, "held_out": HELD_OUT,
                                  "folders": None if context.data_root is None else folders(context.data_root)}

    @call
    def rank(self, context: Context, arguments: Arguments) -> dict[str, Any]:
        """The uploaded "files", or those of a "folder" below --data-root, the strangest first."""
        labels, by = arguments.named_texts("labels"), arguments.choice("rank", list(RANKS), "codes")
        actions = arguments.text("actions", "") or None
        loaded, kind = context.loaded, context.kind
        with tempfile.TemporaryDirectory(prefix="explorer-") as made:
            given, inside = Path(made) / "given", Path(made) / "maps"
            given.mkdir()
            inside.mkdir()
            named = self._files(context, arguments, given)
            paths, items = self._load(context, named)
            found = score(loaded, items.x, items.lengths, labels, 64, kind.local(loaded, actions, len(items.x)))
            found = replace(found, codec_bits=kind.codec_bits(loaded, items.x, items.lengths))
            order = rank_values(found, by).argsort(descending=True, stable=True)
            ordered, numbers = in_order(found, order), order.tolist()
            names = [named[paths[number]] for number in numbers]
            kind.draw_scores(loaded, inside, [str(place) for place in range(len(names))],
                             captions(names, ordered, None), items.rows(order), ordered)
            maps = {int(path.name.partition("-")[0]): path for path in inside.glob("[0-9]*-*")}
            context.session["ranked"] = ordered, by, tuple(sorted({*labels, *loaded.stage1.condition_on}))
            return {"items": [
                {"name": name, "rank": value, "bits_per_code": per_code, "bits_per_dim": per_dim,
                 "map": address(TYPES[maps[place].suffix], maps[place].read_bytes())}
                for place, (name, value, per_code, per_dim) in enumerate(zip(
                    names, rank_values(ordered, by).tolist(), ordered.bits_per_code.tolist(),
                    ordered.bits_per_dim.tolist(), strict=True))],
                "unreadable": [name for path, name in named.items() if path not in paths]}

    @call
    def compare(self, context: Context, arguments: Arguments) -> dict[str, Any]:
        """Of the files that were ranked last, the percentiles among held-out items: "waiting" while these are scored,
        and "why" where they cannot be."""
        if "ranked" not in context.session:
            raise InputError("files: expected some that were ranked, found none: choose them again")
        scores, by, given = context.session["ranked"]
        comparisons: dict[tuple[str, ...], Comparison] = context.shared.setdefault("held-out scores", {})
        if given not in comparisons:
            comparisons[given] = Comparison(context, given)
        known = comparisons[given].found
        if known is None:
            return {"waiting": True}
        if isinstance(known, str):
            return {"why": known}
        percent = shares(scores, known)[by]
        if percent is None:
            return {"why": f"the {known.source} give no {RANKS[by]}"}
        return {"percentiles": percent.tolist(), "among": len(known.code), "split": known.split}

    @staticmethod
    def _files(context: Context, arguments: Arguments, given: Path) -> dict[Path, str]:
        """The files, by their paths, with the names that the user knows them by."""
        uploads = arguments.uploads("files", MOST)
        if uploads:
            named = {}
            for number, upload in enumerate(uploads):
                suffix = Path(upload.name).suffix
                path = given / f"{number:04d}{suffix if SUFFIX.fullmatch(suffix) else ''}"
                path.write_bytes(upload.content)
                named[path] = upload.name
            return named
        if not arguments.has("folder"):
            raise InputError("files: expected files or a folder, found none")
        folder = below(context.data_root, arguments.text("folder"))
        paths = context.kind.find_files(context.loaded, folder)
        if len(paths) > MOST:
            raise InputError(f"folder: expected at most {MOST} files, found {len(paths)}; score.py ranks more: python "
                             f"pipelines/score.py --run {context.run.folder.name} --input FOLDER")
        return {path: path.relative_to(folder).as_posix() for path in paths}

    @staticmethod
    def _load(context: Context, named: dict[Path, str]) -> tuple[list[Path], Any]:
        """The files that can be read. Errors name the user's file."""
        try:
            return context.kind.load_files(context.loaded, list(named))
        except InputError as error:
            words = str(error)
            for path, name in named.items():
                words = words.replace(str(path), name)
            raise InputError(words) from None


class Comparison:
    """Scores of held-out items, computed once for all tabs in a thread of their own: of audio they take minutes, and
    other calls go on meanwhile. Nothing is written into the run's folder."""

    def __init__(self, context: Context, given: tuple[str, ...]):
        self.found: HeldOut | str | None = None  # a text: why there are none
        threading.Thread(target=self._score, args=(context, given), name="held-out scores", daemon=True).start()

    def _score(self, context: Context, given: tuple[str, ...]) -> None:
        try:
            self.found = held_out_scores(
                context.loaded, given, HELD_OUT, context.data_root,
                lambda x, lengths: context.kind.codec_bits(context.loaded, x, lengths), None, 16)
        except (InputError, OSError) as error:
            self.found = " ".join(str(error).split())


def folders(root: Path) -> list[str]:
    """The folders below --data-root, two levels deep, "." for itself; those that begin with a dot are left out."""
    found = ["."]
    for pattern in ("*", "*/*"):
        found += [path.relative_to(root).as_posix() for path in sorted(root.glob(pattern))
                  if path.is_dir() and not any(part.startswith(".") for part in path.relative_to(root).parts)]
    return found[:MOST_FOLDERS]


def below(root: Path | None, name: str) -> Path:
    """A folder below --data-root. Raises InputError for any other place, links out of it included."""
    if root is None:
        raise InputError("folder: expected the explorer to be started with --data-root FOLDER, found it was not")
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()) or not path.is_dir():
        raise InputError(f"folder: expected one below --data-root, found {name[:80]!r}")
    return path
