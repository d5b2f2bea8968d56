"""Episodes of frames, with or without actions, as single images or as clips; training clips start anywhere in an
episode.

No clip spans two episodes. An action belongs to the frame that it leads to: actions[t] was taken between frame t - 1
and frame t. Axes: n items of a split, b items of a batch, f frames of a split, t frames of a clip,
c channels, h w pixels, L labels.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from pipelines.data.images import ImageSplit
from pipelines.files.errors import InputError
from pipelines.splits import counters
from pipelines.splits.base import Batch, Data, Split, held_out_size, hold_out
from pipelines.splits.transfer import send_together

CHUNK = 1024  # frames processed at once when iterating over a whole split


@dataclass(frozen=True, kw_only=True)
class ClipSplit(Split):
    """uint8 (b, c, t, h, w), with `Batch.actions`, int64 (b, t), or None, from frames (m, c, h, w) in recorded order.

    With an `epoch` the items are clips from random places of their episodes; without, consecutive clips.
    """

    starts: Tensor  # (n,) int64, first frame of each item, counted within the split; `rows` maps these frames to x
    bounds: Tensor  # (n, 2) int64, first frame and end of each item's episode
    actions: Tensor | None  # (f,) int64
    clip_length: int

    def batch(self, indices: Tensor, seed: int = 0, epoch: int | Tensor | None = None) -> Batch:
        items = indices.cpu()
        epoch = torch.as_tensor(-1 if epoch is None else epoch).cpu()
        begin, end = self.bounds[items].unbind(1)
        bits = counters.words(seed, epoch.numpy(), items.numpy())
        drawn = torch.from_numpy(counters.below(bits, (end - begin - self.clip_length + 1).numpy()))
        starts = torch.where(epoch < 0, self.starts[items], begin + drawn)
        frames = starts[:, None] + torch.arange(self.clip_length)
        own = [] if self.actions is None else [self.actions[frames]]
        here, places, *actions = send_together([items, frames, *own], self.device)
        x = self._fetch(frames.flatten(), places.flatten()).unflatten(0, frames.shape).movedim(1, 2)
        return Batch(x, self.labels[here], actions=actions[0] if actions else None)


class EpisodeData(Data):
    """Frames and actions, episode by episode. A subclass reads or renders them and passes them to `__init__`.

    clip_length: frames per clip; 0: the items are single frames. `validation_fraction` of the episodes, chosen by
    `seed`, are held out; no episode is in both splits.

    frames: uint8 (m, c, h, w), one episode after another; sizes: (episodes,), frames per episode, 0 where it cannot be
    read. actions: (m,) int64, or None. labels: (episodes, L) int64. Raises InputError for settings out of range, and
    for a split without a clip.
    """

    splits = ("train", "validation")
    unreadable: Mapping[str, str] = MappingProxyType({})  # files that were left out, with reasons

    def __init__(self, frames: Tensor, sizes: Tensor, actions: Tensor | None, labels: Tensor,
                 action_names: tuple[str, ...], clip_length: int, validation_fraction: float, seed: int):
        if clip_length < 0:
            raise InputError(f"data.clip_length: expected a number >= 0, found {clip_length}")
        channels, height, width = frames.shape[1:]
        self.kind, self.shape = "image", (channels, height, width)
        if clip_length:
            self.kind, self.shape = "video", (channels, clip_length, height, width)
        self.action_names, self.clip_length = action_names, clip_length
        self._frames, self._actions = frames, actions
        size = held_out_size("data.validation_fraction", validation_fraction, len(sizes))
        ends = sizes.cumsum(0)
        self._parts = {}
        for name, episodes in zip(self.splits, hold_out(len(sizes), size, seed), strict=True):
            rows = torch.cat([torch.arange(ends[episode] - sizes[episode], ends[episode]) for episode in episodes])
            self._parts[name] = rows, sizes[episodes], labels[episodes]
            if not sizes[episodes].max():
                raise InputError(f"{self.name}: expected video for {name}, found none that can be read")
            if clip_length > sizes[episodes].max():
                raise InputError(f"data.clip_length: expected at most {sizes[episodes].max()}, the length of the "
                                 f"longest {name} episode, found {clip_length}")
        short = sum(int(((own > 0) & (own < clip_length)).sum()) for _, own, _ in self._parts.values())
        self.left_out = {"unreadable video": len(self.unreadable)} if self.unreadable else {}
        self.remarks = (f"{int(sizes.sum())} frames of {int((sizes > 0).sum())} episodes",
                        f"{len(action_names)} actions" if action_names else "no actions",
                        *([f"{short} episodes shorter than a clip"] if short else []))

    @abstractmethod
    def _recorded(self, name: str) -> Tensor:
        """The recorded array of that name, one row per frame, (m, ...)."""

    def recorded(self, name: str, split: str) -> Tensor:
        """See `Data.recorded`; for clips (n, t, ...). "pose" is x, y, heading in degrees."""
        rows, sizes, _ = self._parts[split]
        return self._recorded(name)[rows[_places(sizes, self.clip_length)]]

    @property
    def saved_facts(self) -> dict[str, Any]:
        return {"action_names": list(self.action_names)} if self.clip_length else {}

    @cached_property
    def variance(self) -> float:
        """See `Data.variance`; each frame of the training episodes counts once."""
        rows = self._parts["train"][0]
        count, total, squares = 0, 0, 0
        for chunk in rows.split(CHUNK):
            values = self._frames[chunk].long()  # integer sums are exact and independent of the order
            count, total = count + values.numel(), total + int(values.sum())
            squares += int(values.square_().sum())
        return squares / count - (total / count) ** 2

    def _split(self, name: str) -> Split:
        rows, sizes, labels = self._parts[name]
        if not self.clip_length:
            return ImageSplit(self._frames, labels.repeat_interleave(sizes, 0), rows, size=self.shape[1:])
        return self.clips(name, self.clip_length)

    def clips(self, name: str, length: int) -> ClipSplit:
        """The episodes of a split as clips of `length` frames, independent of `clip_length`.

        Raises InputError if no episode is that long."""
        rows, sizes, labels = self._parts[name]
        if not 1 <= length <= sizes.max():
            raise InputError(f"clips: expected 1 to {sizes.max()} frames, the longest {name} episode, found {length}")
        clips, ends = sizes // length, sizes.cumsum(0)
        bounds = torch.stack([ends - sizes, ends], 1)
        return ClipSplit(self._frames, labels.repeat_interleave(clips, 0), rows, starts=_places(sizes, length)[:, 0],
                         bounds=bounds.repeat_interleave(clips, 0), clip_length=length,
                         actions=None if self._actions is None else self._actions[rows])


def _places(sizes: Tensor, clip_length: int) -> Tensor:
    """Frames of each evaluation item, counted within a split: (n,), for clips (n, t)."""
    if not clip_length:
        return torch.arange(sizes.sum())
    clips = sizes // clip_length
    begins = (sizes.cumsum(0) - sizes).repeat_interleave(clips)
    number = torch.arange(clips.sum()) - (clips.cumsum(0) - clips).repeat_interleave(clips)
    return (begins + number * clip_length)[:, None] + torch.arange(clip_length)
