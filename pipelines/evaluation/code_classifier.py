"""How well position, heading and labels of a frame can be read from its few codes: linear classifiers of the codes,
beside always guessing the commonest class.

A classifier reads one-hot codes, so it is a table of logits for each codebook and position, summed. It is trained on
the codes of the training split and measured on a split that shares no walk with it.

Axes: n items, m codes of an item, k codes of a codebook, L targets.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipelines.data.codes import CodeSplit
from pipelines.evaluation.classifier import accuracy, train_classifier
from pipelines.splits.base import Batch, Data

STEPS, BATCH, LR = 1000, 256, 1e-2
CELLS = 4  # to a side of a place: quartiles of where the walks have been
OCTANTS = 8  # of headings


@dataclass(frozen=True)
class Target:
    """A target of classification: classes in both splits, int64 (n,)."""

    name: str
    train: Tensor
    held_out: Tensor
    classes: int


class LinearClassifier(nn.Module):
    """Codes int64 (b, m) -> logits (b, num_classes); they begin at zero."""

    def __init__(self, codes: int, num_codes: int, num_classes: int):
        super().__init__()
        self.tables = nn.EmbeddingBag(codes * num_codes, num_classes, mode="sum")
        nn.init.zeros_(self.tables.weight)
        self.bias = nn.Parameter(torch.zeros(num_classes))
        self.register_buffer("starts", torch.arange(codes) * num_codes)

    def forward(self, codes: Tensor) -> Tensor:
        return self.tables(codes + self.starts) + self.bias


def targets(data: Data, split: str) -> list[Target]:
    """The labels of a data set; where poses are recorded also the position (a cell of its place) and the heading (an
    eighth of a turn). Places are the classes of the first label, if there is one."""
    labels = [data.split(name).labels for name in ("train", split)]
    found = [Target(name, labels[0][:, column], labels[1][:, column], len(data.classes[column]))
             for column, name in enumerate(data.label_names)]
    if "pose" in data.recorded_names:
        poses = [data.recorded("pose", name).double() for name in ("train", split)]
        places = [own[:, 0] if data.label_names else torch.zeros(len(own), dtype=torch.int64) for own in labels]
        number = len(data.classes[0]) if data.label_names else 1
        cells = position_cells([pose[:, :2] for pose in poses], places, number)
        found += [Target("position", cells[0], cells[1], number * CELLS**2),
                  Target("heading", octants(poses[0]), octants(poses[1]), OCTANTS)]
    return found


def position_cells(positions: list[Tensor], places: list[Tensor], number: int) -> list[Tensor]:
    """Positions (n, 2) of the training and another split, their places (n,) -> of both the cells, int64 (n,).

    The edges are quartiles of x and of y of the training positions in that place."""
    cells = [torch.zeros(len(own), dtype=torch.int64) for own in positions]
    shares = torch.arange(1, CELLS, dtype=torch.float64) / CELLS
    for place in range(number):
        known = positions[0][places[0] == place]
        for axis in (0, 1) if len(known) else ():
            edges = known[:, axis].quantile(shares)
            for own, position, where in zip(cells, positions, places, strict=True):
                here = where == place
                own[here] += torch.bucketize(position[here, axis].contiguous(), edges) * CELLS**axis
    return [own + where * CELLS**2 for own, where in zip(cells, places, strict=True)]


def octants(poses: Tensor) -> Tensor:
    """Poses (n, 3), headings in degrees -> int64 (n,): 0 is from -22.5 to 22.5 degrees."""
    return ((poses[:, 2] + 180 / OCTANTS) * OCTANTS / 360).floor().long() % OCTANTS


@torch.no_grad()
def classify(model: nn.Module, codes: Tensor) -> Tensor:
    """The predicted class of codes (n, m): int64 (n,), on the CPU."""
    device = next(model.parameters()).device
    return torch.cat([model(part.to(device)).argmax(1).cpu() for part in codes.split(4096)])


def code_classifiers(train: Tensor, held_out: Tensor, num_codes: int, wanted: list[Target],
                     device: torch.device) -> dict:
    """Codes (n, m) of both splits -> for each target the accuracy on the held-out split, that of always guessing the
    commonest training class, and (accuracy - guess) / (1 - guess): 0 for the guess, 1 if all are right."""
    found = {}
    for target in wanted:
        split = CodeSplit(train, target.train[:, None], num_codebooks=train.shape[1]).to(device)

        def predict(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
            return model(batch.x), batch.labels[:, 0]

        model = train_classifier(lambda: LinearClassifier(train.shape[1], num_codes, target.classes), predict, split,
                                 steps=STEPS, batch_size=BATCH, lr=LR, seed=0, device=device,
                                 title=f"classifier {target.name}")
        right = accuracy(classify(model, held_out), target.held_out)
        guess = float((target.held_out == torch.bincount(target.train).argmax()).double().mean())
        share = (right - guess) / (1 - guess) if guess < 1 else None
        found[target.name] = {"accuracy": right, "guess": guess, "normalised": share, "classes": target.classes}
    return found
