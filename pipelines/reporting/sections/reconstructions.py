"""Held-out items beside their reconstructions: what the codes keep, and what they lose."""

from pipelines.generation.reconstruction import reconstruct
from pipelines.reporting.html import Html, join, tag
from pipelines.reporting.subject import (
    LeftOut,
    Reported,
    classes_in_words,
    first_items,
    kept_picture,
    not_all,
    shown,
    within_budget,
)
from pipelines.splits.base import columns_of

TITLE, ORDER = "Reconstructions", 40


def section(reported: Reported) -> Html:
    if reported.loaded.stage1.example.imported:
        raise LeftOut("the codes of this run were imported: it has no stage 1")
    try:
        batch = reported.held_out_items(reported.count)
    except LeftOut:
        for name in ("reconstructions.png", "spectrograms.png", "levels.png"):
            if kept := kept_picture(reported.run.figures / name, "originals and their reconstructions"):
                return join(tag("p", "Drawn by evaluate.py; the data are not at hand now."), kept)
        raise
    labels = columns_of(batch.labels, reported.loaded.stage1.decoder_columns)
    made = reconstruct(reported.loaded, reported.as_read(batch), labels, reported.seed, reported.batch_size,
                       batch.lengths)
    pairs = list(zip(first_items(reported, batch.x, batch.lengths), first_items(reported, made, batch.lengths),
                     strict=True))
    count = within_budget([[*left, *right] for left, right in pairs])
    data = reported.shown_data
    captions = [classes_in_words(data.label_names, data.classes, row) or None for row in batch.labels[:count].tolist()]
    figures = [tag("figure", tag("div", shown(left, f"original {number}"), shown(right, f"reconstruction {number}"),
                                 class_="side"), tag("figcaption", caption) if caption else None)
               for number, ((left, right), caption) in enumerate(zip(pairs, captions))]
    return join(tag("p", f"Items of the {reported.held_out} split, which was not trained on: the original first, "
                         f"then its reconstruction from the codes.{not_all(count, len(pairs))}"),
                tag("div", figures, class_="items"))
