"""Conversion (arXiv 1711.00937, section 4.3): the codes of a sound, decoded with other labels: in another voice."""

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pipelines.generation.decoding import decode
from pipelines.runs.store import TrainedStage
from pipelines.splits import counters
from pipelines.splits.base import Data
from pipelines.splits.noise import generator


def convert(stage1: TrainedStage, codes: Tensor, labels: Tensor, lengths: Tensor, seed: int, batch_size: int) -> Tensor:
    """Codes (n, t[, g]) or (n, t, 1), told other labels (n, L: all of the data's), lengths (n,) in samples -> waves
    (n, 1, t * hop), on the CPU, zero after their lengths. Shows a progress bar with seconds of sound a second."""
    codes = codes[..., 0] if codes.ndim == 3 and codes.shape[-1] == 1 else codes
    columns, rate = stage1.decoder_columns, stage1.example.facts["sample_rate_hz"]
    parts = []
    with tqdm(total=len(codes), desc="decoding", unit="clip", leave=False, dynamic_ncols=True, disable=None) as bar:
        for rows in torch.arange(len(codes)).split(batch_size):
            own = [generator(seed, int(row)) for row in rows]
            told = labels[rows][:, columns] if columns else None
            parts.append(decode(stage1, codes[rows], told, lengths[rows], own))
            bar.update(len(rows))
            made = float(lengths[: int(rows[-1]) + 1].sum()) / rate
            bar.set_postfix_str(f"{made / max(bar.format_dict['elapsed'], 1e-9):.2f} s of sound/s")
    return torch.cat(parts)


def other_classes(labels: Tensor, data: Data | dict, names: list[str], seed: int) -> Tensor:
    """Labels (n, L) in which those called `names` are of another class, drawn evenly by counters; the others stay.

    data: a data set, or a run's `example`."""
    known = data if isinstance(data, dict) else {"label_names": data.label_names, "classes": data.classes}
    result = labels.clone()
    for name in names:
        column = list(known["label_names"]).index(name)
        count = len(known["classes"][column])
        if count > 1:
            steps = 1 + counters.below(counters.words(seed, column, np.arange(len(labels))), count - 1)
            result[:, column] = (labels[:, column] + torch.from_numpy(steps)) % count
    return result
