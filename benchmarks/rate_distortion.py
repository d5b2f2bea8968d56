"""Bytes of an image against its PSNR: compressed files beside JPEG, WebP and AVIF, each image alone, headers included.

    python benchmarks/rate_distortion.py --run imagenet128 --input FOLDER --out docs/rate_distortion_photos.png

Every image is cropped and resized to what the run was trained on, then written by each codec at many qualities, and by
the run at several rate weights, as one file each. Figures are means over the images: bytes, and the PSNR of the mean
squared error over all images. Prints the bytes that the other codecs need for the PSNR of each point of a run, by
linear interpolation of the logarithm of bytes.
"""

import argparse
import io
import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

QUALITIES = {"JPEG": [*range(1, 10, 2), *range(10, 80, 5)], "WEBP": [*range(10), *range(10, 90, 5)],
             "AVIF": [*range(10, 40, 3), *range(40, 75, 5)]}
EFFORT: dict[str, dict] = {"JPEG": {"optimize": True}, "WEBP": {"method": 6}, "AVIF": {"speed": 4}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="append", required=True, help="repeatable: a curve each")
    parser.add_argument("--input", type=Path, required=True, help="an image or a folder of them, held out of training")
    parser.add_argument("--rate-weights", type=float, nargs="+", default=[0.0, 0.1, 0.2, 0.4, 0.8],
                        help="a point of the curve each, see pipelines/codec/choice.py (default: 0 0.1 0.2 0.4 0.8)")
    parser.add_argument("--most", type=int, default=10**6, help="the first so many of them")
    parser.add_argument("--out", type=Path, help="a plot; the figures go to a JSON file beside it")
    arguments = parser.parse_args()
    from pipelines import load

    runs = [load(name, "cpu") for name in arguments.run]
    paths = runs[0]._kind.find_files(arguments.input)[: arguments.most]
    images = runs[0]._kind.load_files(runs[0]._loaded, paths)[1].x
    curves = {codec: [foreign(images, codec, quality) for quality in qualities]
              for codec, qualities in QUALITIES.items()}
    points: dict[str, list[tuple[float, float]]] = {}
    for name, run in zip(arguments.run, runs, strict=True):
        points[name] = []
        for weight in arguments.rate_weights:
            files = [run.compress(image[None], rate_weight=weight) for image in images]
            made = torch.cat([run.decompress(file) for file in files])
            size, psnr = float(np.mean([len(file) for file in files])), psnr_db(made, images)
            points[name].append((size, psnr))
            print(f"{name}, rate weight {weight:g}: {size:.0f} bytes, {psnr:.2f} dB, {len(images)} images")
            for codec, curve in curves.items():
                needed = bytes_at(curve, psnr)
                print(f"  {codec:<5} {needed:.0f} bytes for the same PSNR: ratio {size / needed:.3f}")
    if arguments.out:
        draw(arguments.out, curves, points)
        figures = {"images": len(images), "curves": curves, "points": points}
        arguments.out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")


def foreign(images: torch.Tensor, codec: str, quality: int) -> tuple[float, float]:
    """Mean bytes and PSNR of images (n, c, h, w) by a codec of Pillow's."""
    total, made = 0, []
    for image in images:
        pixels = image.movedim(0, -1).numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(
            buffer, format=codec, quality=quality, **EFFORT[codec])
        total += buffer.tell()
        read = np.array(Image.open(buffer).convert("L" if pixels.shape[-1] == 1 else "RGB"))
        made.append(torch.from_numpy(read.reshape(pixels.shape)).movedim(-1, 0))
    return total / len(images), psnr_db(torch.stack(made), images)


def psnr_db(made: torch.Tensor, images: torch.Tensor) -> float:
    """Of the mean squared error over all images."""
    return 10 * math.log10(255**2 / float((made.double() - images.double()).square().mean()))


def bytes_at(curve: list[tuple[float, float]], psnr: float) -> float:
    """Bytes at a PSNR; nan outside the curve."""
    curve = sorted(curve, key=lambda point: point[1])
    decibels, sizes = [point[1] for point in curve], [math.log(point[0]) for point in curve]
    return math.exp(np.interp(psnr, decibels, sizes, left=math.nan, right=math.nan))


def draw(path: Path, curves: dict, points: dict) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for codec, curve in curves.items():
        axes.plot(*zip(*sorted(curve), strict=True), marker=".", label=codec)
    for name, curve in points.items():
        axes.plot(*zip(*sorted(curve), strict=True), marker="*", markersize=8, linewidth=2, label=Path(name).name)
    largest = 3 * max(size for curve in points.values() for size, _ in curve)
    heights = [psnr for curve in [*curves.values(), *points.values()] for size, psnr in curve if size < largest]
    axes.set(xlim=(0, largest), ylim=(min(heights) - 0.5, max(heights) + 0.5), xlabel="bytes per image",
             ylabel="PSNR, dB")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
