"""Local features, in which sets of items are compared (quality.py): those of a small network trained here on real
training items of the same data.

For images and frames of video the network is trained to name the first label, or, where there are no labels, to tell
by which quarter turn an image was rotated (Gidaris et al., arXiv 1803.07728). It is a function of the training items
alone: on a CPU it is trained on one thread, so that the number of threads changes no bit. A digest of its weights says
whether figures of two runs are those of the same network.

Axes: n items or b of a batch, c channels, t frames, h rows, w columns, d features.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import safetensors.torch
import torch
from einops import reduce
from torch import Tensor, nn

from pipelines.evaluation.classifier import accuracy, train_classifier
from pipelines.evaluation.image_classifier import scaled, shifted
from pipelines.generation.walk import one_thread
from pipelines.splits.base import Batch, Data
from pipelines.splits.noise import step_integers
from stage1_vqvae.precision import full_float32

STEPS, BATCH, LR = 1000, 64, 3e-3
UNITS, FEATURES = 32, 64
CELLS = 14  # about so many positions to a side after the first layer, however large the images are: the cost is bounded
TURNS = 4
DIGITS = 12  # of the digest
PART = 250  # images whose features are computed at once


@dataclass(frozen=True)
class LocalFeatures:
    """A trained network, and what is to be known of it."""

    task: str  # the label that it names, or "rotation"
    accuracy: float  # at its task, on the held-out items that are compared
    digest: str  # of its weights
    extract: Callable[[Tensor, Tensor | None], Tensor]  # items, lengths -> float64 (n, d) on the CPU


class ImageNetwork(nn.Module):
    """Images float (b, c, h, w) -> logits (b, num_classes); `features` (b, d) are what the last layer reads."""

    def __init__(self, channels: int, size: int, num_classes: int):
        super().__init__()
        stride = max(1, size // CELLS)
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, UNITS, 2 * stride + 1, stride, padding=stride), nn.ReLU(),
            nn.Conv2d(UNITS, FEATURES, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(FEATURES, FEATURES, 3, padding=1), nn.ReLU(),
        )
        self.output = nn.Linear(FEATURES, num_classes)

    def features(self, x: Tensor) -> Tensor:
        return reduce(self.convolutions(x), "b d h w -> b d", "mean")

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.features(x))


def image_features(data: Data, held_out: Batch, device: torch.device, seed: int = 0) -> LocalFeatures:
    """Of images uint8 (n, c, h, w) or clips (n, c, t, h, w), whose frames give a row of features each."""
    shape, labelled = (data.shape[0], *data.shape[-2:]), bool(data.label_names)
    classes, shift = len(data.classes[0]) if labelled else TURNS, max(1, min(shape[1:]) // 8)

    def predict(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        x = one_frame(batch.x.to(device))
        x, found = (x, batch.labels[:, 0]) if labelled else rotated(x)
        return model(shifted(scaled(x), shift)), found

    def extract(items: Tensor, lengths: Tensor | None) -> Tensor:
        return in_parts(lambda x: model.features(scaled(x)), frames(items), device).double()

    with one_thread():
        model = train_classifier(lambda: ImageNetwork(shape[0], min(shape[1:]), classes), predict,
                                 data.split("train").to(device), steps=STEPS, batch_size=BATCH, lr=LR, seed=seed,
                                 device=device, title="network of local features", off="evaluate.quality=0")
    images = frames(held_out.x)
    if labelled:
        x, true = images, held_out.labels[:, 0].repeat_interleave(len(images) // len(held_out.x))
    else:
        x, true = rotated(images.repeat_interleave(TURNS, 0))
    seen = in_parts(lambda x: model(scaled(x)), x, device).argmax(1)
    return LocalFeatures(data.label_names[0] if labelled else "rotation", accuracy(seen, true.cpu()), digest(model),
                         extract)


def digest(model: nn.Module) -> str:
    """The first hexadecimal digits of the SHA-256 of a network's weights."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return hashlib.sha256(safetensors.torch.save(weights)).hexdigest()[:DIGITS]


@torch.no_grad()
@full_float32()
def in_parts(compute: Callable[[Tensor], Tensor], x: Tensor, device: torch.device) -> Tensor:
    """compute(x), a part of x at a time, on one thread; the result is on the CPU."""
    with one_thread():
        return torch.cat([compute(part.to(device)).cpu() for part in x.split(PART)])


def frames(items: Tensor) -> Tensor:
    """Images, or all frames of clips one after the other: (n, c, h, w)."""
    return items if items.ndim == 4 else items.movedim(2, 1).flatten(0, 1)


def one_frame(items: Tensor) -> Tensor:
    """Images, or a frame of each clip, drawn from the present step's random numbers."""
    if items.ndim == 4:
        return items
    rows = torch.arange(len(items), device=items.device)
    return items[rows, :, step_integers(items.shape[2], len(items)).to(items.device)]


def rotated(images: Tensor) -> tuple[Tensor, Tensor]:
    """Images (b, c, h, w), b a multiple of 4, cut to their middle squares, image i rotated by i % 4 quarter turns; and
    these numbers, int64 (b,)."""
    side = min(images.shape[-2:])
    top, left = ((size - side) // 2 for size in images.shape[-2:])
    square = images[..., top : top + side, left : left + side]
    turned = torch.stack([square[turns::TURNS].rot90(turns, (2, 3)) for turns in range(TURNS)], 1).flatten(0, 1)
    return turned, torch.arange(len(images), device=images.device) % TURNS
