"""What `evaluate.py` measures of video: errors of frames, accuracy of continuations, and, where the data have actions,
how these move the image.

Clips of the split are continued in the space of codes (pipelines/generation/continuation.py) after `evaluate.context`
frames. Conditioned on the recorded actions, predictions are compared with the ground truth, beside repeating the last
frame of the context, and beside the decoded codes of the true frames, an upper limit for any prior. The mean of several
predictions is what minimises the expected squared error, which a single one exceeds by up to 3 dB. Conditioned on one
action throughout, the image should move accordingly: the number of columns per frame to the right is estimated from the
frames (pipelines/metrics/motion.py).
"""

import math
import sys
from pathlib import Path

import torch
from torch import Tensor

from pipelines.evaluation.bounds import mean_and_error
from pipelines.evaluation.local_features import LocalFeatures, image_features
from pipelines.evaluation.measured import Measured, Subject
from pipelines.evaluation.reconstructions import reconstruction_figures, reconstruction_rows
from pipelines.files.errors import InputError
from pipelines.generation.continuation import predict
from pipelines.media import plots
from pipelines.media.images import clip_frames, image_pairs, image_rows, write_image
from pipelines.metrics.motion import horizontal_shifts
from pipelines.metrics.psnr import psnr_db
from pipelines.metrics.squares import squared_errors
from pipelines.metrics.ssim import ssim
from pipelines.splits.base import Batch, Data
from pipelines.splits.order import spread

SHOWN = 2  # clips beside their reconstructions in the overview
WAYS = {"prediction": "predicted", "mean": "mean of predictions", "last_frame": "last frame repeated",
        "reconstruction": "decoded true codes"}


def check(subject: Subject) -> None:
    """Raises InputError for settings of `evaluate` that do not fit the data."""
    options, data = subject.options, subject.data
    if options.predictions and not 1 <= options.context < data.clip_length:
        raise InputError(f"evaluate.context: expected 1 to {data.clip_length - 1}, of clips of {data.clip_length} "
                         f"frames, found {options.context}")
    if options.actions and not data.action_names:
        print(f"note: evaluate.actions: {', '.join(options.actions)} are not measured, {data.name} has no actions",
              file=sys.stderr)
    for name in (options.actions or ()) if data.action_names else ():
        if name not in data.action_names:
            raise InputError(f"evaluate.actions: expected names among {', '.join(data.action_names)}, or null for "
                             f"all of them, found {name!r}")


def figures(measured: Measured, subject: Subject, shared: dict) -> dict:
    """The errors of reconstructed frames; with a prior, predictions and motion."""
    predicted = subject.loaded.stage2 is not None and subject.options.predictions
    errors = reconstruction_figures(measured, subject, subject.data.variance, {})
    return errors | {"video": predictions(measured, subject) if predicted else None}


def predictions(measured: Measured, subject: Subject) -> dict:
    """Figures of `evaluate.predictions` continued clips: for each method and frame, and for each action."""
    data, options, context = subject.data, subject.options, subject.options.context
    split = data.split(subject.split_name)
    items = spread(options.predictions, len(split))
    batch = split.batch(items)

    def continued(actions: Tensor | None, times: int = 1) -> Tensor:
        given = (batch.x[:, :, :context], actions, batch.labels)
        x, actions, labels = (None if own is None else own.repeat(times, *[1] * (own.ndim - 1)) for own in given)
        return predict(subject.loaded.stage1, subject.loaded.stage2, x, data.clip_length, actions, labels, subject.seed,
                       options.batch_size, temperature=options.prediction_temperature)

    last_frame = batch.x[:, :, context - 1 : context].expand_as(batch.x)
    drawn = continued(batch.actions, options.prediction_samples).unflatten(0, (-1, len(items)))
    clips = {"prediction": drawn[0], "last_frame": last_frame, "reconstruction": measured.reconstructions[items]}
    steps = {f"{way}_{kind}": found for way, made in clips.items()
             for kind, found in fidelity(made, batch, context).items()}
    steps |= {"mean_psnr_db": None, "mean_ssim": None}
    if len(drawn) > 1:
        mean = drawn.sum(0, dtype=torch.int32).div(len(drawn)).round().to(torch.uint8)
        steps |= {f"mean_{kind}": found for kind, found in fidelity(mean, batch, context).items()}
    motion = {}
    for name in data.action_names if options.actions is None or not data.action_names else options.actions:
        actions = batch.actions.clone()
        actions[:, context:] = data.action_names.index(name)
        motion[name] = shifts(continued(actions), context)
    return {
        "clips": len(items), "context": context, "frames": data.clip_length - context,
        "temperature": options.prediction_temperature, "samples": options.prediction_samples, **steps,
        "shift_columns": motion,
        "shift_columns_recorded": recorded_shifts(batch, context, data.action_names),
    }


