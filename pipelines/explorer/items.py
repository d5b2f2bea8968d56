"""Items as the browser shows them: an image, a clip as a moving image, a wave to hear with its spectrogram.

Axes: c channels, t frames or samples, h w pixels.
"""

import io
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipelines.explorer.page import Arguments, Context, address, as_file, png, wav
from pipelines.files.errors import InputError
from pipelines.generation.labels import classes_of
from pipelines.media.audio import RANGE_DB, decibels
from pipelines.metrics.spectral_distance import log_spectral_distance
from pipelines.runs.chain import LoadedRun
from pipelines.runs.data import load_data
from pipelines.splits.base import Data

FRAME_MS = 150
ABREAST = 8  # frames of a clip in a row, as static/codes.js lays them out
HIGHEST = 96  # rows of a spectrogram
MOST_LEVELS, MOST_DB = 128, 40  # differences of pixels and of spectrograms that are drawn brightest


@dataclass(frozen=True)
class Given:
    """An item that the user chose."""

    x: Tensor  # (1, *shape) in data units, as the run reads it
    length: int | None  # how much of a wave is real
    labels: dict[str, str]  # that the user or the data gave
    words: str  # what it is


def given_item(context: Context, arguments: Arguments) -> Given:
    """The item that the arguments name: an uploaded "file", or the "number" of a held-out item, which has its own
    labels. Raises InputError for a file that the run cannot read, and where the data cannot be found."""
    if arguments.has("file"):
        upload = arguments.upload("file")
        with as_file(upload) as path:
            items = context.kind.read(context.loaded, str(path))
        length = None if items.lengths is None else int(items.lengths[0])
        return Given(items.x[:1], length, arguments.named_texts("labels"), upload.name)
    data = real_data(context, 6.0)
    if isinstance(data, str):
        raise InputError(f"held-out items: {data}")
    name = "test" if "test" in data.splits else "validation"
    split = data.split(name)
    number = arguments.integer("number", 0, len(split) - 1)
    batch = split.batch(torch.tensor([number]))
    labels = labels_of(data.label_names, data.classes, batch.labels[0].tolist())
    length = None if batch.lengths is None else int(batch.lengths[0])
    return Given(batch.x.cpu(), length, {own: labels[own] for own in label_classes(context) if own in labels},
                 f"{name} item {number} of {len(split):,}")


def label_classes(context: Context) -> dict[str, list[str]]:
    """The classes of each label that either stage is conditioned on, those of the decoder first."""
    needed = context.loaded.stage1.condition_on
    names = [*needed, *(name for name in context.run._sampling_labels if name not in needed)]
    return {name: list(classes_of(context.loaded.stage1.example, name)) for name in names}


class Reading:
    """The run's data, read in a thread of their own: generated ones take minutes, and other calls go on meanwhile."""

    def __init__(self, loaded: LoadedRun, root: Path | None):
        self.found: Data | str = "the run's data are still being read: try again in a moment"
        self._done = threading.Event()
        threading.Thread(target=self._read, args=(loaded, root), name="data", daemon=True).start()

    def wait(self, seconds: float) -> Data | str:
        """The data, or why they are not there (yet)."""
        self._done.wait(seconds)
        return self.found

    def _read(self, loaded: LoadedRun, root: Path | None) -> None:
        try:
            self.found = load_data(loaded.run, loaded.stage1, root)
        except (InputError, OSError) as error:
            self.found = " ".join(str(error).split())
        self._done.set()


def real_data(context: Context, patience_s: float = 2.0) -> Data | str:
    """The run's data, looked for once; or why they cannot be found, or not yet."""
    if "data" not in context.shared:
        context.shared["data"] = Reading(context.loaded, context.data_root)
    return context.shared["data"].wait(patience_s)


def shown(context: Context, x: Tensor, length: int | None = None) -> dict[str, Any]:
    """An item in data units, as `run.decode` gives it -> {"image": address}, with "frames" of a clip, and of audio
    "audio" and "seconds". length: how much of a wave is real."""
    if context.kind.name == "audio":
        rate = sample_rate_hz(context)
        wave = x[0, :length]
        return {"audio": wav(wave, rate), "image": spectrogram(wave, rate), "seconds": len(wave) / rate}
    if context.kind.name == "video":
        return {"image": clip(x), "frames": x.shape[1]}
    if context.loaded.stage1.example.imported:
        (medium,) = context.kind.media(x[..., :length], context.loaded.stage1.example)
        return {"image": address(medium.mime, medium.content)}
    return {"image": png(x)}


def sample_rate_hz(context: Context) -> int:
    return context.loaded.stage1.example.facts["sample_rate_hz"]


