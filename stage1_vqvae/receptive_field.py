"""What an output of a convolutional network depends on, found out from the network itself.

A NaN among the inputs makes NaN of every output that depends on it, whatever the weights: through convolutions,
activations, sums and products alike. So one slab of NaN shows the receptive field of any such network, in float64,
where no library takes shortcuts that mix neighbours. Where the field ends with the input, however long that is, the
network looks at all of it: attention, means over the grid, dense layers.

A network may count positions: from a row of equal inputs such a one makes outputs that repeat after a period. Crops
that begin at multiples of it, and reach as far beyond as the field does, give the outputs of the whole; this is tried
out, on random inputs.

Axes: b batch, c channels, *grid positions. A unit of a grid is one position of the codes, and the data that it covers.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LONGEST = 256  # units along an axis that are looked at: what is seen beyond counts as everything
PHASES = 8  # neighbouring units whose fields may differ, of networks that divide their input further and join it again
BESIDE = 4  # units along the other axes meanwhile
TOLERANCE = 1e-9  # relative difference in float64 that is rounding


class NotLocal(ValueError):
    """A network whose outputs depend on all of its input, or that takes inputs of one size alone."""


@dataclass(frozen=True)
class Field:
    """Along one axis, in units."""

    before: int  # how many units before its own an output depends on
    after: int  # and how many after it
    period: int = 1  # parts of the input have to begin at multiples of this, and to end there or with the input


Network = Callable[[Tensor], Tensor]


@torch.no_grad()
def receptive_field(network: nn.Module, channels: int, per_in: Sequence[int], per_out: Sequence[int],
                    call: Callable[[nn.Module, Tensor], Tensor] = lambda network, x: network(x)) -> tuple[Field, ...]:
    """The field along each axis of a network (b, channels, *grid of inputs) -> (b, .., *grid of outputs).

    per_in, per_out: positions of the input, and of the output, in a unit: of an encoder (4, 4) and (1, 1), of its
    decoder (1, 1) and (4, 4). call: how the network, a copy in float64 on the CPU, is called.
    Raises NotLocal where there is none."""
    own = copy.deepcopy(network).cpu().double().eval()

    def checked(x: Tensor) -> Tensor:
        try:
            y = call(own, x)
        except (ValueError, RuntimeError, AssertionError, IndexError) as error:
            reason = str(error).strip().splitlines()[0]
            raise NotLocal(f"it takes no input of {_shown(x.shape[2:])}: {reason}") from None
        units = [size // per for size, per in zip(x.shape[2:], per_in, strict=True)]
        expected = [count * per for count, per in zip(units, per_out, strict=True)]
        if list(y.shape[2:]) != expected:
            raise NotLocal(f"it makes {_shown(y.shape[2:])} of {_shown(x.shape[2:])}, not {_shown(expected)}")
        return y

    return tuple(_along(checked, channels, axis, per_in, per_out) for axis in range(len(per_in)))


def _along(network: Network, channels: int, axis: int, per_in: Sequence[int], per_out: Sequence[int]) -> Field:
    count = 16
    while count <= LONGEST:
        sizes = [per * (count if place == axis else BESIDE) for place, per in enumerate(per_in)]
        x = torch.randn(1, channels, *sizes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        for places in ([count // 2], range(count // 2, count // 2 + PHASES)):
            before = after = 0
            ends = False
            for place in places:
                marked = x.clone()
                _units(marked, axis, per_in)[place] = torch.nan
                moved = _units(network(marked), axis, per_out).isnan().flatten(1).any(1).nonzero().flatten()
                if not len(moved):
                    raise NotLocal("its output does not depend on its input")
                first, last = int(moved.min()), int(moved.max())
                before, after = max(before, last - place), max(after, place - first)
                ends = ends or first == 0 or last == count - 1
            if ends:
                break
            period = _period(network, x, axis, per_in, per_out, before, after)
            if period is not None:
                return Field(before, after, period)
        count *= 2
    raise NotLocal(f"an output depends on all of its input, or on where it is, along axis {axis}")


def _period(network: Network, x: Tensor, axis: int, per_in: Sequence[int], per_out: Sequence[int], before: int,
            after: int) -> int | None:
    """The least one that holds for x; None where x is too short to show one."""
    flat = _units(network(torch.zeros_like(x)), axis, per_out)[before : len(_units(x, axis, per_in)) - after]
    whole, units = _units(network(x), axis, per_out), _units(x, axis, per_in)
    for period in range(1, len(flat) // 2 + 1):
        if not _close(flat[period:], flat[:-period]):
            continue
        for first, last in ((period, len(units)), (0, len(units) - period)):  # either end of a part
            part = x.narrow(axis + 2, first * per_in[axis], (last - first) * per_in[axis])
            start, stop = before if first else 0, last - first - (after if last < len(units) else 0)
            try:
                made = _units(network(part), axis, per_out)
            except NotLocal:  # it takes no part of this length
                break
            if not _close(made[start:stop], whole[first + start : first + stop]):
                break
        else:
            return period
    return None


def _units(x: Tensor, axis: int, per: Sequence[int]) -> Tensor:
    """A view of x (b, c, *grid): (units, ...) along an axis."""
    return x.view(*x.shape[: axis + 2], -1, per[axis], *x.shape[axis + 3 :]).movedim(axis + 2, 0)


def _close(one: Tensor, other: Tensor) -> bool:
    return len(one) > 0 and bool((one - other).abs().max() <= TOLERANCE * (1 + other.abs().max()))


def _shown(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