def fidelity(made: Tensor, batch: Batch, context: int) -> dict[str, list[float] | None]:
    """For each frame after the context the PSNR in dB of the squared error averaged over clips, and the mean SSIM.

    Averaging the PSNR instead would make it infinite for a repeated last frame as soon as one clip stands still."""
    pairs = [(made[:, :, t], batch.x[:, :, t]) for t in range(context, made.shape[2])]
    similarities = [ssim(*pair) for pair in pairs]
    return {"psnr_db": [float(psnr_db(squared_errors(*pair).mean())) for pair in pairs],
            "ssim": None if similarities[0].isnan().all() else [float(values.mean()) for values in similarities]}


def shifts(clips: Tensor, context: int) -> dict[str, float | None]:
    """Columns to the right from frame to frame after the context, clips (n, c, t, h, w): their mean over clips and its
    standard error, the frames of a clip counting once."""
    count = clips.shape[2] - context
    found = horizontal_shifts(clip_frames(clips[:, :, context - 1 : -1]), clip_frames(clips[:, :, context:]))
    value, error = mean_and_error(found.double().unflatten(0, (-1, count)).mean(1))
    return {"mean": value, "standard_error": error}


def recorded_shifts(batch: Batch, context: int, names: tuple[str, ...]) -> dict[str, dict | None]:
    """The same for the recorded frames, by action: the estimate for turns that took place; {} without actions."""
    if not names:
        return {}
    found = horizontal_shifts(clip_frames(batch.x[:, :, context - 1 : -1]), clip_frames(batch.x[:, :, context:]))
    actions = batch.actions[:, context:].flatten()
    figures: dict[str, dict | None] = {}
    for number, name in enumerate(names):
        own = found[actions == number].double()
        figures[name] = None
        if len(own) > 1:
            value, error = mean_and_error(own)
            figures[name] = {"mean": value, "standard_error": error}
    return figures


def rows(result: dict) -> list[tuple[str, float | list[float] | None, str]]:
    """Of the printed table: errors; predictions on average and frame by frame; the motion under each action."""
    found, lines = result["video"], reconstruction_rows("video", result)
    if found is None:
        return lines
    for way, title in WAYS.items():
        for kind, unit, form in (("psnr_db", "PSNR, dB", ".2f"), ("ssim", "SSIM", ".3f")):
            if steps := found[f"{way}_{kind}"]:
                lines += [(f"{title}: {unit}", math.fsum(steps) / len(steps), form), ("  frame by frame", steps, form)]
    for name, value in found["shift_columns"].items():
        lines.append((f"columns per frame to the right: {name}", value["mean"], ".3f"))
        lines.append(("  standard error", value["standard_error"], ".3f"))
    return lines


def draw(measured: Measured, subject: Subject, result: dict) -> dict[str, Path]:
    """The frames of some clips above their reconstructions; PSNR and SSIM over the predicted frames as curves."""
    figures, found = subject.run.figures, result["video"]
    paths, items = {"frames above reconstructions": figures / "reconstructions.png"}, spread(SHOWN, len(subject.split))
    originals = clip_frames(subject.split.batch(items).x.cpu())
    write_image(figures / "reconstructions.png",
                        image_pairs(originals, clip_frames(measured.reconstructions[items])))
    if found is not None:
        paths["predictions, frame by frame"] = figures / "predictions.png"
        panels = [("frame after the context", unit, {title: list(enumerate(found[f"{way}_{kind}"], start=1))
                                                     for way, title in WAYS.items() if found[f"{way}_{kind}"]})
                  for kind, unit in (("psnr_db", "PSNR, dB"), ("ssim", "SSIM")) if found[f"prediction_{kind}"]]
        plots.plot_lines(figures / "predictions.png", panels)
    return paths


FEATURES = "pixels", " (black to white is 1)"  # what `features` are, and their unit in words


def features(x: Tensor, lengths: None, data: Data) -> Tensor:
    """Clips (n, *shape) -> float32 (n, d), in which items are compared: their pixels in [0, 1]."""
    return x.flatten(1).float() / 255


def rows_of_item(data: Data) -> int:
    """Rows of local features that a clip gives: one for each frame."""
    return data.shape[1]


def local_features(subject: Subject, held_out: Batch) -> list[LocalFeatures]:
    """The network in whose features frames are compared, its accuracy that on frames of `held_out` clips."""
    return [image_features(subject.data, held_out, subject.device)]


def draw_rows(path: Path, rows: dict[str, tuple[Tensor, None]], data: Data) -> None:
    """One clip for each name, the first, frame by frame."""
    write_image(path, image_rows({name: clip_frames(clips[:1]) for name, (clips, _) in rows.items()}))