def clip(x: Tensor) -> str:
    """uint8 (c, t, h, w) as the address of a PNG that moves, pixel for pixel."""
    frames = [Image.fromarray(frame[:, :, 0] if frame.shape[2] == 1 else frame)
              for frame in x.permute(1, 2, 3, 0).contiguous().numpy()]
    buffer = io.BytesIO()
    frames[0].save(buffer, format="PNG", save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0)
    return address("image/png", buffer.getvalue())


def spectrogram(wave: Tensor, rate: int, loudest: float | None = None) -> str:
    """A wave (t,) as the address of an image of its power, time to the right, frequency upwards."""
    power = decibels(wave, rate)
    high = float(power.max()) if loudest is None else loudest
    level = ((power - high + RANGE_DB) / RANGE_DB).clamp(0, 1)
    height = min(HIGHEST, len(level))
    level = torch.nn.functional.adaptive_max_pool2d(level[None], (height, level.shape[1]))[0].flip(0)
    return png(coloured(level.numpy()))


def coloured(level: np.ndarray, scale: str = "magma") -> Tensor:
    """Levels (h, w) from 0 to 1 -> uint8 (3, h, w)."""
    from matplotlib import colormaps  # takes half a second to import

    return torch.from_numpy((255 * colormaps[scale](level)[..., :3]).round().astype(np.uint8)).movedim(-1, 0)


def flat(codes: Tensor) -> list[int]:
    """Codes of one item, in raster order, codebooks together at each position."""
    return codes.flatten().tolist()


def layout(context: Context) -> dict[str, Any]:
    """What the browser has to know of the run: its codes, and the labels, those that the decoder needs, and actions
    that can be given."""
    example = context.loaded.stage1.example
    return {"kind": context.kind.name, "grid": list(context.run.grid), "num_codes": context.run.num_codes,
            "books": getattr(context.run.stage1.bottleneck, "num_codebooks", 1), "labels": label_classes(context),
            "needed": list(context.loaded.stage1.condition_on), "actions": list(example.facts.get("action_names", ()))}


def labels_of(names: Sequence[str], classes: Sequence[Sequence[str]], row: Sequence[int]) -> dict[str, str]:
    """The names of the classes of one item."""
    return {name: own[number] for name, own, number in zip(names, classes, row, strict=True)}


def laid_out(context: Context, x: Tensor, length: int | None = None) -> dict[str, Any]:
    """An item as one image on which its grid of codes can lie: a clip as one frame for each slice of codes, in rows,
    and the clip itself as "clip"; audio as its spectrogram, with "audio" and "seconds"."""
    if context.kind.name != "video":
        return shown(context, x, length)
    return {"image": png(strip(context, x)), "clip": clip(x)}


def strip(context: Context, x: Tensor) -> Tensor:
    """A clip (c, t, h, w) -> its frames at each slice of its codes, side by side in rows of ABREAST, black at the end:
    (c, H, W)."""
    slices = context.run.grid[0]
    frames = list(x[:, torch.arange(slices) * x.shape[1] // slices].unbind(1))
    wide = min(slices, ABREAST)
    frames += [torch.zeros_like(frames[0])] * (-slices % wide)
    return torch.cat([torch.cat(frames[start : start + wide], 2) for start in range(0, len(frames), wide)], 1)


def difference(context: Context, before: Tensor, after: Tensor, length: int | None = None) -> dict[str, Any]:
    """What differs between two items, as "image", brighter where more does, and in "words"."""
    if context.kind.name == "audio":
        rate = sample_rate_hz(context)
        waves = [x[0, :length] for x in (before, after)]
        powers = [decibels(wave, rate) for wave in waves]
        floor = max(float(power.max()) for power in powers) - RANGE_DB
        gap = (powers[0].clamp(min=floor) - powers[1].clamp(min=floor)).abs() / MOST_DB
        level = torch.nn.functional.adaptive_max_pool2d(gap[None], (min(HIGHEST, len(gap)), gap.shape[1]))[0].flip(0)
        lengths = torch.tensor([len(waves[0])])
        distance = log_spectral_distance(waves[0][None, None], waves[1][None, None], rate, lengths)
        return {"image": png(coloured(level.clamp(0, 1).numpy(), "inferno")),
                "words": f"log-spectral distance {float(distance):.2f} dB"}
    gap = (before.double() - after.double()).abs().mean(0, keepdim=True)
    gap = strip(context, gap)[0] if context.kind.name == "video" else gap[0]
    squared = float((before.double() - after.double()).square().mean())
    words = "identical" if squared == 0 else f"PSNR {10 * math.log10(255**2 / squared):.1f} dB"
    return {"image": png(coloured((gap / MOST_LEVELS).clamp(0, 1).numpy(), "inferno")), "words": words}
