"""What `evaluate.py` measures of video: errors of frames; how well clips are continued; how actions move the picture.

Clips of the split are continued in the space of codes (pipelines/prediction.py) after `evaluate.context` frames. Told
the recorded actions, predictions are held against what came, beside repeating the last frame of the context, and beside
the decoded codes of the true frames, which no prior can better by much. Told one action throughout, the picture should
move as that says: by how many columns a frame, to the right, is estimated from the frames (pipelines/motion.py).
"""

import math
from pathlib import Path

import torch
from torch import Tensor

from pipelines import media
from pipelines.data.base import Batch, Data
from pipelines.data.frames import EpisodeData
from pipelines.errors import InputError
from pipelines.image_evaluation import psnr_db, similarity, squared_errors
from pipelines.measured import Measured, batches
from pipelines.motion import horizontal_shifts
from pipelines.prediction import predict, spread
from pipelines.runs import Run, TrainedStage
from stage1_vqvae.bounds import mean_and_standard_error

SHOWN = 2  # clips beside their reconstructions in the picture
WAYS = {"prediction": "predicted", "last_frame": "last frame repeated", "reconstruction": "decoded true codes"}


def check(options, data: EpisodeData) -> None:
    """Raises InputError for settings of `evaluate` that do not fit the data."""
    if options.predictions and not 1 <= options.context < data.clip_length:
        raise InputError(f"evaluate.context: expected 1 to {data.clip_length - 1}, of clips of {data.clip_length} "
                         f"frames, found {options.context}")
    if options.predictions < 0:
        raise InputError(f"evaluate.predictions: expected 0 or more, found {options.predictions}")
    for name in options.actions or ():
        if name not in data.action_names:
            raise InputError(f"evaluate.actions: expected names among {', '.join(data.action_names)}, found {name!r}")


def figures(measured: Measured, stage1: TrainedStage, stage2: TrainedStage | None, data: Data, split_name: str, options,
            seed: int, device: torch.device) -> dict:
    """NMSE, PSNR and SSIM of reconstructed frames, rounded to whole levels; with a prior, predictions and motion."""
    errors, similarities, split = [], [], data.split(split_name).to(device)
    for start, batch in batches(split, options.batch_size, "errors"):
        x, made = (media.frames(clips) for clips in (batch.x.cpu(),
                                                     measured.reconstructions[start : start + len(batch.x)]))
        errors.append(squared_errors(made, x))
        similarities.append(similarity(made, x))
    errors, found = torch.cat(errors), None
    if stage2 is not None and options.predictions:
        found = predictions(measured, stage1, stage2, data, split_name, options, seed)
    return {
        "nmse": float(errors.mean() / data.variance),
        "psnr_db": float(psnr_db(errors).mean()),
        "ssim": float(torch.cat(similarities).mean()) if similarities[0] is not None else None,
        "video": found,
    }


def predictions(measured: Measured, stage1: TrainedStage, stage2: TrainedStage, data: EpisodeData, split_name: str,
                options, seed: int) -> dict:
    """The figures of `options.predictions` clips of a split: for each way and step of a prediction, and each action."""
    context, split = options.context, data.split(split_name)
    items = spread(options.predictions, len(split))
    batch = split.batch(items)

    def continued(actions: Tensor) -> Tensor:
        return predict(stage1, stage2, batch.x[:, :, :context], actions, batch.labels, seed, options.batch_size)

    last_frame = batch.x[:, :, context - 1 : context].expand_as(batch.x)
    clips = {"prediction": continued(batch.actions), "last_frame": last_frame,
             "reconstruction": measured.reconstructions[items]}
    steps = {f"{way}_{kind}": found for way, made in clips.items()
             for kind, found in fidelity(made, batch, context).items()}
    motion = {}
    for name in data.action_names if options.actions is None else options.actions:
        actions = batch.actions.clone()
        actions[:, context:] = data.action_names.index(name)
        motion[name] = shifts(continued(actions), context)
    return {
        "clips": len(items), "context": context, "frames": data.clip_length - context, **steps,
        "shift_columns": motion,
        "shift_columns_recorded": recorded_shifts(batch, context, data.action_names),
    }


