"""Networks along one axis of any length in bounded memory: window by window, with as much context as they can see.

Axes: b batch, c channels, t input positions, n positions of the codes.
"""

from collections.abc import Callable

from torch import Tensor


def in_windows(
    network: Callable[[Tensor], Tensor], x: Tensor, per_code: int, window: int, reach: int, period: int = 1
) -> Tensor:
    """network(x) for x (b, c, t), t = n * per_code, computed `window` codes at a time.

    reach: how many positions of the codes to either side an output depends on, so that with as much context each window
    has the values of the whole, up to rounding. Both ends are those of the whole. period: of a network that counts
    positions of the codes from the beginning of its input and starts anew after so many; every window begins there.
    Example: an encoder of 64 samples per code on (1, 1, 64 n), per_code = 64 -> (1, d, n); an upsampler on (1, d, n),
    per_code = 1 -> (1, c, 64 n)."""
    count, out = x.shape[-1] // per_code, None
    for begin in range(0, count, window):
        end = min(begin + window, count)
        first, last = max(0, begin - reach) // period * period, min(count, end + reach)
        part = network(x[..., first * per_code : last * per_code])
        made = part.shape[-1] // (last - first)
        if out is None:
            out = part.new_empty(*part.shape[:-1], count * made)
        out[..., begin * made : end * made] = part[..., (begin - first) * made : (end - first) * made]
    assert out is not None, "x has positions"
    return out
