"""The nearest training items of samples: whether the prior draws new items or copies what it was trained on."""

from types import ModuleType

import torch
from torch import Tensor

from pipelines.evaluation.held_out import split_codes
from pipelines.metrics.nearest import code_distances, code_rows, feature_distances
from pipelines.reporting.html import Html, join, tag
from pipelines.reporting.subject import (
    LeftOut,
    Reported,
    first_items,
    kept_picture,
    not_all,
    shown,
    within_budget,
)
from pipelines.splits.base import Data, Split
from pipelines.splits.order import spread

TITLE, ORDER = "Nearest training items", 60

QUERIES = 8  # samples
MOST = 2**33  # products of features, or comparisons of codes: seconds on one core
BLOCK = 256  # items whose features are in memory at once


def section(reported: Reported) -> Html:
    samples, kind = reported.samples, reported.kind.evaluation
    verdict = tag("p", copies_in_words(reported))
    try:
        data = reported.shown_data
    except LeftOut:
        if kept := kept_picture(reported.run.figures / "nearest.png", "samples and their nearest training items"):
            return join(verdict, tag("p", "Drawn by evaluate.py; the data are not at hand now."), kept)
        raise
    if not hasattr(kind, "features"):
        raise LeftOut(f"items of the kind {reported.kind.name} are not compared")
    count = min(QUERIES, len(samples.x))
    x, lengths = samples.x[:count], None if samples.lengths is None else samples.lengths[:count]
    train = data.split("train")
    space, unit = kind.FEATURES
    columns = [("sample", first_items(reported, x, lengths), [None] * count)]
    numbers, distances, compared = by_features(x, lengths, train, data, kind)
    columns.append((f"nearest by {space}", *items(reported, train, numbers, distances, "{:.3f}")))
    notes = [f"Nearest by {space}: root mean square difference{unit}, of {compared:,} among {len(train):,} "
             "training items."]
    if (found := reported.codes) is not None and samples.codes is not None:
        split = found.split("train")
        numbers, distances, compared = by_codes(reported, samples.codes[:count], lengths, split, found.manifest.views)
        columns.append(("nearest by codes", *items(reported, train, numbers, distances, "{:.0%} differ")))
        notes.append(f"Nearest by codes: of {compared:,} training items.")
    groups = [[medium for _, media, _ in columns for medium in media[row]] for row in range(count)]
    kept = within_budget(groups)
    rows = [tag("figure", tag("div", [shown(media[row], f"{title} {row}", join(title, caption(words[row])))
                                      for title, media, words in columns], class_="side")) for row in range(kept)]
    return join(verdict, tag("p", " ".join(notes), not_all(kept, count), class_="soft"),
                tag("div", rows, class_="items"))


def caption(words: str | None) -> Html | None:
    return None if words is None else join(tag("br"), words)


def copies_in_words(reported: Reported) -> str:
    """What evaluate.py found of all its samples."""
    copies = (reported.figures or {}).get("copies")
    space = next(((name, copies[key]) for key, name in (("data", "in data space"), ("codes", "by codes"))
                  if copies and copies.get(key)), None)
    if space is None:
        return "Whether samples are copies was not measured; make evaluate does so."
    name, own = space
    excess = (own["share"] - own["expected"]) / own["standard_error"] if own["standard_error"] else 0.0
    verdict = "no sign of copying" if excess < 2 else "more than chance: samples lean towards training items"
    return (f"Of {copies['num_samples']} samples, {own['share']:.1%} lie nearer to a training item than to any "
            f"held-out one, {name}; without copying it would be {own['expected']:.1%} ± {own['standard_error']:.1%}: "
            f"{verdict}.")


def by_features(x: Tensor, lengths: Tensor | None, train: Split, data: Data, kind: ModuleType
                ) -> tuple[Tensor, Tensor, int]:
    """The number of the nearest training item of each (n,), its distance (n,), and how many were compared."""
    queries = kind.features(x, lengths, data)
    compared = spread(max(1, MOST // queries.numel()), len(train))
    blocks = []
    for part in compared.split(BLOCK):
        batch = train.batch(part)
        blocks.append(feature_distances(queries, kind.features(batch.x, batch.lengths, data)))
    distances, places = torch.cat(blocks, 1).min(1)
    return compared[places], distances, len(compared)


def by_codes(reported: Reported, codes: Tensor, lengths: Tensor | None, train: Split, views: int
             ) -> tuple[Tensor, Tensor, int]:
    """The same by the share of codes that differ."""
    whole = len(train) // views  # the first view: as the data are
    compared = spread(max(1, MOST // codes.numel()), whole)
    stage1 = reported.loaded.stage1
    hop = stage1.example.shape[-1] // stage1.grid[0]
    own = code_rows(codes, None if lengths is None else -(-lengths // hop))
    found = torch.cat(list(code_distances(own, code_rows(*split_codes(train, compared)))))
    distances, places = found.min(1)
    return compared[places], distances, len(compared)


def items(reported: Reported, train: Split, numbers: Tensor, distances: Tensor, form: str) -> tuple[list, list[str]]:
    """The media of training items, and their distances in words."""
    batch = train.batch(numbers)
    return first_items(reported, batch.x, batch.lengths), [form.format(own) for own in distances.tolist()]
