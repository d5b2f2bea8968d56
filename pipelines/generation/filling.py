"""A hidden part of an item, filled: which of its codes are known, and how the filled item is put together.

A code is known if what is hidden does not change it. Receptive fields cannot say so: those of the encoder of
pretrained/mnist span more than the whole image. So the hidden part is replaced by that of samples of the run, and the
codes that are the same with all of them are known; codes of cells that are partly hidden never are. What stood in the
hidden part is not read.

Axes: n items, c channels, m stand-ins.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.files.errors import InputError
from pipelines.runs.store import TrainedStage

# Samples in the place of what is hidden. Of the codes of MNIST digits that all of them left alone, with a half, the
# middle or a quarter hidden, those of the whole image were 99.3 % with 8, 99.7 % with 16 and 99.9 % with 32.
STAND_INS = 16
FADE_S = 0.008  # of audio, on the visible side of an edge: a jump of the waveform would click
MOST = 10_000  # particles and sweeps


@dataclass(frozen=True)
class Gap:
    """What is to be filled, and how."""

    x: Tensor  # (1 or n, *shape) in data units, padded with zeros where items have lengths
    hidden: Tensor  # bool (1 or n, *grid of the data): to be filled
    lengths: Tensor | None = None  # (1 or n,) int64: how much of the first axis is real
    particles: int = 32  # of the population from which each candidate is drawn
    sweeps: int = 0  # over the codes of a candidate afterwards
    paste: bool = True  # the visible part is that of x, not of the decoder

    def __post_init__(self) -> None:
        for name, least in (("particles", 1), ("sweeps", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MOST:
                raise InputError(f"{name}: expected a number from {least} to {MOST}, found {value!r}")
        if not isinstance(self.paste, bool):
            raise InputError(f"paste: expected True or False, found {self.paste!r}")
        if len(self.x) != len(self.hidden) and 1 not in (len(self.x), len(self.hidden)):
            raise InputError(f"mask: expected one, or one for each of {len(self.x)} items, found {len(self.hidden)}")
        if not self.hidden.flatten(1).any(1).all():
            raise InputError("mask: expected a part to fill, found nothing hidden")

    @property
    def count(self) -> int:
        """How many items are given: 1 that all candidates complete, or one for each."""
        return max(len(self.x), len(self.hidden))

    def rows(self, numbers: range, what: Tensor) -> Tensor:
        """The rows of x, hidden or lengths of the candidates with these numbers."""
        return what.expand(len(numbers), *what.shape[1:]) if len(what) == 1 else what[list(numbers)]


@torch.inference_mode()
def known_codes(stage1: TrainedStage, gap: Gap, stand_ins: Tensor) -> Tensor:
    """Codes int64 (gap.count, *grid[, g]) on the CPU, -1 where they depend on what is hidden.

    stand_ins: (m, *shape) in data units, samples of the run."""
    model, device = stage1.module, next(stage1.module.parameters()).device
    made = []
    for number in range(gap.count):
        one = range(number, number + 1)
        x, hidden = (gap.rows(one, what)[0] for what in (gap.x, gap.hidden))
        codes = model.encode(torch.where(hidden, stand_ins, x).to(device)).cpu()
        grid = model.latent_grid(stage1.example.shape)
        pool = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[len(grid) - 1]
        covered = pool(hidden[None, None].float(), tuple(grid))[0, 0] > 0
        same = (codes == codes[0]).all(0)
        same = same.all(-1) if same.ndim > len(grid) else same
        if gap.lengths is not None:  # padding is neither drawn nor counted
            length = int(gap.rows(one, gap.lengths)[0])
            same[-(-length * len(same) // x.shape[-1]) :] = True
        known = same & ~covered
        made.append(torch.where(known if codes.ndim == known.ndim + 1 else known[..., None], codes[0], -1))
    return torch.stack(made)


def pasted(x: Tensor, hidden: Tensor, made: Tensor, fade: int = 0) -> Tensor:
    """`made` (n, c, *grid) where `hidden` (n, *grid), else x (n, c, *grid).

    fade: of audio, the number of samples on the visible side of an edge over which `made` turns into x."""
    if not fade:
        return torch.where(hidden[:, None], made, x)
    reached = [F.max_pool1d(hidden[:, None].float(), 2 * step + 1, 1, step) for step in range(fade + 1)]
    share = torch.stack(reached).mean(0)
    return made * share + x * (1 - share)
