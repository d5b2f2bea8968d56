"""One's own pictures through the codes and back.

    python pipelines/reconstruct.py --run runs/imagenet128 --input holiday.jpg
    python pipelines/reconstruct.py --run pretrained/cifar10_compact --input FOLDER --out FOLDER

Writes each reconstruction, and one picture of originals above reconstructions. Pictures are resized and cropped to what
the run was trained on.
"""

import argparse
from pathlib import Path

import torch

from pipelines import media
from pipelines.data.pictures import find_pictures, load_pictures
from pipelines.errors import InputError, one_line_errors
from pipelines.runs import Run, latest_run, load_stage1
from pipelines.training.distributed import choose_device

SHOWN = 64


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Encodes pictures with a trained run and decodes them again.")
    parser.add_argument("--input", type=Path, required=True, metavar="FILE_OR_FOLDER")
    parser.add_argument("--run", type=Path, help="a run's folder (default: the one whose stage 2 was trained last)")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where to look without --run")
    parser.add_argument("--out", type=Path, help="folder for the pictures (default: RUN/reconstructions)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    if arguments.batch_size < 1:
        raise InputError(f"--batch-size: expected at least 1, found {arguments.batch_size}")
    device = choose_device(arguments.device)
    run = Run(arguments.run) if arguments.run else latest_run(arguments.runs_dir)
    stage1 = load_stage1(run, device)
    example = stage1.config["example"]
    if example["kind"] != "image":
        raise InputError(f"{run.root}: expected a run on images, found one on {example['kind']}")
    paths, originals = load_pictures(find_pictures(arguments.input), tuple(example["shape"]))
    out = arguments.out or run.root / "reconstructions"
    out.mkdir(parents=True, exist_ok=True)

    model, pictures, errors = stage1.module, [], []
    with torch.inference_mode():
        for part in originals.split(arguments.batch_size):
            pictures.append(model.decode(model.encode(part.to(device))).cpu())
            errors.append((pictures[-1].double() - part).square().flatten(1).mean(1))
    pictures, errors = torch.cat(pictures), torch.cat(errors)
    for number, (path, picture) in enumerate(zip(paths, pictures)):
        media.write_picture(out / f"{number:05d}-{path.stem}.png", picture)
    media.write_picture(out / "comparison.png", media.comparison(originals[:SHOWN], pictures[:SHOWN]))
    psnr = (10 * torch.log10(255**2 / errors.clamp(min=1e-12))).mean()
    print(f"{len(paths)} reconstructions with {run.root}, PSNR {psnr:.2f} dB: {out / 'comparison.png'}")


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
