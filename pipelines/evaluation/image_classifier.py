"""A small classifier of labelled images, trained on real ones, independent of both stages.

Its accuracy on real held-out images says how far it can be trusted; on reconstructions, how much of the content the
codes keep; on class-conditional samples, how many are recognisably of the class they are conditioned on.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.evaluation.classifier import train_classifier
from pipelines.splits.base import Batch, Split
from pipelines.splits.noise import step_integers
from stage1_vqvae.precision import full_float32

STEPS, BATCH, LR = 1500, 128, 2e-3  # three and a half epochs of MNIST


def train_image_classifier(split: Split, column: int, num_classes: int, shape: tuple[int, int, int],
                           device: torch.device, seed: int = 0) -> nn.Module:
    """A convolutional classifier of uint8 images (b, *shape) -> logits (b, num_classes), trained on `split`.

    Images are shifted by up to an eighth of their size while training, so that it reads shapes, not positions."""
    def predict(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        return model(shifted(scaled(batch.x.to(device)), max(1, shape[-1] // 8))), batch.labels[:, column]

    return train_classifier(lambda: _classifier(shape, num_classes), predict, split, steps=STEPS, batch_size=BATCH,
                            lr=LR, seed=seed, device=device)


@torch.no_grad()
@full_float32()
def classify(model: nn.Module, images: Tensor) -> Tensor:
    """The predicted class of each of uint8 images (n, c, h, w): int64 (n,)."""
    device = next(model.parameters()).device
    return torch.cat([model(scaled(part.to(device))).argmax(1).cpu() for part in images.split(500)])


def _classifier(shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    channels, height, width = shape
    size, units = min(height, width), 32
    layers: list[nn.Module] = [nn.Conv2d(channels, units, 3, padding=1), nn.ReLU()]
    while size > 4:  # to a few positions, doubling the units up to 64
        wider = min(2 * units, 64)
        layers += [nn.MaxPool2d(2), nn.Conv2d(units, wider, 3, padding=1), nn.ReLU()]
        size, units = size // 2, wider
    layers += [nn.AdaptiveAvgPool2d(min(size, 4)), nn.Flatten(), nn.Dropout(0.3)]
    layers += [nn.Linear(units * min(size, 4) ** 2, 128), nn.ReLU(), nn.Linear(128, num_classes)]
    return nn.Sequential(*layers)


def scaled(images: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def shifted(images: Tensor, most: int) -> Tensor:
    """The batch moved by one random offset of up to `most` pixels each way; what comes in repeats the edge."""
    height, width = images.shape[-2:]
    top, left = step_integers(2 * most + 1, 2).tolist()
    return F.pad(images, (most, most, most, most), mode="replicate")[..., top : top + height, left : left + width]
