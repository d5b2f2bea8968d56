"""New pictures by ancestral sampling: prior -> codes -> decoder.

    python pipelines/sample.py --n 64                                # the run whose stage 2 was trained last
    python pipelines/sample.py --run pretrained/mnist --label digit=7 --temperature 0.9 --seed 1
    python pipelines/sample.py --complete half-a-digit.png           # keeps the upper half, draws the rest

Writes single pictures and one grid of them. Sample i depends on --seed and i alone, not on --n or --batch-size.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from pipelines import media
from pipelines.data.pictures import load_pictures
from pipelines.errors import InputError, one_line_errors
from pipelines.generate import generate, load_chain
from pipelines.runs import Run, TrainedStage, latest_run
from pipelines.training.distributed import choose_device


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="New pictures from a trained run, by ancestral sampling.")
    parser.add_argument("--run", type=Path, help="a run's folder (default: the one whose stage 2 was trained last)")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where to look without --run")
    parser.add_argument("--n", type=int, default=64, help="how many")
    parser.add_argument("--label", action="append", default=[], metavar="NAME=CLASS",
                        help="condition on a class (repeatable); labels not given are drawn as often as in training")
    parser.add_argument("--temperature", type=float, default=1.0, help="0: always the most likely code")
    parser.add_argument("--top-k", type=int, help="draw among the k most likely codes")
    parser.add_argument("--top-p", type=float, help="draw among the most likely codes of this total probability")
    parser.add_argument("--complete", type=Path, metavar="PICTURE", help="keep its upper part, draw what is below")
    parser.add_argument("--keep", type=float, default=0.5, help="with --complete: the share of rows to keep")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the pictures (default: RUN/samples)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    for name in ("n", "batch_size"):
        if getattr(arguments, name) < 1:
            raise InputError(f"--{name.replace('_', '-')}: expected at least 1, found {getattr(arguments, name)}")
    if arguments.seed < 0:
        raise InputError(f"--seed: expected 0 or more, found {arguments.seed}")
    device = choose_device(arguments.device)
    run = Run(arguments.run) if arguments.run else latest_run(arguments.runs_dir)
    stage1, stage2 = load_chain(run, device)
    wanted = parse_labels(arguments.label, stage2.config["condition_on"])
    known = known_codes(arguments, stage1, stage2, device) if arguments.complete else None
    print(f"sampling {arguments.n} from {run.root} (prior of step {stage2.state['step']})")

    start = time.monotonic()
    images, _, _ = generate(stage1, stage2, arguments.n, arguments.seed, arguments.batch_size, device, wanted, known,
                            temperature=arguments.temperature, top_k=arguments.top_k, top_p=arguments.top_p)
    seconds = time.monotonic() - start

    out = arguments.out or run.samples
    out.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        media.write_picture(out / f"{number:05d}.png", image)
    media.write_picture(out / "grid.png", media.grid(images))
    print(f"{arguments.n} samples in {seconds:.1f} s: {out / 'grid.png'}")


def parse_labels(pairs: list[str], names: list[str]) -> dict[str, str]:
    """["digit=7"] -> {"digit": "7"}; the name may be left out where the prior has just one label."""
    wanted = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals and len(names) == 1:
            name, value = names[0], pair
        elif not equals:
            raise InputError(f"--label: expected NAME=CLASS with a name among {names}, found {pair!r}")
        wanted[name] = value
    return wanted


def known_codes(arguments, stage1: TrainedStage, stage2: TrainedStage, device: torch.device) -> Tensor:
    """The codes of the upper rows of a picture, -1 below, for each of the samples: int64 (n, *grid[, g])."""
    if not 0 <= arguments.keep <= 1:
        raise InputError(f"--keep: expected a share between 0 and 1, found {arguments.keep}")
    _, picture = load_pictures([arguments.complete], tuple(stage2.config["codes"]["shape"]))
    codes = stage1.module.encode(picture.to(device))
    codes[:, round(arguments.keep * codes.shape[1]) :] = -1
    return codes.expand(arguments.n, *codes.shape[1:])


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
