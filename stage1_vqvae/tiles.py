"""Images, audio and video of any size through the first stage, in memory that does not grow with them.

What fits into one tile goes through the networks as it is. What is larger is divided into tiles, each computed with as
much around it as its outputs depend on (`receptive_field`), so that codes and data are those of one pass; the border
of the whole is the border of the tiles there. Sizes that the strides do not divide are filled up by repeating the last
row, column or frame, and the filling is cut off again. An autoregressive decoder along one axis goes on from chunk to
chunk, with as many of its own last samples as it looks back at.

Axes: b batch, c channels, d latent dimension, g codebooks, L label columns, *grid positions.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.autoregressive import AutoregressiveDecoder
from stage1_vqvae.receptive_field import Field, NotLocal, receptive_field

AT_ONCE = 2**18  # positions of the data in a tile: 512 x 512 pixels, half a minute at 8 kHz
DRAWN = 2**14  # samples that an autoregressive decoder draws before it goes on


class Tiled:
    """An autoencoder for data of any size. shape: (c, *grid) of an example that it was made for.

    Data and codes are given and returned on the CPU. at_once: positions of the data in a tile. Methods raise NotLocal,
    a ValueError, for a size that the networks do not take."""

    def __init__(self, model: Autoencoder, shape: Sequence[int], at_once: int = AT_ONCE, drawn: int = DRAWN) -> None:
        self.model, self.shape, self.at_once, self.drawn = model, tuple(shape), at_once, drawn

    # --- what the networks say ------------------------------------------------------------------------------

    @cached_property
    def usual(self) -> tuple[int, ...]:
        """The grid of the codes of an example."""
        return tuple(self.model.latent_grid(self.shape))

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """Positions of the data for each code, along each axis. Raises NotLocal where they are no whole numbers."""
        latents = self.usual
        if len(latents) != len(self.shape) - 1 or any(own % n for own, n in zip(self.shape[1:], latents, strict=True)):
            raise NotLocal(f"{_shown(self.shape[1:])} become a grid of {_shown(latents)}, which does not divide them")
        return tuple(own // n for own, n in zip(self.shape[1:], latents, strict=True))

    @cached_property
    def encoder(self) -> tuple[Field, ...]:
        """What a code depends on."""
        return receptive_field(self.model.encoder, self.shape[0], self.strides, [1] * len(self.strides))

    @cached_property
    def decoder(self) -> tuple[Field, ...]:
        """What the data of a code depend on; with an autoregressive decoder, the features that condition it."""
        network, columns = self.model.decoder, _label_columns(self.model.decoder)
        if isinstance(network, AutoregressiveDecoder):
            network = network.upsampler

        def call(network: nn.Module, z: Tensor) -> Tensor:
            made: Tensor = network(z, torch.zeros(1, columns, dtype=torch.int64)) if columns else network(z)
            return made

        return receptive_field(network, self.model.bottleneck.dim, [1] * len(self.strides), self.strides, call)

    def grid(self, size: Sequence[int]) -> tuple[int, ...]:
        """Size of the data -> grid of the codes, rounded up."""
        if tuple(size) == self.shape[1:]:
            return self.usual
        return tuple(-(-own // stride) for own, stride in zip(size, self.strides, strict=True))

    # --- data to codes and back -----------------------------------------------------------------------------

    def encode(self, x: Tensor) -> Tensor:
        """x (b, c, *grid) in data units -> codes int64 (b, *grid[, g])."""
        return self._up(x, self.model.encode, 1)

    def embed(self, x: Tensor) -> Tensor:
        """x -> z_e (b, in_dim, *grid), the bottleneck's input."""
        return self._up(x, self.model.embedded, 2)

    def latents(self, x: Tensor) -> Tensor:
        """x -> z_q (b, dim, *grid) of any bottleneck."""
        return self._up(x, self.model.latents, 2)

    def decode(self, codes: Tensor, labels: Tensor | None = None, uniforms: Tensor | None = None,
               size: Sequence[int] | None = None, progress: Callable[[int, int], None] | None = None) -> Tensor:
        """codes int64 (b, *grid[, g]), labels (b, L) -> x (b, c, *size) in data units; size None: all that they make.

        uniforms (b, *grid of the data) float64: of an autoregressive decoder, which draws in one pass. `chunks` does in
        parts what lies along one axis."""
        return self._down(codes, 1, lambda part: self.model.decode(part, labels, uniforms, progress), size)

    def decode_latents(self, z_q: Tensor, labels: Tensor | None = None, uniforms: Tensor | None = None,
                       size: Sequence[int] | None = None) -> Tensor:
        """z_q (b, dim, *grid) of any bottleneck -> x (b, c, *size), as `decode`."""
        return self._down(z_q, 2, lambda part: self.model.decode_latent(part, labels, uniforms), size)

    def chunks(self, codes: Tensor, labels: Tensor | None, size: int, draw: Callable[[int], Tensor]
               ) -> Iterator[Tensor]:
        """codes (b, n[, g]) along one axis, labels (b, L) -> x (b, c, m) again and again, `size` positions in all.

        draw: the next m uniforms, float64 (b, m), of each row; asked for by an autoregressive decoder alone. Its
        samples are those of one pass with all uniforms; where it looks back at all of them, it draws in one pass."""
        (stride,), (field,) = self.strides, self.decoder
        labels = None if labels is None else labels.to(self._device)
        drawing = self.model.decoder if isinstance(self.model.decoder, AutoregressiveDecoder) else None
        step, back = max(1, (self.at_once if drawing is None else self.drawn) // stride), 0
        if drawing is not None:
            step, back = (codes.shape[1], 0) if drawing.looks_back is None else (step, -(-drawing.looks_back // stride))
        levels = torch.zeros(len(codes), 0, dtype=torch.int64, device=self._device)
        for begin in range(0, codes.shape[1], step):
            end, start = min(begin + step, codes.shape[1]), max(0, begin - back)
            first, last = _around(start, end, codes.shape[1], field)
            count = min(end * stride, size) - begin * stride
            if count <= 0:
                return
            part = codes[:, first:last].to(self._device)
            if drawing is None:
                made = self.model.decode(part, labels)[..., (begin - first) * stride :]
                yield made[..., :count].cpu()
                continue
            features = self.model.features(part, labels)[..., (start - first) * stride :]
            levels = levels[:, levels.shape[1] - (begin - start) * stride :]
            found = drawing.go_on(features, labels, levels, draw(count).to(self._device))
            yield self.model.likelihood.from_levels(found[:, None]).cpu()
            levels = torch.cat([levels, found], 1)

    # --- tiles ----------------------------------------------------------------------------------------------

    @property
    def _device(self) -> torch.device:
        return self.model.likelihood.scale.device

    def _up(self, x: Tensor, function: Callable[[Tensor], Tensor], axis: int) -> Tensor:
        if tuple(x.shape[2:]) == self.shape[1:]:
            return function(x.to(self._device)).cpu()
        x = filled_up(x, self.strides)
        if math.prod(x.shape[2:]) <= self.at_once:
            return _taken(function, x.to(self._device), x.shape[2:]).cpu()
        ones = [1] * len(self.strides)
        return self._in_tiles(function, x, self.encoder, (2, self.strides), (axis, ones))

    def _down(self, codes: Tensor, axis: int, function: Callable[[Tensor], Tensor], size: Sequence[int] | None
              ) -> Tensor:
        grid = codes.shape[axis : axis + len(self.shape) - 1]
        usual = tuple(grid) == self.usual
        if usual:
            x = function(codes.to(self._device)).cpu()
        elif isinstance(self.model.decoder, AutoregressiveDecoder) or (
                math.prod(grid) * math.prod(self.strides) <= self.at_once):
            x = _taken(function, codes.to(self._device), grid).cpu()
        else:
            ones = [1] * len(self.strides)
            x = self._in_tiles(function, codes, self.decoder, (axis, ones), (2, self.strides))
        if size is None:
            return x
        kept: list[slice] = [slice(0, own) for own in size]
        return x[(slice(None), slice(None), *kept)]

    def _in_tiles(self, function: Callable[[Tensor], Tensor], x: Tensor, fields: Sequence[Field],
                  into: tuple[int, Sequence[int]], out_of: tuple[int, Sequence[int]]) -> Tensor:
        """function(x), tile by tile. into, out_of: the first axis of the grid of x, and of the result, and their
        positions in a unit."""
        (axis, per), (own_axis, own_per) = into, out_of
        units = [x.shape[axis + place] // count for place, count in enumerate(per)]
        tile, out = tile_size(units, self.strides, self.at_once), None
        starts = [range(0, count, step) for count, step in zip(units, tile, strict=True)]
        for begins in itertools.product(*starts):
            here, kept, there = [slice(None)] * axis, [slice(None)] * own_axis, [slice(None)] * own_axis
            for begin, step, count, field, one, other in zip(begins, tile, units, fields, per, own_per, strict=True):
                end = min(begin + step, count)
                first, last = _around(begin, end, count, field)
                here.append(slice(first * one, last * one))
                kept.append(slice((begin - first) * other, (end - first) * other))
                there.append(slice(begin * other, end * other))
            made = function(x[tuple(here)].to(self._device))[tuple(kept)].cpu()
            if out is None:
                sizes = [count * other for count, other in zip(units, own_per, strict=True)]
                out = made.new_empty(*made.shape[:own_axis], *sizes, *made.shape[own_axis + len(sizes) :])
            out[tuple(there)] = made
        assert out is not None, "x has positions"
        return out


def filled_up(x: Tensor, strides: Sequence[int]) -> Tensor:
    """x (b, c, *grid), filled up to multiples of the strides by repeating what is last along each axis."""
    for axis, stride in enumerate(strides, start=2):
        if short := -x.shape[axis] % stride:
            x = torch.cat([x, x.narrow(axis, x.shape[axis] - 1, 1).expand(
                *(short if place == axis else size for place, size in enumerate(x.shape)))], axis)
    return x


def tile_size(units: Sequence[int], strides: Sequence[int], at_once: int) -> list[int]:
    """Units of a tile along each axis: at most `at_once` positions, as equal along all axes as the grid allows."""
    left, tile = float(at_once), [0] * len(units)
    order = sorted(range(len(units)), key=lambda axis: units[axis] * strides[axis])
    for done, axis in enumerate(order):
        side = left ** (1 / (len(units) - done))
        tile[axis] = min(units[axis], max(1, int(side) // strides[axis]))
        left = max(1.0, left / (tile[axis] * strides[axis]))
    return tile


def _around(begin: int, end: int, count: int, field: Field) -> tuple[int, int]:
    """The units that outputs from begin to end depend on."""
    first, last = max(0, begin - field.before), end + field.after
    return first // field.period * field.period, min(count, -(-last // field.period) * field.period)


def _taken(function: Callable[[Tensor], Tensor], x: Tensor, size: Sequence[int]) -> Tensor:
    try:
        return function(x)
    except (ValueError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise NotLocal(f"it takes no size of {_shown(size)}: {str(error).strip().splitlines()[0]}") from None


def _label_columns(network: nn.Module) -> int:
    """Label columns that a decoder reads."""
    return max(len(getattr(module, "num_classes", ())) for module in network.modules())


def _shown(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
