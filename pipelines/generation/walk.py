"""A walk: the prior draws one frame of codes at a time, conditioned on the frames so far and on their actions, and the
decoder turns it into pixels; there is no last frame.

Frame t is drawn from p(codes of t | codes of the `window` frames before it, the actions that led to them and to t). The
window is the number of frames that the prior's temporal stack sees, but at most one less than a training clip has: a
prior never saw more. Until that many frames have passed, all are in it, and a walk draws the very codes that `predict`
draws for a clip with the same seed.

Axes: c channels, k frames of a context, s frames of pixels per frame of codes, h w rows and columns, L labels.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pipelines.files.errors import InputError
from pipelines.generation.actions import local_actions
from pipelines.generation.decoding import decode
from pipelines.generation.labels import conditioning_labels, shown
from pipelines.runs.store import TrainedStage
from pipelines.splits.noise import draws, generator
from stage1_vqvae.autoregressive import AutoregressiveDecoder
from stage1_vqvae.video import PerFrame
from stage2_prior.sampling import sample
from stage2_prior.split import SplitCodes
from stage2_prior.video import GatedPixelCNN3d


class Walk:
    """One walk, which is a function of `seed`, its context and its actions alone.

    labels: int64 (1, L), of the labels that either stage is conditioned on; None for none. truncation: temperature,
    top_k, top_p. Raises InputError for a run that is not on clips, or whose decoder draws pixel by pixel."""

    def __init__(self, stage1: TrainedStage, stage2: TrainedStage, seed: int = 0, labels: Tensor | None = None,
                 **truncation) -> None:
        if stage1.example.kind != "video":
            raise InputError(f"walk: expected a run on video, found one on {stage1.example.kind}")
        if isinstance(stage1.module.decoder, AutoregressiveDecoder):
            raise InputError("walk: expected a decoder that decodes a frame at once, found one that draws its pixels")
        self.stage1, self.stage2, self.truncation = stage1, stage2, truncation
        self.device = next(stage1.module.parameters()).device
        self.generators = [generator(seed, 0)]
        clip, self.grid = stage2.codes.item_shape[0], stage2.codes.item_shape[1:]
        self.stride = stage2.codes.shape[1] // clip
        prior = stage2.module
        network = prior.prior if isinstance(prior, SplitCodes) else prior
        self.window = min(clip - 1, network.frames_seen) if isinstance(network, GatedPixelCNN3d) else clip - 1
        self.kept = 1 if isinstance(stage1.module.decoder, PerFrame) else clip  # frames of codes that are decoded
        names = conditioning_labels(stage1, stage2)
        columns = [[names.index(name) for name in stage.condition_on] for stage in (stage2, stage1)]
        self.prior_labels, self.decoder_labels = (labels[:, own].to(self.device) if own else None for own in columns)
        self.actions = stage1.example.facts["action_names"]
        self.codes = torch.zeros(1, 0, *self.grid, dtype=torch.int64, device=self.device)
        self.taken = torch.zeros(0, dtype=torch.int64)  # actions of the frames of pixels that `codes` has

    def begin(self, context: Tensor, actions: Tensor | None) -> Tensor:
        """Frames uint8 (c, k, h, w) that came before, with their actions int64 (k,) -> the same frames, decoded from
        their codes. Raises InputError where k is not a whole number of frames of codes."""
        count = context.shape[1]
        assert (actions is not None) == bool(self.actions), "the actions of the context come with its frames"
        if not count or count % self.stride:
            raise InputError(f"context: expected a multiple of {self.stride} frames, which one frame of codes covers, "
                             f"found {count}")
        with torch.inference_mode():
            seen = self.stage1.module.encode(context[None].to(self.device))
        draws(self.generators, *seen.shape[1:])  # as many as if they had been drawn
        self._append(seen.clone(), self.taken if actions is None else actions)
        return self._decode(seen)

    def step(self, action: str | None = None) -> Tensor:
        """The next s frames, uint8 (c, s, h, w), all reached by the action of this name; None for a run without
        actions. Raises InputError for an action that the run does not have."""
        if action not in (self.actions or [None]):
            raise InputError(f"action: expected {'one of ' + shown(self.actions) if self.actions else 'none'}, found "
                             f"{action if action is None else repr(action)}")
        taken = torch.tensor([self.actions.index(action)] * self.stride if self.actions else [], dtype=torch.int64)
        start = max(0, self.codes.shape[1] - self.window)
        known = torch.cat([self.codes[:, start:], torch.full((1, 1, *self.grid), -1, device=self.device)], 1)
        uniforms = torch.zeros(known.shape, dtype=torch.float64, device=self.device)
        uniforms[:, -1:] = draws(self.generators, 1, *self.grid)
        local = None
        if self.actions:
            seen = torch.cat([self.taken[start * self.stride :], taken])
            local = local_actions(seen[None], len(self.actions), known.shape[1]).float().to(self.device)
            local = local.expand(-1, -1, -1, *self.grid[:2])
        with one_thread():
            try:
                drawn = sample(self.stage2.module, uniforms, labels=self.prior_labels, local=local, known=known,
                               **self.truncation)
            except ValueError as error:
                raise InputError(f"sampling: {error}") from None
            self._append(drawn[:, -1:], taken)
            return self._decode(self.codes[:, -self.kept :])[:, -self.stride :]

    def _append(self, codes: Tensor, taken: Tensor) -> None:
        """Adds frames of codes, and drops those that nothing depends on any more."""
        longest = max(self.window, self.kept)
        self.codes = torch.cat([self.codes, codes], 1)[:, -longest:]
        self.taken = torch.cat([self.taken, taken])[-longest * self.stride :]

    def _decode(self, codes: Tensor) -> Tensor:
        return decode(self.stage1, codes, self.decoder_labels, None, self.generators)[0]


@contextmanager
def one_thread() -> Iterator[None]:
    """On a CPU one frame is too little work to be divided: on two cores that others use too, threads that wait for one
    another took 135 ms of processor time per frame of the room, one thread 16 ms."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
