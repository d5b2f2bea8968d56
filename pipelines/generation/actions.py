"""Actions of clips: how a prior is conditioned on them, and how those of a new clip are chosen.

An action belongs to the frame that it leads to. Axes: b clips, t frames, s frames of pixels per frame of codes.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from pipelines.data.frames_folder import action_lines
from pipelines.files.errors import InputError
from pipelines.generation.labels import shown

RECORDED = "recorded"  # instead of an action's name: the actions in the data


def local_actions(actions: Tensor, num_actions: int, code_frames: int) -> Tensor:
    """Actions (b, t) int64 -> the prior's local features, uint8 (b, s * num_actions, code_frames, 1, 1), one-hot.

    Where time is compressed, s = t / code_frames > 1, a frame of codes has the actions of the s frames that it covers,
    one after another, and no other: (1, 16) of 3 actions, 8 frames of codes -> (1, 6, 8, 1, 1).
    """
    chosen = F.one_hot(actions, num_actions).to(torch.uint8)
    return rearrange(chosen, "b (t s) a -> b (s a) t 1 1", t=code_frames)


def wanted_actions(wanted: str, names: Sequence[str], frames: int) -> Tensor:
    """Actions of `frames` frames, int64 (frames,): the name of one action for all, or a file with one name per line.

    Raises InputError for anything else, for a file of another length, for an action that is not among `names`, and
    where there are none."""
    if not names:
        raise InputError(f"actions: expected a run on video with actions, found one without and {wanted!r}")
    if not isinstance(wanted, str | Path):
        raise InputError(f"actions: expected one of {shown(names)}, or a file of them, found {wanted!r}")
    if wanted in names:
        return torch.full((frames,), list(names).index(wanted))
    path = Path(wanted)
    if not path.is_file():
        raise InputError(f"actions: expected one of {shown(names)}, or a file of them, found {wanted!r}")
    lines = action_lines(path)
    if len(lines) != frames:
        raise InputError(f"{path}: expected {frames} lines, one action per frame, found {len(lines)}")
    for number, line in enumerate(lines, start=1):
        if line not in names:
            raise InputError(f"{path}: line {number}: expected one of {shown(names)}, found {line!r}")
    return torch.tensor([list(names).index(line) for line in lines])
