"""What `evaluate.py` measures of images: errors of reconstructions, and a classifier's accuracy on them and on
samples."""

from pathlib import Path

import torch
from torch import Tensor

from pipelines.evaluation.classifier import accuracy
from pipelines.evaluation.image_classifier import classify, train_image_classifier
from pipelines.evaluation.local_features import LocalFeatures, image_features
from pipelines.evaluation.measured import Measured, Subject
from pipelines.evaluation.reconstructions import reconstruction_figures, reconstruction_rows
from pipelines.media.images import image_pairs, image_rows, write_image
from pipelines.splits.base import Batch, Data

SHOWN = 32  # images beside their reconstructions in the figure


def check(subject: Subject) -> None:
    """Every run on images can be measured."""


def figures(measured: Measured, subject: Subject, shared: dict) -> dict:
    """Errors of reconstructions; with labels, a classifier's accuracy."""
    classified = subject.options.classifier and subject.data.label_names
    errors = reconstruction_figures(measured, subject, subject.data.variance, {})
    return errors | {"classifier": classifier(measured, subject) if classified else None}


def classifier(measured: Measured, subject: Subject) -> dict:
    """Accuracy of a classifier on real held-out images, on their reconstructions and on class-conditional samples."""
    data, stage2, options, column = subject.data, subject.loaded.stage2, subject.options, 0
    name, labels = data.label_names[column], subject.split.labels[:, column].cpu()
    train = data.split("train").to(subject.device)
    model = train_image_classifier(train, column, len(data.classes[column]), data.shape, subject.device)
    real = torch.cat([classify(model, batch.x) for batch in subject.split.evaluation_batches()])
    found = {"label": name, "real": accuracy(real, labels),
             "reconstructions": accuracy(classify(model, measured.reconstructions), labels), "samples": None}
    if stage2 is not None and name in stage2.condition_on and options.samples:
        made = subject.samples(options.samples)
        found |= {"samples": accuracy(classify(model, made.x), made.label(name)), "num_samples": options.samples}
    return found


def rows(result: dict) -> list[tuple[str, float | None, str]]:
    """Of the printed table: name, figure, format."""
    found = result["classifier"] or {}
    return [
        *reconstruction_rows("image", result),
        ("classifier accuracy: real images", found.get("real"), ".1%"),
        ("classifier accuracy: reconstructions", found.get("reconstructions"), ".1%"),
        ("classifier accuracy: samples", found.get("samples"), ".1%"),
    ]


def draw(measured: Measured, subject: Subject, result: dict) -> dict[str, Path]:
    """Originals above reconstructions, and where samples are; returns the path of each figure by its title."""
    run, split = subject.run, subject.split
    shown = min(SHOWN, len(split))
    originals = split.batch(torch.arange(shown)).x.cpu()
    paths = {"originals above reconstructions": run.figures / "reconstructions.png"}
    write_image(run.figures / "reconstructions.png", image_pairs(originals, measured.reconstructions[:shown]))
    if measured.drawn is not None:
        drawn = measured.drawn[:shown]
        paths["originals above reconstructions from drawn latents"] = run.figures / "reconstructions_drawn.png"
        write_image(run.figures / "reconstructions_drawn.png",
                    image_pairs(originals[: len(drawn)], drawn, captions=("original", "drawn latents")))
    return paths | ({"samples": run.samples / "grid.png"} if (run.samples / "grid.png").exists() else {})


FEATURES = "pixels", " (black to white is 1)"  # what `features` are, and their unit in words


def features(x: Tensor, lengths: None, data: Data) -> Tensor:
    """Images (n, *shape) -> float32 (n, d), in which items are compared: their pixels in [0, 1]."""
    return x.flatten(1).float() / 255


def rows_of_item(data: Data) -> int:
    """Rows of local features that an item gives."""
    return 1


def local_features(subject: Subject, held_out: Batch) -> list[LocalFeatures]:
    """The network in whose features images are compared, its accuracy that on `held_out` ones."""
    return [image_features(subject.data, held_out, subject.device)]


def draw_rows(path: Path, rows: dict[str, tuple[Tensor, None]], data: Data) -> None:
    """One row of images for each name."""
    write_image(path, image_rows({name: images for name, (images, _) in rows.items()}))
