"""What a file is coded by: copies of a run's prior and decoder in float64, on the CPU, and the run's fingerprint.

In float64 implementations differ by less than a thousandth of what the coder tolerates, so a file that was written on
one machine, by one implementation, is read on any other.
"""

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.codec.container import FINGERPRINT
from pipelines.files.errors import InputError
from pipelines.generation.actions import local_actions, wanted_actions
from pipelines.generation.labels import class_number, classes_of, conditioning_labels
from pipelines.generation.scores import prior_labels, trained_prior
from pipelines.runs.chain import LoadedRun
from pipelines.runs.store import TrainedStage, stage1_hash, stage2_hash
from pipelines.splits.base import columns_of
from pipelines.splits.lengths import CLOCK_CHANNELS, conditioning
from stage1_vqvae.autoregressive import AutoregressiveDecoder
from stage1_vqvae.bottlenecks.base import Quantizer
from stage2_prior.coder import Decoder, Encoder
from stage2_prior.coding import logits_of, read, write
from stage2_prior.prior import Prior

UNKNOWN = -1  # in place of a class that is not given
AT_ONCE = 2**23  # log-masses of levels, float64, that are computed at once


@dataclass(frozen=True)
class Group:
    """Items and what they are coded with, on the CPU."""

    codes: Tensor  # (n, *grid[, g]) int64; 0 beyond the lengths
    labels: Tensor  # (n, L) int64, of `Models.names`
    lengths: Tensor | None = None  # (n,) in data units, where items are padded
    actions: Tensor | None = None  # (n, t) int64, where the prior is conditioned on actions
    x: Tensor | None = None  # (n, *shape) in data units, of lossless files

    def __len__(self) -> int:
        return len(self.codes)

    def part(self, rows: slice) -> "Group":
        return Group(*(None if x is None else x[rows]
                       for x in (self.codes, self.labels, self.lengths, self.actions, self.x)))

    def content(self) -> bytes:
        """What a record's checksum is of."""
        parts = [self.codes.to(torch.int32), self.labels, self.lengths, self.actions, self.x]
        return b"".join(np.ascontiguousarray(part.numpy().astype(part.numpy().dtype.newbyteorder("<"))).tobytes()
                        for part in parts if part is not None)