def fidelity(made: Tensor, batch: Batch, context: int) -> dict[str, list[float] | None]:
    """For each frame after the context the PSNR in dB of the error's mean square over all clips, and the mean SSIM.

    Not the mean PSNR: one clip that ends as it began would make it infinite for the last frame repeated."""
    pairs = [(made[:, :, t], batch.x[:, :, t]) for t in range(context, made.shape[2])]
    similarities = [similarity(*pair) for pair in pairs]
    return {"psnr_db": [float(psnr_db(squared_errors(*pair).mean())) for pair in pairs],
            "ssim": None if similarities[0] is None else [float(values.mean()) for values in similarities]}


def shifts(clips: Tensor, context: int) -> dict[str, float]:
    """Columns to the right from frame to frame after the context, clips (n, c, t, h, w): their mean over clips and its
    standard error, the frames of a clip counting once."""
    count = clips.shape[2] - context
    found = horizontal_shifts(media.frames(clips[:, :, context - 1 : -1]), media.frames(clips[:, :, context:]))
    value, error = mean_and_standard_error(found.double().unflatten(0, (-1, count)).mean(1))
    return {"mean": float(value), "standard_error": float(error)}


def recorded_shifts(batch: Batch, context: int, names: tuple[str, ...]) -> dict[str, dict | None]:
    """The same of the true frames, for each action by its name: what the estimate makes of a turn that took place."""
    found = horizontal_shifts(media.frames(batch.x[:, :, context - 1 : -1]), media.frames(batch.x[:, :, context:]))
    actions, figures = batch.actions[:, context:].flatten(), {}
    for number, name in enumerate(names):
        own = found[actions == number].double()
        figures[name] = None
        if len(own) > 1:
            value, error = mean_and_standard_error(own)
            figures[name] = {"mean": float(value), "standard_error": float(error)}
    return figures


def rows(found: dict) -> list[tuple[str, float | None, str]]:
    """Of the table: means over the predicted frames, their first and last, and the motion under each action."""
    lines = []
    for way, title in WAYS.items():
        for kind, unit, form in (("psnr_db", "PSNR, dB", ".2f"), ("ssim", "SSIM", ".4f")):
            if steps := found[f"{way}_{kind}"]:
                lines.append((f"{title}: {unit}", math.fsum(steps) / len(steps), form))
    for name, value in found["shift_columns"].items():
        lines.append((f"columns to the right a frame, {name}", value["mean"], ".3f"))
        lines.append(("    standard error", value["standard_error"], ".3f"))
    return lines


def step_table(found: dict) -> str:
    """PSNR in dB and SSIM of each predicted frame, a line for each way."""
    lines = []
    for kind, title, form in (("psnr_db", "PSNR, dB, of frame", "7.2f"), ("ssim", "SSIM of frame", "7.3f")):
        if found[f"prediction_{kind}"]:
            lines.append(f"{title:<20}" + "".join(f"{step:7d}" for step in range(1, found["frames"] + 1)))
            for way, name in WAYS.items():
                lines.append(f"{name:<20}" + "".join(f"{value:{form}}" for value in found[f"{way}_{kind}"]))
    return "\n".join(lines)


def draw(run: Run, split, measured: Measured, stage1: TrainedStage) -> dict[str, Path]:
    """The frames of some clips above their reconstructions; returns what the picture shows and its path."""
    run.figures.mkdir(parents=True, exist_ok=True)
    path, items = run.figures / "reconstructions.png", spread(SHOWN, len(split))
    originals = media.frames(split.batch(items).x.cpu())
    media.write_picture(path, media.comparison(originals, media.frames(measured.reconstructions[items])))
    return {"frames above reconstructions": path}


def draw_predictions(run: Run, found: dict) -> dict[str, Path]:
    """PSNR and SSIM over the predicted frames as curves."""
    path, panels = run.figures / "predictions.png", []
    for kind, title in (("psnr_db", "PSNR, dB"), ("ssim", "SSIM")):
        if found[f"prediction_{kind}"]:
            curves = {name: list(enumerate(found[f"{way}_{kind}"], start=1)) for way, name in WAYS.items()}
            panels.append(("frame after the context", title, curves))
    media.plot_lines(path, panels)
    return {"predictions, frame by frame": path}
