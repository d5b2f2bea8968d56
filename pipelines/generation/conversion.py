"""Conversion (arXiv 1711.00937, section 4.3): the codes of a recording, decoded with other labels: in another voice."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pipelines.generation.decoding import decode
from pipelines.ranks.shares import shared
from pipelines.runs.store import TrainedStage
from pipelines.splits import counters
from pipelines.splits.noise import generator


def convert(stage1: TrainedStage, codes: Tensor, labels: Tensor | None, lengths: Tensor, seed: int,
            batch_size: int) -> Tensor:
    """Codes (n, t[, g]) or (n, t, 1), decoder labels (n, L), lengths (n,) in samples -> waves (n, 1, t * hop), on the
    CPU, zero after their lengths. Shows a progress bar with seconds of audio per second."""
    codes = codes[..., 0] if codes.ndim == 3 and codes.shape[-1] == 1 else codes
    rate = stage1.example.facts["sample_rate_hz"]

    def of_rows(rows: Tensor) -> Tensor:
        own = [generator(seed, int(row)) for row in rows]
        return decode(stage1, codes[rows], None if labels is None else labels[rows], lengths[rows], own)

    batches, parts = torch.arange(len(codes)).split(batch_size), []
    with tqdm(total=len(codes), desc="decoding", unit="clip", leave=False, dynamic_ncols=True, disable=None) as bar:
        for rows, made in zip(batches, shared(batches, of_rows), strict=True):
            parts.append(made)
            bar.update(len(rows))
            seconds = float(lengths[: int(rows[-1]) + 1].sum()) / rate
            bar.set_postfix_str(f"{seconds / max(bar.format_dict['elapsed'], 1e-9):.2f} s of audio/s")
    return torch.cat(parts)


def other_classes(labels: Tensor, label_names: Sequence[str], classes: Sequence[Sequence[str]], changed: Sequence[str],
                  seed: int, turn: int = 0) -> Tensor:
    """Labels (n, L) in which those named `changed` are of another class, drawn evenly by counters; the others stay.

    Of K classes, turns 0 to K - 2 give each other class once."""
    result = labels.clone()
    for name in changed:
        column = list(label_names).index(name)
        count = len(classes[column])
        if count > 1:
            first = counters.below(counters.words(seed, column, np.arange(len(labels))), count - 1)
            steps = 1 + (first + turn) % (count - 1)
            result[:, column] = (labels[:, column] + torch.from_numpy(steps)) % count
    return result
