"""Audio to files: WAV, and figures of waveforms above their spectrograms.

Waves are float (t,) in [-1, 1] without padding. All panels of a figure share the axes of time, amplitude and power, so
that they can be compared by eye. Files appear complete or not at all.
"""

import io
from pathlib import Path

import numpy as np
import soundfile
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pipelines.data.audio_files import FULL_SCALE
from pipelines.files.atomic import write_atomically

WIDTH, DPI = 1440, 120  # pixels
WINDOW_S, HOP_S = 0.025, 0.004  # the usual window for speech; the hop is finer than a pixel
RANGE_DB = 70.0  # range of the colour scale, below the loudest point of the figure
BLOCK = 2**20  # samples that are rounded at once
BLUE, PAPER = "#33658a", "#eeeeee"


def write_wav(path: Path, wave: Tensor, sample_rate_hz: int) -> None:
    """Writes a wave (t,) as 16-bit mono WAV: x * 32768, rounded; values outside [-1, 1) are clipped."""
    write_atomically(Path(path), wav_bytes(wave, sample_rate_hz))


def wav_bytes(wave: Tensor, sample_rate_hz: int) -> bytes:
    """The same as a file's content."""
    assert wave.ndim == 1 and wave.is_floating_point() and bool(wave.isfinite().all()), (wave.shape, wave.dtype)
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", sample_rate_hz, 1, format="WAV", subtype="PCM_16") as file:
        for part in wave.detach().cpu().split(BLOCK):
            samples = np.clip(np.rint(part.double().numpy() * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
            file.write(samples.astype(np.int16))
    return buffer.getvalue()


def spectrogram_bytes(wave: Tensor, sample_rate_hz: int, height: int = 96, width: int = 240) -> bytes:
    """A wave (t,) -> a PNG of its spectrogram alone, from 0 to half the rate over all of the wave; the loudest point is
    the brightest."""
    from matplotlib import colormaps
    from PIL import Image

    power = decibels(wave, sample_rate_hz)
    shade = ((power - power.max()) / RANGE_DB + 1).clamp(0, 1).flip(0)
    pixels = (colormaps["magma"](shade.numpy())[..., :3] * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def spectrograms(path: Path, waves: list[Tensor], captions: list[str], sample_rate_hz: int, columns: int = 4) -> None:
    """A PNG of clips in reading order: caption, waveform and spectrogram of each."""
    columns = min(columns, len(waves))
    rows = [list(zip(waves, captions, strict=True))[start : start + columns] for start in range(0, len(waves), columns)]
    _draw(path, [("", row) for row in rows], sample_rate_hz)


def comparison(path: Path, rows: dict[str, list[Tensor]], captions: dict[str, list[str]], sample_rate_hz: int) -> None:
    """A PNG with one column per clip and one row per version: {"original": waves, "conversion": ...}.

    Rows have equally many waves, up to about 6. captions: for some or all rows, one caption per clip."""
    named = [(title, list(zip(waves, captions.get(title, [""] * len(waves)), strict=True)))
             for title, waves in rows.items()]
    _draw(path, named, sample_rate_hz)


def decibels(wave: Tensor, sample_rate_hz: int) -> Tensor:
    """A wave (t,) -> power (frequency, time), linear in both, in dB relative to a full-scale sine."""
    size = round(WINDOW_S * sample_rate_hz)
    window = torch.hann_window(size)
    spectrum = torch.stft(wave.detach().cpu().float(), 1 << (2 * size - 1).bit_length(), round(HOP_S * sample_rate_hz),
                          size, window, pad_mode="constant", return_complex=True)
    return 20 * (spectrum.abs() * 2 / window.sum()).clamp(min=1e-10).log10()


def _draw(path: Path, rows: list[tuple[str, list[tuple[Tensor, str]]]], sample_rate_hz: int) -> None:
    """Rows of (title, [(wave, caption), ...]) as PNG; a last row may be shorter."""
    waves = [wave for _, row in rows for wave, _ in row]
    assert waves and all(wave.ndim == 1 and len(wave) for wave in waves), [wave.shape for wave in waves]
    powers = iter([decibels(wave, sample_rate_hz) for wave in waves])
    images = [[next(powers) for _ in row] for _, row in rows]
    loudest = max(float(image.max()) for row in images for image in row)
    seconds = max(map(len, waves)) / sample_rate_hz
    swing = max(1e-3, *(float(wave.abs().max()) for wave in waves))
    columns = max(len(row) for _, row in rows)
    figure = Figure(figsize=(WIDTH / DPI, 2.3 * len(rows) + 0.5), layout="constrained")
    grid = figure.subplots(2 * len(rows), columns, squeeze=False, height_ratios=[1, 2.4] * len(rows))
    shown = None
    for place, (title, row) in enumerate(rows):
        upper, lower = grid[2 * place], grid[2 * place + 1]
        for axis in (*upper[len(row) :], *lower[len(row) :]):
            axis.set_visible(False)
        for column, (wave, caption) in enumerate(row):
            above, below = upper[column], lower[column]
            above.plot(np.arange(len(wave)) / sample_rate_hz, wave.detach().cpu().numpy(), color=BLUE, linewidth=0.5)
            above.set(xlim=(0, seconds), ylim=(-1.05 * swing, 1.05 * swing), xticks=[], yticks=[0], yticklabels=[])
            above.set_title(caption, fontsize=10)
            shown = _draw_spectrogram(below, images[place][column], len(wave), loudest, sample_rate_hz)
            below.set_xlim(0, seconds)
            last = place == len(rows) - 1 or column >= len(rows[place + 1][1])
            below.tick_params(labelbottom=last, labelleft=column == 0, labelsize=8)
            below.set(xlabel="seconds" if last else "", ylabel="kHz" if column == 0 else "")
        if title:
            upper[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=11)
    assert shown is not None
    figure.colorbar(shown, ax=grid, shrink=0.6, aspect=30, pad=0.01).set_label("dB of a full-scale sine")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    write_atomically(Path(path), buffer.getvalue())


def _draw_spectrogram(axis: Axes, image: Tensor, samples: int, loudest: float, sample_rate_hz: int):
    """Draws power (frequency, time) from 0 to the clip's end and to half the rate; the rest is background."""
    axis.set_facecolor(PAPER)
    extent = (0, samples / sample_rate_hz, 0, sample_rate_hz / 2000)
    return axis.imshow(image.numpy(), origin="lower", aspect="auto", extent=extent, cmap="magma",
                       vmin=loudest - RANGE_DB, vmax=loudest, interpolation="bilinear")
