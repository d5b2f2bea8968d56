"""What `evaluate.py` measures of pictures: errors of reconstructions, what a classifier of real ones makes of them."""

from pathlib import Path

import torch
from torch import Tensor

from pipelines.evaluation.classifier import accuracy
from pipelines.evaluation.image_classifier import judge, train_judge
from pipelines.evaluation.measured import Measured, Subject, batches
from pipelines.generation.samples import generate
from pipelines.media.images import clip_frames, image_pairs, write_image

SHOWN = 32  # images beside their reconstructions in the picture


def check(subject: Subject) -> None:
    """Every run on pictures can be measured."""


def figures(measured: Measured, subject: Subject, shared: dict) -> dict:
    """The errors of the reconstructions, and the judge's word."""
    judged = subject.options.judge and subject.data.label_names
    return reconstruction_errors(measured, subject) | {"judge": call_judge(measured, subject) if judged else None}


def reconstruction_errors(measured: Measured, subject: Subject) -> dict[str, float | None]:
    """NMSE, PSNR and SSIM of pictures, or of the frames of clips, as they are written out, rounded to whole levels."""
    squares, similarities = [], []
    for start, batch in batches(subject.split, subject.options.batch_size, "errors"):
        x, made = batch.x.cpu(), measured.reconstructions[start : start + len(batch.x)]
        if x.ndim == 5:
            x, made = clip_frames(x), clip_frames(made)
        squares.append(squared_errors(made, x))
        similarities.append(similarity(made, x))
    squares = torch.cat(squares)
    return {
        "nmse": float(squares.mean() / subject.data.variance),
        "psnr_db": float(psnr_db(squares).mean()),
        "ssim": float(torch.cat(similarities).mean()) if similarities[0] is not None else None,
    }


def squared_errors(made: Tensor, x: Tensor) -> Tensor:
    """Of uint8 (n, ...) for each item the mean square of the error in levels, (n,) float64."""
    return (made.double() - x).square().flatten(1).mean(1)


def psnr_db(errors: Tensor) -> Tensor:
    """Of mean squared errors in levels; those of equal pictures count as 1e-12."""
    return 10 * torch.log10(255**2 / errors.clamp(min=1e-12))


def similarity(made: Tensor, x: Tensor) -> Tensor | None:
    """SSIM of pairs of images uint8 (n, c, h, w), (n,) float64; None for those smaller than its window."""
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim  # takes seconds to import

    if min(x.shape[-2:]) <= 10:  # the usual window of SSIM is 11 pixels wide
        return None
    return ssim(made.float(), x.float(), data_range=255.0, reduction="none").double()


def call_judge(measured: Measured, subject: Subject) -> dict:
    """Accuracy of a classifier on real held-out images, on their reconstructions and on class-conditional samples."""
    data, stage2, options, column = subject.data, subject.stage2, subject.options, 0
    name, labels = data.label_names[column], subject.split.labels[:, column].cpu()
    model = train_judge(data.split("train").to(subject.device), column, len(data.classes[column]), data.shape,
                        subject.device)
    real = torch.cat([judge(model, batch.x) for batch in subject.split.evaluation_batches()])
    verdict = {"label": name, "real": accuracy(real, labels),
               "reconstructions": accuracy(judge(model, measured.reconstructions), labels), "samples": None}
    if stage2 is not None and name in stage2.condition_on and options.samples:
        made = generate(subject.stage1, stage2, options.samples, subject.seed, options.batch_size, subject.device)
        verdict |= {"samples": accuracy(judge(model, made.x), made.label(name)), "samples_judged": options.samples}
    return verdict


def rows(result: dict) -> list[tuple[str, float | None, str]]:
    """Of the printed table: name, figure, format."""
    verdict = result["judge"] or {}
    return [
        *error_rows(result),
        ("judge: real images right", verdict.get("real"), ".1%"),
        ("judge: reconstructions right", verdict.get("reconstructions"), ".1%"),
        ("judge: samples right", verdict.get("samples"), ".1%"),
    ]


def error_rows(result: dict) -> list[tuple[str, float | None, str]]:
    """What `reconstruction_errors` found."""
    return [("NMSE", result["nmse"], ".4f"), ("PSNR, dB", result["psnr_db"], ".2f"), ("SSIM", result["ssim"], ".4f")]


def draw(measured: Measured, subject: Subject, result: dict) -> dict[str, Path]:
    """Originals above reconstructions, and where samples lie; returns what each picture shows and its path."""
    run, split = subject.run, subject.split
    run.figures.mkdir(parents=True, exist_ok=True)
    shown = min(SHOWN, len(split))
    originals = split.batch(torch.arange(shown)).x.cpu()
    paths = {"originals above reconstructions": run.figures / "reconstructions.png"}
    pairs = image_pairs(originals, measured.reconstructions[:shown])
    write_image(run.figures / "reconstructions.png", pairs)
    return paths | ({"samples": run.samples / "grid.png"} if (run.samples / "grid.png").exists() else {})
