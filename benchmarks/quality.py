"""Whether the figures of quality order sets as they should: real, reconstructed, sampled, blurred, shuffled items.

    python -m benchmarks.quality --data-root data                          # pretrained/mnist, two minutes on one core
    python -m benchmarks.quality --run cifar10_compact --data-root data/cifar10-jpeg
    python -m benchmarks.quality --run fsdd --data-root data/fsdd --n 256  # decodes 512 clips: 8 minutes

All sets have as many items, and are compared with the same held-out ones, in the features that evaluate.py uses.
Changed sets are made of these held-out items; "three classes" are training items of the first three classes alone, so
that precision should stay and recall and coverage fall. Prints a table for each network. On the CPU, seeded.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.machine import facts
from pipelines.api import load
from pipelines.commands.flags import VerbParser
from pipelines.evaluation.measured import Subject
from pipelines.evaluation.quality import FIGURES, Made, can_sample, set_figures
from pipelines.files.errors import InputError, one_line_errors
from pipelines.generation.reconstruction import reconstruct
from pipelines.generation.samples import Sampler
from pipelines.kinds import kind_of
from pipelines.runs.data import load_data
from pipelines.runs.settings import Evaluation
from pipelines.splits.base import Batch, Split, columns_of
from pipelines.splits.noise import draws, generator
from pipelines.splits.order import spread

CLASSES = 3
BLUR_PIXELS, NOISE_LEVELS = 1.0, 20.0
CUTOFF_HZ, NOISE_DB, PIECES = 1000.0, 10.0, 8


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("--run", default="mnist", help="default: pretrained/mnist")
    parser.add_argument("--data-root", type=Path, help="folder of its data (default: $DATA_ROOT, data)")
    parser.add_argument("--n", type=int, default=1000, help="items of each set, at most (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    start = time.monotonic()
    loaded = load(arguments.run, "cpu")._loaded
    data = load_data(loaded.run, loaded.stage1, arguments.data_root)
    if data.kind not in CHANGES:
        raise InputError(f"--run: expected a run on {' or '.join(CHANGES)}, found one on {data.kind}")
    name = "test" if "test" in data.splits else "validation"
    split, train, kind = data.split(name), data.split("train"), kind_of(data.kind).evaluation
    count = min(arguments.n, len(split), len(train))
    held_out = split.batch(spread(count, len(split)))
    subject = Subject(loaded, data, name, split, Evaluation(), arguments.seed, torch.device("cpu"))
    sets = {"training items": of(train.batch(spread(count, len(train))))}
    if data.label_names and data.num_classes[0] > CLASSES:
        sets[f"training items, {CLASSES} of {data.num_classes[0]} classes"] = of(some_classes(train, count))
    labels = columns_of(held_out.labels, loaded.stage1.decoder_columns)
    made = reconstruct(loaded, held_out.x, labels, arguments.seed, 64, held_out.lengths)
    sets["reconstructions"] = Made(made, held_out.lengths)
    if can_sample(loaded):
        drawn = Sampler(loaded, arguments.seed).draw(count)
        sets["samples"] = Made(drawn.x, drawn.lengths)
    uniforms = draws([generator(arguments.seed, item) for item in range(count)], held_out.x[0].numel()).float()
    for title, change in CHANGES[data.kind](data).items():
        sets[title] = Made(change(held_out, uniforms), held_out.lengths)
    ready = time.monotonic()
    networks = kind.local_features(subject, held_out)
    trained = time.monotonic()
    for network in networks:
        print(f"\n{arguments.run}, {name} split, {count} items of each set; {network.task} network {network.digest}, "
              f"accuracy {network.accuracy:.1%}\n\n| set | {' | '.join(title for title, _ in FIGURES.values())} |\n"
              f"| --- {'| --- ' * len(FIGURES)}|")
        real = network.extract(*of(held_out))
        for title, own in sets.items():
            figures = set_figures(real, network.extract(*own)).values()
            cells = (f"{value:{form}}" for value, (_, form) in zip(figures, FIGURES.values(), strict=True))
            print(f"| {title} | {' | '.join(cells)} |")
    machine = facts("cpu")
    print(f"\n{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}, load "
          f"{machine['load']}: {ready - start:.0f} s to make the sets, {trained - ready:.0f} s to train the networks, "
          f"{time.monotonic() - trained:.0f} s to compare")


def of(batch: Batch) -> Made:
    return Made(batch.x, batch.lengths)


def some_classes(train: Split, count: int) -> Batch:
    """Training items of the first classes of the first label, evenly spread; fewer where there are not as many."""
    own = (train.labels[:, 0] < CLASSES).nonzero()[:, 0]
    return train.batch(own[spread(min(count, len(own)), len(own))])


def image_changes(data) -> dict[str, Callable[[Batch, Tensor], Tensor]]:
    """Functions of a batch of images and uniforms (n, c h w) -> changed images, by what they do."""
    def blurred(batch: Batch, uniforms: Tensor, pixels: float) -> Tensor:
        from torchvision.transforms.functional import gaussian_blur

        return gaussian_blur(batch.x, [2 * round(3 * pixels) + 1] * 2, [pixels] * 2)

    def noisy(batch: Batch, uniforms: Tensor) -> Tensor:
        noise = torch.special.ndtri(uniforms.clamp(1e-6, 1 - 1e-6)).view_as(batch.x)
        return (batch.x + NOISE_LEVELS * noise).round().clamp(0, 255).to(torch.uint8)

    def shuffled(batch: Batch, uniforms: Tensor, size: int) -> Tensor:
        patches = F.unfold(batch.x.float(), size, stride=size)
        order = uniforms[:, : patches.shape[2]].argsort(1)[:, None].expand_as(patches)
        return F.fold(patches.gather(2, order), batch.x.shape[-2:], size, stride=size).to(torch.uint8)

    quarter = min(data.shape[1:]) // 4
    return {
        f"noise of {NOISE_LEVELS:g} levels": noisy,
        f"blurred by {BLUR_PIXELS:g} pixel": lambda batch, uniforms: blurred(batch, uniforms, BLUR_PIXELS),
        f"blurred by {2 * BLUR_PIXELS:g} pixels": lambda batch, uniforms: blurred(batch, uniforms, 2 * BLUR_PIXELS),
        f"patches of {quarter} pixels shuffled": lambda batch, uniforms: shuffled(batch, uniforms, quarter),
        "pixels shuffled": lambda batch, uniforms: shuffled(batch, uniforms, 1),
    }


def audio_changes(data) -> dict[str, Callable[[Batch, Tensor], Tensor]]:
    """The same of waves (n, 1, t); uniforms (n, t)."""
    def noisy(batch: Batch, uniforms: Tensor) -> Tensor:
        power = batch.x.square().sum(-1, keepdim=True) / batch.lengths[:, None, None]
        noise = torch.special.ndtri(uniforms.clamp(1e-6, 1 - 1e-6))[:, None]
        return within(batch.x + power.sqrt() * 10 ** (-NOISE_DB / 20) * noise, batch.lengths)

    def muffled(batch: Batch, uniforms: Tensor) -> Tensor:
        from torchaudio.functional import lowpass_biquad

        return within(lowpass_biquad(batch.x, data.sample_rate_hz, CUTOFF_HZ), batch.lengths)

    def shuffled(batch: Batch, uniforms: Tensor) -> Tensor:
        made = batch.x.clone()
        for number, length in enumerate(batch.lengths.tolist()):
            size = length // PIECES
            pieces = made[number, 0, : size * PIECES].view(PIECES, size)
            made[number, 0, : size * PIECES] = pieces[uniforms[number, :PIECES].argsort()].flatten()
        return made

    return {f"noise at {NOISE_DB:g} dB": noisy, f"low-pass of {CUTOFF_HZ:g} Hz": muffled,
            f"{PIECES} pieces shuffled": shuffled}


def within(waves: Tensor, lengths: Tensor) -> Tensor:
    """Zeros after the end of each wave (n, 1, t)."""
    return torch.where(torch.arange(waves.shape[-1]) < lengths[:, None, None], waves, 0)


CHANGES = {"image": image_changes, "audio": audio_changes}

if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
