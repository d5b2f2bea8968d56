"""Training of the small classifiers that evaluation uses, of images, audio and codes."""

import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from pipelines.splits.base import Batch, Split
from pipelines.splits.noise import seed_step
from pipelines.splits.order import step_items
from stage1_vqvae.precision import full_float32

MAX_EPOCHS, FEWEST = 120, 200  # passes over 1,600 items or fewer, as the embedded digits; steps for the fewest


@full_float32()
def train_classifier(
    make: Callable[[], nn.Module], predict: Callable[[nn.Module, Batch], tuple[Tensor, Tensor]], split: Split, *,
    steps: int, batch_size: int, lr: float, seed: int, device: torch.device, title: str = "classifier",
    off: str = "evaluate.classifier=false",
) -> nn.Module:
    """A classifier in eval mode: AdamW, one cycle of the learning rate.

    make: () -> the untrained model. predict: (model, batch) -> logits (b, num_classes), augmentation included, and the
    true classes (b,). Whatever they draw from torch's global generator, the weights are a function of the split and
    `seed`. steps: at most; see `bounded_steps`. A line on stderr announces the training, and which setting, `off`,
    leaves it out."""
    steps = bounded_steps(steps, batch_size, len(split))
    print(f"{title}: {steps} steps on {len(split)} training items ({off} leaves it out)",
          file=sys.stderr)
    seed_step(seed, 0)
    model = make().to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps)
    for step in tqdm(range(1, steps + 1), desc=title, leave=False, dynamic_ncols=True, disable=None):
        seed_step(seed, step)
        indices, _ = step_items(seed, step, batch_size, len(split))
        batch = split.batch(torch.from_numpy(indices))
        logits, true = predict(model, batch)
        loss = F.cross_entropy(logits, true.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def bounded_steps(steps: int, batch_size: int, items: int) -> int:
    """`steps`, but at most MAX_EPOCHS passes over the items, or FEWEST steps: a few hundred items need no more."""
    return min(steps, max(FEWEST, -(-MAX_EPOCHS * items // batch_size)))


def accuracy(seen: Tensor, true: Tensor) -> float:
    """Share of classes int64 (n,) that are the true ones."""
    return float((seen == true).double().mean())