class Models:
    """Raises InputError for a run without codes or without a prior."""

    def __init__(self, loaded: LoadedRun) -> None:
        self.loaded, self.stage1 = loaded, loaded.stage1
        if not isinstance(self.stage1.module.bottleneck, Quantizer):
            raise InputError(f"{loaded.run.root}: expected codes, found "
                             f"{type(self.stage1.module.bottleneck).__name__}")
        self.stage2 = trained_prior(loaded)
        self.names = conditioning_labels(self.stage1, self.stage2)
        self.prior_columns = [self.names.index(name) for name in self.stage2.condition_on]
        self.decoder_columns = [self.names.index(name) for name in self.stage1.condition_on]
        self.num_actions = len(actions_of(loaded))
        self.padded = self.stage2.codes.length_counts is not None
        if not holds_conditions(loaded):
            raise InputError(f"{loaded.run.root}: expected a prior without local features of the data, which a file "
                             "does not hold, found one that is conditioned on some")

    @property
    def device(self) -> torch.device:
        """Of the encoder."""
        return next(self.stage1.module.parameters()).device

    @cached_property
    def fingerprint(self) -> bytes:
        """Of all weights and settings that decoding depends on."""
        stages = [stage1_hash(self.stage1), stage2_hash(self.stage2), *map(stage1_hash, self.loaded.parents)]
        counts = [self._counts(column) for column in range(len(self.names))], self.stage2.codes.length_counts
        return hashlib.sha256(repr((stages, counts)).encode()).digest()[:FINGERPRINT]

    @cached_property
    def prior(self) -> Prior:
        """In float64, on the CPU."""
        return _twin(self.stage2.module)

    @cached_property
    def autoencoder(self) -> nn.Module:
        """In float64, on the CPU."""
        return _twin(self.stage1.module)

    def check_lossless(self) -> None:
        """Raises InputError where the decoder's likelihood is not that of the data's own levels."""
        likelihood = self.stage1.module.likelihood
        if not likelihood.exact:
            raise InputError(f"{self.loaded.run.root}: lossless: expected images, video or codes, whose own values the "
                             f"decoder models, found {self.stage1.example.kind}, of which it models the symbols of "
                             f"{type(likelihood).__name__}")

    # --- what codes are conditioned on ----------------------------------------------------------------------

    def wanted_labels(self, wanted: Mapping[str, str], count: int) -> Tensor:
        """Classes by name -> (count, L), UNKNOWN where not given. Raises InputError for those that do not exist, and
        for a label of the decoder that is not given."""
        for name in wanted:
            if name not in self.names:
                raise InputError(f"label: expected one of the labels {self.names} of this run, found {name!r}")
        row = []
        for name in self.names:
            if name in wanted:
                row.append(class_number(f"label {name}", wanted[name], classes_of(self.stage1.example, name)))
            elif name in self.stage1.condition_on:
                raise InputError(f"label: expected {name}=CLASS, which the decoder is conditioned on, found none")
            else:
                row.append(UNKNOWN)
        return torch.tensor([row] * count, dtype=torch.int64).view(count, len(row))

    def wanted_actions(self, actions: Any, count: int, frames: int | None = None) -> Tensor | None:
        """One action's name for all frames, a file of them, or (count, t) int64 -> (count, t). frames: t; None: that
        of the run's items. Raises InputError where they do not fit."""
        if actions is None:
            return None
        if not self.num_actions:
            raise InputError(f"actions: expected none for {self.loaded.run.root}, whose prior is not conditioned on "
                             f"actions, found {str(actions)[:40]!r}")
        frames = self.stage1.example.shape[1] if frames is None else frames
        if isinstance(actions, str | Path):
            return wanted_actions(str(actions), self.stage1.example.facts["action_names"], frames).expand(count, -1)
        chosen = torch.as_tensor(actions)
        if tuple(chosen.shape) != (count, frames) or chosen.dtype != torch.int64 or (
                chosen.min() < 0 or chosen.max() >= self.num_actions):
            raise InputError(f"actions: expected int64 ({count}, {frames}) from 0 to {self.num_actions - 1}, found "
                             f"{chosen.dtype} {tuple(chosen.shape)}")
        return chosen

    def positions(self, lengths: Tensor | None) -> Tensor | None:
        """Lengths in data units -> in codes."""
        if lengths is None:
            return None
        return -(-lengths * self.stage1.grid[0] // self.stage1.example.shape[-1])

    def without_padding(self, values: Tensor, lengths: Tensor | None) -> Tensor:
        """Values (n, positions, ...) of codes, 0 beyond the lengths, which are in data units."""
        positions = self.positions(lengths)
        if positions is None:
            return values
        real = torch.arange(values.shape[1]) < positions[:, None]
        return values * real.view(*real.shape, *[1] * (values.ndim - 2))

    def local(self, group: Group, grid: tuple[int, ...] | None = None) -> Tensor | None:
        """What the prior is conditioned on at each position. grid: of the codes; None: that of the group's."""
        positions = self.positions(group.lengths)
        if grid is None:
            grid = self.grid_of(group)
        if self.padded and positions is None:
            positions = torch.full((len(group.labels),), grid[0])
        actions = None
        if self.num_actions:
            assert group.actions is not None
            actions = local_actions(group.actions, self.num_actions, grid[0]).expand(-1, -1, *grid).double()
        local = conditioning(actions, positions if self.stage2.condition_on_length else None, grid[0],
                             self.stage1.grid[0])
        return None if local is None else local.double()

    def grid_of(self, group: Group) -> tuple[int, ...]:
        """The grid of a group's codes."""
        return tuple(group.codes.shape[1 : 1 + len(self.stage1.grid)])

    @torch.no_grad()
    def likeliest_labels(self, group: Group) -> Tensor:
        """The labels (n, L), those that are UNKNOWN replaced by the likeliest ones."""
        labels = group.labels
        given = [name for name, column in zip(self.names, labels.T, strict=True) if not (column == UNKNOWN).any()]
        if len(given) == len(self.names):
            return labels
        best, chosen = torch.full((len(labels),), -math.inf, dtype=torch.float64), labels.clone()
        local, positions = self.local(group), self.positions(group.lengths)
        for choice, log_weight in zip(*prior_labels(self.stage2, given), strict=True):
            row = torch.full((len(self.names),), UNKNOWN)
            row[self.prior_columns] = choice
            rows = torch.where(labels == UNKNOWN, row, labels)
            own = rows[:, self.prior_columns] if self.prior_columns else None
            log_p = log_weight + self.stage2.module.log_prob(
                *self._on_device(group.codes, own, None if local is None else local.float(), positions)
            ).double().cpu()
            better = log_p > best
            best, chosen = torch.where(better, log_p, best), torch.where(better[:, None], rows, chosen)
        return chosen

    def _counts(self, column: int) -> tuple[int, ...]:
        return self.stage2.codes.label_counts[self.stage2.codes.label_names.index(self.names[column])]

    def _on_device(self, *tensors: Tensor | None) -> list[Tensor | None]:
        device = next(self.stage2.module.parameters()).device
        return [None if x is None else x.to(device) for x in tensors]

    # --- items to streams and back --------------------------------------------------------------------------

    def code_logits(self, group: Group) -> Tensor:
        """float64 (n, k, *grid[, g]), of sub-codes where the prior splits codes."""
        return logits_of(self.prior, group.codes, columns_of(group.labels, self.prior_columns), self.local(group))

    def write(self, group: Group, logits: Tensor) -> Encoder:
        """A stream of the items of a group. logits: as of `code_logits`."""
        encoder = Encoder()
        for column in range(len(self.names)):
            own = self.label_logits(column)
            encoder.codes(own.repeat(len(group), 0), group.labels[:, column].numpy())
        if group.lengths is not None:
            positions = self.positions(group.lengths)
            encoder.codes(self._length_logits.repeat(len(group), 0), positions.numpy() - 1)
            for beyond in (positions * self._hop - group.lengths).tolist():
                encoder.bits(beyond, self._hop_bits)
        for action in [] if group.actions is None or not self.num_actions else group.actions.flatten().tolist():
            encoder.bits(action, self.num_actions.bit_length())
        write(encoder, logits, self.prior.sub_codes(group.codes), self.positions(group.lengths))
        if group.x is not None:
            self._write_data(encoder, group)
        return encoder

    def read(self, payloads: Sequence[bytes], counts: Sequence[int], lossless: bool,
             implementation: str | None = None, piece: tuple[int, ...] | None = None) -> list[Group]:
        """The items of several streams, `counts` of each. Damaged streams yield anything.

        piece: the grid of codes of pieces of larger items; None: whole items."""
        grid = self.stage1.grid if piece is None else piece
        decoder, total = Decoder(payloads), sum(counts)
        streams = np.repeat(np.arange(len(counts)), counts)
        labels = np.zeros((total, len(self.names)), np.int64)
        for column in range(len(self.names)):
            labels[:, column] = decoder.codes(self.label_logits(column).repeat(total, 0), streams)
        lengths = actions = None
        if self.padded and piece is None:
            positions = 1 + torch.from_numpy(decoder.codes(self._length_logits.repeat(total, 0), streams))
            beyond = torch.tensor([decoder.bits(stream, self._hop_bits) for stream in streams])
            lengths = positions * self._hop - beyond.clamp(max=self._hop - 1)
        if self.num_actions:
            frames = self.frames(grid)
            found = [decoder.bits(stream, self.num_actions.bit_length()) for stream in streams for _ in range(frames)]
            actions = torch.tensor(found).view(total, frames).clamp(max=self.num_actions - 1)
        group = Group(torch.zeros(total, 0, dtype=torch.int64), torch.from_numpy(labels), lengths, actions)
        codes = read(decoder, streams.tolist(), self.prior, grid, columns_of(group.labels, self.prior_columns),
                     self.local(group, grid), self.positions(lengths), implementation)
        group = replace(group, codes=codes)
        if lossless:
            group = replace(group, x=self._read_data(decoder, streams, group, implementation))
        ends = np.cumsum(counts)
        return [group.part(slice(end - count, end)) for end, count in zip(ends.tolist(), counts, strict=True)]

    def frames(self, grid: Sequence[int]) -> int:
        """Frames of video for a grid of codes."""
        return self.stage1.example.shape[1] // self.stage1.grid[0] * grid[0]

    def label_logits(self, column: int) -> np.ndarray:
        """(1, classes): of the training frequencies."""
        with np.errstate(divide="ignore"):
            return np.log(np.asarray(self._counts(column), np.float64))[None]

    @property
    def _hop(self) -> int:
        """Data units per code."""
        return int(self.stage1.example.shape[-1] // self.stage1.grid[0])

    @property
    def _hop_bits(self) -> int:
        return (self._hop - 1).bit_length()

    @cached_property
    def _length_logits(self) -> np.ndarray:
        """(1, positions): how often a length in codes occurred in training; one that never did counts as half."""
        counts = np.full(self.stage1.grid[0], 0.5)
        for *_, length, count in self.stage2.codes.length_counts:
            counts[length - 1] += count
        return np.log(counts)[None]

    @torch.no_grad()
    def _conditions(self, group: Group) -> tuple[Tensor, Tensor | None]:
        """z_q and the labels of the decoder, in float64."""
        return self.autoencoder.bottleneck.lookup(group.codes), columns_of(group.labels, self.decoder_columns)

    @torch.no_grad()
    def _write_data(self, encoder: Encoder, group: Group) -> None:
        model, (z_q, labels) = self.autoencoder, self._conditions(group)
        levels = model.likelihood.levels(group.x)
        if isinstance(model.decoder, AutoregressiveDecoder):
            logits = logits_of(model.decoder.network, levels[:, 0], labels, model.decoder.features(z_q, labels))
            write(encoder, logits, levels[:, 0])
            return
        params = model.decoder(z_q) if labels is None else model.decoder(z_q, labels)
        for rows in self._slices(params):
            logits = model.likelihood.level_logits(params[:, :, rows])
            encoder.codes(logits.flatten(0, -2).numpy(), levels[:, :, rows].flatten().numpy())

    @torch.no_grad()
    def _read_data(self, decoder: Decoder, streams: np.ndarray, group: Group, implementation: str | None) -> Tensor:
        model, (z_q, labels) = self.autoencoder, self._conditions(group)
        shape = self.stage1.example.shape
        if (grid := self.grid_of(group)) != tuple(self.stage1.grid):
            shape = (shape[0], *(count * n for count, n in zip(grid, self.stage1.tiled.strides, strict=True)))
        if isinstance(model.decoder, AutoregressiveDecoder):
            features = model.decoder.features(z_q, labels)
            levels = read(decoder, streams.tolist(), model.decoder.network, shape[1:], labels, features, None,
                          implementation)[:, None]
            return model.likelihood.from_levels(levels)
        levels = torch.zeros(len(group), *shape, dtype=torch.int64)
        params = model.decoder(z_q) if labels is None else model.decoder(z_q, labels)
        starts = np.flatnonzero(np.diff(streams, prepend=-1)).tolist()
        for start, stop in zip(starts, [*starts[1:], len(streams)], strict=True):  # as each stream was written
            own = params[start:stop]
            for rows in self._slices(own):
                logits = model.likelihood.level_logits(own[:, :, rows])
                values = decoder.codes(logits.flatten(0, -2).numpy(), np.full(logits[..., 0].numel(), streams[start]))
                levels[start:stop, :, rows] = torch.from_numpy(values).view(logits.shape[:-1])
        return model.likelihood.from_levels(levels)

    def _slices(self, params: Tensor) -> list[slice]:
        """Rows of the first grid axis whose levels' masses fit into memory."""
        channels, grid = self.stage1.example.shape[0], params.shape[2:]
        k = self.autoencoder.likelihood.num_levels
        most = max(1, AT_ONCE // (len(params) * channels * math.prod(grid[1:]) * k))
        return [slice(start, start + most) for start in range(0, grid[0], most)]


def holds_conditions(loaded: LoadedRun) -> bool:
    """Whether a file holds all that the prior is conditioned on: labels, lengths, actions, and nothing else."""
    return not _other_channels(loaded.stage2) or bool(actions_of(loaded))


def actions_of(loaded: LoadedRun) -> Sequence[str]:
    """The names of the actions that the prior is conditioned on."""
    return loaded.stage1.example.facts.get("action_names", ()) if _other_channels(loaded.stage2) else ()


def _other_channels(stage2: TrainedStage) -> int:
    """Local features of the prior besides the length of a clip."""
    return int(stage2.module.local_channels) - (CLOCK_CHANNELS if stage2.condition_on_length else 0)


def _twin(module: Any) -> Any:
    return copy.deepcopy(module).cpu().double().eval()
