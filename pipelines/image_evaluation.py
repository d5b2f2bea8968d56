"""What `evaluate.py` measures of pictures: errors of reconstructions, what a classifier of real ones makes of them."""

from pathlib import Path

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

from pipelines import media
from pipelines.classifier import accuracy
from pipelines.data.base import Data, Split
from pipelines.generate import generate
from pipelines.judge import judge, train_judge
from pipelines.measured import Measured, batches
from pipelines.runs import Run, TrainedStage

SHOWN = 32  # images beside their reconstructions in the picture


def figures(measured: Measured, stage1: TrainedStage, stage2: TrainedStage | None, data: Data, split_name: str,
                  options, seed: int, device: torch.device) -> dict:
    """NMSE, PSNR and SSIM of the reconstructions as they are written out, rounded to whole levels; the judge's word."""
    errors, similarities, split = [], [], data.split(split_name).to(device)
    for start, batch in batches(split, options.batch_size, "errors"):
        x, made = batch.x.cpu(), measured.reconstructions[start : start + len(batch.x)]
        errors.append(squared_errors(made, x))
        similarities.append(similarity(made, x))
    errors = torch.cat(errors)
    verdict = None
    if options.judge and data.label_names:
        verdict = call_judge(stage1, stage2, data, split, measured.reconstructions, options, seed, device)
    return {
        "nmse": float(errors.mean() / data.variance),
        "psnr_db": float(psnr_db(errors).mean()),
        "ssim": float(torch.cat(similarities).mean()) if similarities[0] is not None else None,
        "judge": verdict,
    }


def squared_errors(made: Tensor, x: Tensor) -> Tensor:
    """Of uint8 (n, ...) for each item the mean square of the error in levels, (n,) float64."""
    return (made.double() - x).square().flatten(1).mean(1)


def psnr_db(errors: Tensor) -> Tensor:
    """Of mean squared errors in levels; those of equal pictures count as 1e-12."""
    return 10 * torch.log10(255**2 / errors.clamp(min=1e-12))


def similarity(made: Tensor, x: Tensor) -> Tensor | None:
    """SSIM of pairs of images uint8 (n, c, h, w), (n,) float64; None for those smaller than its window."""
    if min(x.shape[-2:]) <= 10:  # the usual window of SSIM is 11 pixels wide
        return None
    return ssim(made.float(), x.float(), data_range=255.0, reduction="none").double()


def call_judge(stage1, stage2, data: Data, split: Split, reconstructions: Tensor, options, seed: int, device) -> dict:
    """Accuracy of a classifier on real held-out images, on their reconstructions and on class-conditional samples."""
    column, classes = 0, data.classes[0]
    name = data.label_names[column]
    model = train_judge(data.split("train").to(device), column, len(classes), data.shape, device)
    labels = split.labels[:, column].cpu()
    real = torch.cat([judge(model, batch.x) for batch in split.evaluation_batches()])
    verdict = {"label": name, "real": accuracy(real, labels), "reconstructions": accuracy(judge(model, reconstructions),
                                                                                          labels), "samples": None}
    if stage2 is not None and name in stage2.config["condition_on"] and options.samples:
        made = generate(stage1, stage2, options.samples, seed, options.batch_size, device)
        verdict |= {"samples": accuracy(judge(model, made.x), made.label(name)), "samples_judged": options.samples}
    return verdict


def draw(run: Run, split: Split, measured: Measured, stage1: TrainedStage) -> dict[str, Path]:
    """Originals above reconstructions, and where samples lie; returns what each picture shows and its path."""
    run.figures.mkdir(parents=True, exist_ok=True)
    shown = min(SHOWN, len(split))
    originals = split.batch(torch.arange(shown)).x.cpu()
    paths = {"originals above reconstructions": run.figures / "reconstructions.png"}
    pairs = media.comparison(originals, measured.reconstructions[:shown])
    media.write_picture(run.figures / "reconstructions.png", pairs)
    return paths | ({"samples": run.samples / "grid.png"} if (run.samples / "grid.png").exists() else {})
