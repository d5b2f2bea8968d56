"""The variance of the gradient by which an encoder learns its codes, relative to its squared norm.

    python -m benchmarks.gradient_variance --run runs/mnist_vimco --data-root data
    python -m benchmarks.gradient_variance --run runs/cifar10_vimco --draws 32 --evaluations 160 --samples 2 10 50

A row is a bottleneck at one number of decoder evaluations per gradient: S samples of each of evaluations / S images.
A run with VIMCO gives one row for each of its estimators and numbers of samples, any other run one row; with the
weights of the run's start, initialised from data as in training, and with those that it ended with.

Relative variance is trace Cov(g) / |E g|^2 for the gradient g of the objective by all weights of the encoder: 1 means
that one gradient has as much noise as signal, and that n of them are averaged for n times less. `noise`: the images are
fixed, only the codes are drawn anew. `noise and images`: both are, as in training. Numerator and denominator are
estimated without bias. Where |E g|^2 is below two of its standard errors, only a lower limit of the quotient is known,
and printed so: then compare `deviation`, the root of trace Cov(g) with images fixed.
"""

import argparse
import copy
import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from pipelines.commands.flags import VerbParser
from pipelines.files.errors import InputError, one_line_errors
from pipelines.runs.config import build
from pipelines.runs.data import load_data
from pipelines.runs.find import find_run
from pipelines.runs.store import load_stage1
from pipelines.splits.base import Split
from pipelines.splits.noise import seed_step, seed_weights
from pipelines.training.autoencoder import AutoencoderTask
from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.bottlenecks.vimco import VIMCO, Estimator

ESTIMATORS: tuple[Estimator, ...] = ("vimco", "first_order", "second_order")


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("--run", required=True, help="a folder, or a name under runs/")
    parser.add_argument("--data-root", type=Path, help="folder of its data (default: $DATA_ROOT, data)")
    parser.add_argument("--draws", type=int, default=32, help="gradients per figure (default: 32)")
    parser.add_argument("--evaluations", type=int, default=64, help="of the decoder per gradient (default: 64)")
    parser.add_argument("--samples", type=int, nargs="+", default=[2, 8], help="per image, of VIMCO (default: 2 8)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    if arguments.draws < 3:
        raise InputError(f"--draws: expected a number >= 3, found {arguments.draws}")
    for samples in arguments.samples:
        if not 0 < samples <= arguments.evaluations:
            raise InputError(f"--samples: expected numbers from 1 to {arguments.evaluations}, found {samples}")
    run = find_run(arguments.run, Path("runs"))
    trained = load_stage1(run, torch.device("cpu"))
    split = load_data(run, trained, arguments.data_root).split("train")
    seed_weights(trained.config["seed"])
    start = build(trained.config["autoencoder"])
    AutoencoderTask(start, trained.decoder_columns, lambda *_, **__: None).before_first_step(
        split.batch(torch.arange(place, place + 64) % len(split)) for place in itertools.count(0, 64))
    columns = "weights", "estimator", "samples", "images", "norm of E g", "deviation", "noise", "noise and images"
    print(f"| {' | '.join(columns)} |\n{'| --- ' * len(columns)}|")
    for weights, model in (("start", start), ("trained", trained.module)):
        for name, samples, module in variants(model, arguments.samples):
            images = arguments.evaluations // samples
            fixed, fresh = (moments(gradients(module, split, images, arguments.draws, arguments.seed, anew))
                            for anew in (False, True))
            print(f"| {weights} | {name} | {samples} | {images} | {root(fresh[0])} | {root(fixed[1])} "
                  f"| {quotient(*fixed)} | {quotient(*fresh)} |", flush=True)


def variants(model: Autoencoder, samples: list[int]) -> Iterator[tuple[str, int, Autoencoder]]:
    """A VIMCO with each estimator and number of samples that fit each other; any other bottleneck as it is."""
    if not isinstance(model.bottleneck, VIMCO):
        yield type(model.bottleneck).__name__, 1, model
        return
    for estimator in ESTIMATORS:
        for count in [1] if estimator == "second_order" else [count for count in samples if count > 1]:
            module = copy.deepcopy(model)
            assert isinstance(module.bottleneck, VIMCO)
            module.bottleneck.estimator, module.bottleneck.num_samples = estimator, count
            yield estimator, count, module


def gradients(model: Autoencoder, split: Split, images: int, draws: int, seed: int, anew: bool) -> Iterator[Tensor]:
    """Gradients of the loss by the encoder's weights, one vector each; of the same images, or of others each time."""
    model.train().requires_grad_(True)
    weights = list(model.encoder.parameters())
    for step in range(1, draws + 1):
        first = step * images if anew else 0
        x = split.batch(torch.arange(first, first + images) % len(split)).x
        seed_step(seed, step)
        loss = model(x).loss
        yield torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)]).double()


def moments(found: Iterator[Tensor]) -> tuple[float, float, float]:
    """Independent vectors g, three or more -> unbiased estimates of |E g|^2 and of trace Cov(g), and the standard error
    of the former by leaving out each."""
    vectors = torch.stack(list(found))
    n, products = len(vectors), vectors @ vectors.T
    squares, total = products.diagonal(), products.sum()
    signal = (total - squares.sum()) / (n * (n - 1))
    without = (total - 2 * products.sum(1) - (squares.sum() - 2 * squares)) / ((n - 1) * (n - 2))
    error = ((n - 1) / n * (without - without.mean()).square().sum()).sqrt()
    return float(signal), float(squares.mean() - signal), float(error)


def root(square: float) -> str:
    """Of an unbiased estimate, which may be below 0."""
    return f"{max(square, 0.0) ** 0.5:.3g}"


def quotient(signal: float, variance: float, error: float) -> str:
    """trace Cov / |E g|^2; where the denominator is uncertain, with two standard errors added to it."""
    if signal > 2 * error:
        return f"{variance / signal:.3g}"
    return f"> {variance / (max(signal, 0.0) + 2 * error):.3g}"


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
