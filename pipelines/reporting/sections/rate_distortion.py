"""How many bytes an item takes as a real file, and what is left of it: beside JPEG, WebP and PNG for images."""

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipelines.codec.models import Models, holds_conditions
from pipelines.evaluation.file_bytes import compressed_sizes, given_items
from pipelines.generation.reconstruction import reconstruct
from pipelines.reporting.charts import line_chart
from pipelines.reporting.html import Html, join, table, tag
from pipelines.reporting.subject import LeftOut, Reported
from pipelines.splits.base import Batch, columns_of
from pipelines.splits.order import spread

TITLE, ORDER = "Rate and distortion", 80

ITEMS = 16  # held-out items, each in a file of its own and all in one
QUALITIES = {"JPEG": (1, 3, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90),
             "WebP": (0, 1, 3, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90)}
ALONE, TOGETHER = "this run, one file per image", "this run, all images in one file"


def section(reported: Reported) -> Html:
    if reported.loaded.stage2 is None:
        raise LeftOut("compressed files need a trained stage 2, and the run has none")
    if not holds_conditions(reported.loaded):
        raise LeftOut("the prior is conditioned on local features of the data, which a compressed file does not hold")
    try:
        split = reported.data.split(reported.held_out)
    except LeftOut as reason:
        if not (found := (reported.figures or {}).get("files")):
            raise
        rows = {"this run, all items in one file": found["bytes_per_item"],
                "this run, one file per item": found["bytes_alone"]}
        return join(tag("p", f"As evaluate.py measured {found['items']} items. Other formats are left out: {reason}."),
                    sizes_table(rows, {}))
    batch = split.batch(spread(ITEMS, len(split)))
    models = Models(reported.loaded)
    sizes = compressed_sizes(models, given_items(models, batch, reported.data.label_names), len(batch.x),
                             reported.batch_size)
    return join(tag("p", f"Sizes of real files of {len(batch.x)} items of the {reported.held_out} split, headers "
                         "included. A file of this run holds the codes, compressed by the prior; whoever has the run "
                         "decodes it (decompress.py)."),
                images(reported, batch, sizes) if reported.kind.name == "image" else others(reported, batch, sizes))


def others(reported: Reported, batch: Batch, sizes: dict[str, float]) -> Html:
    """A table of bytes per item."""
    stage1 = reported.loaded.stage1
    count = math.prod(stage1.grid) * stage1.module.bottleneck.num_codebooks
    values = math.prod(batch.x.shape[1:])
    if batch.lengths is not None:
        real = float(batch.lengths.double().mean())
        count, values = count * real / batch.x.shape[-1], real
    rows = {"8 bits per value": values}
    if (bits := reported.kind.codec_bits(reported.loaded, batch.x, batch.lengths)) is not None:
        lossless = "FLAC" if reported.kind.name == "audio" else "PNG or WebP"
        rows[f"lossless {lossless}, of the same 8-bit values"] = float(bits.mean()) / 8
    rows |= {"codes as they are, log2 K bits each": count * math.log2(stage1.module.bottleneck.num_codes) / 8,
             "this run, one file per item": sizes["bytes_alone"],
             "this run, all items in one file": sizes["bytes_per_item"]}
    return sizes_table(rows, {})


def images(reported: Reported, batch: Batch, sizes: dict[str, float]) -> Html:
    """Bytes against PSNR, and a table."""
    labels = columns_of(batch.labels, reported.loaded.stage1.decoder_columns)
    made = reconstruct(reported.loaded, batch.x, labels, reported.seed, reported.batch_size)
    own = psnr_db(made, batch.x)
    lines: dict[str, list[tuple[float, float]]] = {
        name: sorted(foreign(batch.x, name, quality) for quality in qualities) for name, qualities in QUALITIES.items()}
    rows = {"8 bits per value": float(batch.x[0].numel()), "PNG, lossless": lossless(batch.x, "PNG", optimize=True),
            "WebP, lossless": lossless(batch.x, "WEBP", lossless=True, quality=100),
            ALONE: sizes["bytes_alone"], TOGETHER: sizes["bytes_per_item"]}
    for name, line in lines.items():
        if near := at_least(line, own):
            rows[f"{name} of at least the run's PSNR"] = near[0]
            # the rest of the curve would flatten what is of interest
            lines[name] = [point for point in line if point[0] <= 8 * near[0]]
    quality = {ALONE: own, TOGETHER: own} | {
        f"{name} of at least the run's PSNR": near[1] for name, line in lines.items() if (near := at_least(line, own))}
    drawn = lines | {ALONE: [(sizes["bytes_alone"], own)], TOGETHER: [(sizes["bytes_per_item"], own)]}
    chart = line_chart(drawn, "bytes per image", "PSNR, dB", logarithmic="x", points=frozenset((ALONE, TOGETHER)),
                       caption="Further left and further up is better. PSNR of the squared error over all images.")
    return join(tag("div", chart, class_="charts"), sizes_table(rows, quality))


def sizes_table(rows: dict[str, float], quality: dict[str, float]) -> Html:
    """Bytes per item, and the PSNR where there is one."""
    cells = [[name, (f"{size:,.1f}" if size < 1000 else f"{size:,.0f}", size),
              *([(f"{quality[name]:.2f}", quality[name]) if name in quality else "lossless"] if quality else [])]
             for name, size in rows.items()]
    return table(["file", "bytes per item", *(["PSNR, dB"] if quality else [])], cells, numbers={1, 2})


def foreign(images: Tensor, name: str, quality: int) -> tuple[float, float]:
    """Bytes per image and PSNR of uint8 (n, c, h, w) as files of another format."""
    total, made = 0, []
    for image in images:
        buffer = io.BytesIO()
        pillow(image).save(buffer, format=name.upper(), quality=quality, optimize=True)
        total += buffer.tell()
        read = np.array(Image.open(buffer).convert("L" if len(image) == 1 else "RGB"))
        made.append(torch.from_numpy(read.reshape(*image.shape[1:], len(image))).movedim(-1, 0))
    return total / len(images), psnr_db(torch.stack(made), images)


def lossless(images: Tensor, form: str, **options: object) -> float:
    """Bytes per image."""
    total = 0
    for image in images:
        buffer = io.BytesIO()
        pillow(image).save(buffer, format=form, **options)
        total += buffer.tell()
    return total / len(images)


def pillow(image: Tensor) -> Image.Image:
    pixels = image.movedim(0, -1).contiguous().numpy()
    return Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels)


def at_least(line: list[tuple[float, float]], psnr: float) -> tuple[float, float] | None:
    """The smallest file of that quality or a better one; None where there is none."""
    return min((point for point in line if point[1] >= psnr), default=None)


def psnr_db(made: Tensor, images: Tensor) -> float:
    """Of the mean squared error over all images."""
    return 10 * math.log10(255**2 / max(float((made.double() - images.double()).square().mean()), 1e-12))
