"""How well hidden parts of held-out MNIST digits are filled, by the digits that a classifier reads afterwards.

    python -m benchmarks.filling                                   # 200 test images, 3 masks: an hour on one core
    python -m benchmarks.filling --picture docs/fill_mnist.png     # a picture of some, in place of the table

Each image is completed by `run.sample(complete=..., mask=...)` of pretrained/mnist, no label given. One particle is
filling in raster order, as `known` of `stage2_prior.sampling.sample` does it: each code is drawn given earlier ones
alone, under a label drawn from the training counts. The known codes are the same for all rows of the table.
Prints for each mask and number of particles the mean and its standard error over images: the share of images whose
digit is read right, of labels drawn right, bits of all codes and the label by the prior, effective particles; and the
gain over raster order, paired.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from pipelines.api import TrainedRun, load
from pipelines.commands.flags import VerbParser
from pipelines.evaluation.image_classifier import classify, train_image_classifier
from pipelines.files.errors import one_line_errors
from pipelines.media.images import image_rows, write_image
from pipelines.runs.data import load_data
from pipelines.splits.order import spread

SHOWN, CANDIDATES = 10, 3  # columns of the picture, and filled rows


def masks(height: int, width: int) -> dict[str, Tensor]:
    """bool (h, w), True where an image is hidden."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    left = (columns < width // 2).expand(height, width)
    middle = [(at >= size // 4) & (at < size - size // 4) for at, size in ((rows, height), (columns, width))]
    return {"left half": left, "middle": middle[0] & middle[1], "upper right": (rows < height // 2) & ~left}


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("--run", default="mnist", help="default: pretrained/mnist")
    parser.add_argument("--data-root", type=Path, help="folder of its data (default: $DATA_ROOT, data)")
    parser.add_argument("--n", type=int, default=200, help="images of the test split (default: 200)")
    parser.add_argument("--particles", type=int, nargs="+", default=[8, 32], help="default: 8 32")
    parser.add_argument("--sweeps", type=int, default=0, help="after the particles (default: 0)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="draw some images into this PNG, in place of the table")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    run = load(arguments.run)
    data = load_data(run._loaded.run, run._loaded.stage1, arguments.data_root)
    test = data.split("test").batch(spread(SHOWN if arguments.picture else arguments.n, len(data.split("test"))))
    if arguments.picture:
        return draw(arguments.picture, run, test.x, max(arguments.particles), arguments.seed)
    classifier = train_image_classifier(data.split("train"), 0, len(data.classes[0]), run.shape, torch.device("cpu"))
    truth = test.labels[:, 0]
    read = classify(classifier, test.x) == truth
    print("| hidden | filled by | digit read right | gain | label right | bits (gain) | effective | s an image |")
    print(f"{'| --- ' * 8}|\n| nothing | | {mean(read)} | | | | | |", flush=True)
    for name, hidden in masks(*run.shape[1:]).items():
        first = None
        for particles in (1, *arguments.particles):
            start = time.monotonic()
            filled = run.sample(len(test.x), seed=arguments.seed, complete=test.x, mask=hidden, particles=particles,
                                sweeps=arguments.sweeps if particles > 1 else 0)
            seconds = (time.monotonic() - start) / len(test.x)
            read = classify(classifier, filled.x) == truth
            labels = torch.tensor([run.classes["digit"].index(label) for label in filled.labels["digit"]]) == truth
            first = (read, filled.bits) if first is None else first
            gain = "" if particles == 1 else mean(read.double() - first[0].double())
            saved = "" if particles == 1 else f" ({mean(filled.bits - first[1], 1)})"
            how = "raster order" if particles == 1 else f"{particles} particles"
            print(f"| {name} | {how} | {mean(read)} | {gain} | {mean(labels)} | {mean(filled.bits, 1)}{saved} | "
                  f"{mean(filled.effective, 1)} | {seconds:.2f} |", flush=True)


def mean(x: Tensor, digits: int = 3) -> str:
    """The mean and its standard error."""
    x = x.double()
    return f"{x.mean():.{digits}f} +- {x.std() / len(x) ** 0.5:.{digits}f}"


def draw(path: Path, run: TrainedRun, images: Tensor, particles: int, seed: int) -> None:
    """Rows of images for each mask, one under the other: original, what is given, raster order, candidates by rank."""
    parts = []
    for name, hidden in masks(*run.shape[1:]).items():
        rows = {"original": images, name: torch.where(hidden, 128, images).to(torch.uint8)}
        rows["raster order"] = run.sample(len(images), seed, complete=images, mask=hidden, particles=1).x
        repeated = images.repeat_interleave(CANDIDATES, 0)
        made = run.sample(len(repeated), seed, complete=repeated, mask=hidden, particles=particles)
        ranks = made.bits.view(-1, CANDIDATES).argsort(1)
        for rank in range(CANDIDATES):
            best = ranks[:, rank] + torch.arange(0, len(repeated), CANDIDATES)
            rows[f"candidate {rank + 1}"] = made.x[best]
        parts.append(image_rows(rows))
    widest = max(part.shape[2] for part in parts)
    parts = [torch.nn.functional.pad(part, (widest - part.shape[2], 0), value=255) for part in parts]
    write_image(path, torch.cat(parts, 1))


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
