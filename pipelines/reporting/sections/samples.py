"""New items, drawn from the prior and decoded."""

from pipelines.generation.labels import classes_of
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

TITLE, ORDER = "Samples", 30


def section(reported: Reported) -> Html:
    try:
        samples = reported.samples
    except LeftOut:
        kept = kept_picture(reported.run.samples / "grid.png", "samples")
        if kept is None:
            raise
        return join(tag("p", "Drawn earlier, by sample.py."), kept)
    media = first_items(reported, samples.x, samples.lengths)
    count = within_budget(media)
    example = reported.loaded.stage1.example
    classes = [classes_of(example, name) for name in samples.label_names]
    captions = [None] * count if samples.labels is None or not classes else [
        classes_in_words(samples.label_names, classes, row) for row in samples.labels[:count].tolist()]
    how = "Each has been drawn code by code from the prior" if example.imported else (
        "Each has been drawn code by code from the prior, then decoded") if reported.loaded.stage2 else (
        "Each is the decoding of latents drawn from N(0, I)")
    given = ", conditioned on the actions of a training clip" if example.facts.get("action_names") else ""
    given += "; labels are drawn as often as in training" if classes else ""
    return join(tag("p", f"{how}{given}. Random seed {reported.seed}, temperature 1; each sample depends on the "
                         f"seed and its own number alone.{not_all(count, len(media))}"),
                tag("p", note, class_="soft") if (note := reported.kind.media_note(example)) else None,
                tag("div", [shown(own, f"sample {number}", caption)
                            for number, (own, caption) in enumerate(zip(media, captions))], class_="items"))
