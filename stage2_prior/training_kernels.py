"""What surrounds the matrix products of a training step on a CPU, as machine code: gates, sums, borders, likelihoods.

PyTorch makes one pass over memory per operation; these make one per stack and layer. Arrays are C-contiguous, in
bfloat16 (as uint16: numba has no such type), float32 or float64; arithmetic is in float32 or float64. Rows are shared
out to the threads of PyTorch's own OpenMP runtime. Where numba has no OpenMP they serve a single thread alone. Results
do not depend on the number of threads. Import it through `compiler`.

numba's cache checks this file alone: a change of what it imports from `compiled` would be missed.

Axes: b batch, h rows, w columns, p features of a stack, n rows of a matrix, k codes, m taps of a kernel.
A frame is a grid (b, h, w, p) with a border of zeros, which the convolution that reads it would otherwise have to add.
"""

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numba import njit, prange, types
from numba.extending import overload
from torch import Tensor

from stage2_prior.compiled import Array, exp, exponential_of_terms

ONE, TWO = np.float32(1.0), np.float32(2.0)  # a float64 in Python would make float64 of float32
LEAST = np.float32(-87.0)  # exp of it is the least normal number of float32, or nearly
MOST = np.float32(40.0)  # beyond it tanh and sigmoid are constant
_VIEWS = {torch.bfloat16: torch.uint16, torch.float32: torch.float32, torch.float64: torch.float64}
_settings: Any = numba.config
try:
    from numba.np.ufunc import omppool as _openmp  # type: ignore[attr-defined]
except ImportError:  # built without OpenMP
    _openmp = None
_PARALLEL = _openmp is not None
if _PARALLEL and _settings.THREADING_LAYER == "default":
    _settings.THREADING_LAYER = "omp"

_inline = njit(nogil=True, error_model="numpy", fastmath={"contract"})
_kernel = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"}, parallel=_PARALLEL)
# A sum in any order, the same at each call, so that it is computed with vectors; a maximum likewise.
_any_order = njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})
_without_nan = njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nnan", "nsz"})


def applies(dtype: torch.dtype) -> bool:
    """Whether there are kernels for tensors of this dtype that use all threads that PyTorch's own operations would."""
    return dtype in _VIEWS and (_PARALLEL or torch.get_num_threads() == 1)


def prepare(dtype: torch.dtype) -> None:
    """Compiles every kernel for tensors of this dtype. Raises whatever numba and its LLVM raise."""
    sums, frame, rows = (torch.zeros(shape, dtype=dtype) for shape in ((1, 1, 1, 2), (1, 1, 1, 1), (1, 1)))
    number = torch.promote_types(dtype, torch.float32)
    table, bias, codes = torch.zeros(1, 1, 2, dtype=number), torch.zeros(2, dtype=number), torch.zeros(1, 1, 1).long()
    taps, wide, one = np.zeros(1, np.int64), torch.zeros(1, 2, dtype=dtype), torch.zeros(1, dtype=number)
    run(gate, sums, frame, 0, 0)
    run(gate_of_sum, wide, wide.clone(), bias, rows)
    run(gate_gradient, sums, frame, 0, 0, sums.clone(), False)
    run(residual, frame, 0, frame.clone(), one, frame.clone(), 0)
    run(add_inside, frame, 0, frame.clone(), 0)
    run(look_up, codes.numpy(), table, taps, taps, bias, sums)
    run(look_up_gradient, codes.numpy(), sums, taps, taps, table)
    run(nats, rows, codes.flatten().numpy(), one, one.clone())
    run(nats_gradient, rows, codes.flatten().numpy(), one, one.clone(), rows.clone())


def array(x: Tensor) -> Array:
    """The memory of a contiguous tensor on a CPU; bfloat16 as uint16."""
    assert x.is_contiguous(), (x.shape, x.stride())
    return x.detach().view(_VIEWS[x.dtype]).numpy()


def run(kernel: Callable[..., None], *arguments: Any) -> None:
    """Calls a kernel with PyTorch's number of threads, which it takes as its last argument."""
    threads = torch.get_num_threads()
    shared = min(threads, _settings.NUMBA_NUM_THREADS) if _PARALLEL else 1
    numba.set_num_threads(shared)
    kernel(*(array(x) if isinstance(x, Tensor) else x for x in arguments), shared)
    if torch.get_num_threads() != threads:  # the first launch of numba's threads sets the number of the whole runtime
        torch.set_num_threads(threads)


def load(x: Any) -> Any:
    """The number of a stored element: float32 of bfloat16, otherwise itself."""
    raise NotImplementedError("for compiled functions only")


def store(x: Any, element: Any) -> Any:
    """A number as an element like `element`: rounded to the nearest bfloat16, ties to even, or itself."""
    raise NotImplementedError("for compiled functions only")


def exponential(x: Any, element: Any) -> Any:
    """exp(x), as exact as elements like `element` can show."""
    raise NotImplementedError("for compiled functions only")


def _widened(x: Any) -> Any:
    return np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)


def _rounded(x: Any, element: Any) -> Any:
    bits = np.float32(x).view(np.uint32)
    half = np.uint32(np.uint32(0x7FFF) + (np.uint32(bits >> np.uint32(16)) & np.uint32(1)))
    return np.uint16(np.uint32(bits + half) >> np.uint32(16))


# The first omitted term is 0.347^6 / 6! = 2e-6, the rounding of a bfloat16 4e-3.
_few_terms = _inline(exponential_of_terms(np.float32, np.int32, 23, (0.693359375, -2.1219444005469058e-4), terms=6))


def _exponential_of_few_terms(x: Any, element: Any) -> Any:
    return _few_terms(x)


def _unchanged(x: Any) -> Any:
    return x


def _first(x: Any, element: Any) -> Any:
    return x


def _exponential_of_many_terms(x: Any, element: Any) -> Any:
    return exp(x)


@overload(load, inline="always")
def _load(x: Any) -> Any:
    return _widened if x == types.uint16 else _unchanged


@overload(store, inline="always")
def _store(x: Any, element: Any) -> Any:
    return _rounded if element == types.uint16 else _first


@overload(exponential, inline="always")
def _choose_exponential(x: Any, element: Any) -> Any:
    return _exponential_of_few_terms if element == types.uint16 else _exponential_of_many_terms


@_inline
def _clamped(x: Any) -> Any:
    return MOST if x > MOST else (-MOST if x < -MOST else x)


@_inline
def _clamped_below(x: Any) -> Any:
    """x <= 0, as a number whose exponential is normal in float32."""
    return LEAST if x < LEAST else x


# Inner loops run over rows, whole last axes of arrays: a slice of one numba would take for memory with gaps, and
# compute without vectors.


@_inline
def _row_of_gates(sums: Array, out: Array) -> None:
    """out (p) = tanh(f) sigmoid(g) of sums (f and g: 2p), 1606.05328 equation 2.

    With a = exp(-2f) and c = exp(-g): (1 - a) / ((1 + a) (1 + c)).
    """
    p = len(out)
    for i in range(p):
        a = exponential(_clamped(-TWO * load(sums[i])), sums[i])
        c = exponential(_clamped(-load(sums[p + i])), sums[i])
        out[i] = store((ONE - a) / ((ONE + a) * (ONE + c)), out[i])


@_inline
def _row_of_gradients(sums: Array, upstream: Array, out: Array, added: bool) -> None:
    """out (2p), the gradient of the sums from that of their gates, upstream (p); added to `out` or in its place.

    With t = tanh(f) and s = sigmoid(g): (1 - t^2) s and t s (1 - s).
    """
    p = len(upstream)
    for i in range(p):
        a = exponential(_clamped(-TWO * load(sums[i])), sums[i])
        c = exponential(_clamped(-load(sums[p + i])), sums[i])
        inverse = ONE / ((ONE + a) * (ONE + c))
        t, s = (ONE - a) * (ONE + c) * inverse, (ONE + a) * inverse
        share = load(upstream[i]) * s
        for_f, for_g = share * (ONE - t * t), share * t * (ONE - s)
        if added:
            for_f, for_g = for_f + load(out[i]), for_g + load(out[p + i])
        out[i], out[p + i] = store(for_f, out[i]), store(for_g, out[i])


@_inline
def _accumulate(row: Array, total: Array) -> None:
    for i in range(len(total)):
        total[i] += load(row[i])


@_kernel
def gate(sums: Array, frame: Array, top: int, left: int, threads: int) -> None:
    """Gates of sums (b, h, w, 2p), into a frame (b, top + h, left + w or more, p)."""
    height, width = sums.shape[1:3]
    rows = len(frame) * frame.shape[1]
    for thread in prange(threads):
        for n in range(rows * thread // threads, rows * (thread + 1) // threads):
            image, row = n // frame.shape[1], n % frame.shape[1] - top
            line = frame[image, row + top]
            if row < 0:
                line[:] = 0
                continue
            line[:left] = 0
            line[left + width :] = 0
            for column in range(width):
                _row_of_gates(sums[image, row, column], line[left + column])


@_kernel
def gate_of_sum(sums: Array, more: Array, bias: Array, out: Array, threads: int) -> None:
    """sums += more + bias, (n, 2p), (n, 2p) and (2p), and their gates, out (n, p)."""
    rows, features = sums.shape
    for thread in prange(threads):
        for n in range(rows * thread // threads, rows * (thread + 1) // threads):
            total, other = sums[n], more[n]
            for i in range(features):
                total[i] = store(load(total[i]) + load(other[i]) + bias[i], total[i])
            _row_of_gates(total, out[n])


@_kernel
def gate_gradient(sums: Array, frame: Array, top: int, left: int, out: Array, added: bool, threads: int) -> None:
    """The gradient of sums (b, h, w, 2p) from that of the frame that `gate` wrote; added to `out` or in its place."""
    batch, height, width = sums.shape[:3]
    rows = batch * height
    for thread in prange(threads):
        for n in range(rows * thread // threads, rows * (thread + 1) // threads):
            image, row = n // height, n % height
            for column in range(width):
                upstream = frame[image, top + row, left + column]
                _row_of_gradients(sums[image, row, column], upstream, out[image, row, column], added)


@_kernel
def residual(frame: Array, left: int, update: Array, bias: Array, out: Array, new_left: int, threads: int) -> None:
    """out, a frame (b, h, new_left + w, p), = frame (b, h, left + w, p) + update (b, h, w, p) + bias (p)."""
    batch, height, width, features = update.shape
    rows = batch * height
    for thread in prange(threads):
        for n in range(rows * thread // threads, rows * (thread + 1) // threads):
            image, row = n // height, n % height
            out[image, row, :new_left] = 0
            for column in range(width):
                old, change = frame[image, row, left + column], update[image, row, column]
                new = out[image, row, new_left + column]
                for i in range(features):
                    new[i] = store(load(old[i]) + load(change[i]) + bias[i], new[i])


@_kernel
def add_inside(frame: Array, left: int, upstream: Array, other: int, threads: int) -> None:
    """frame[:, :, left:] += upstream[:, :, other:]; both (b, h, border + w, p)."""
    batch, height = frame.shape[:2]
    width, features = frame.shape[2] - left, frame.shape[3]
    rows = batch * height
    for thread in prange(threads):
        for n in range(rows * thread // threads, rows * (thread + 1) // threads):
            image, row = n // height, n % height
            for column in range(width):
                old, change = frame[image, row, left + column], upstream[image, row, other + column]
                for i in range(features):
                    old[i] = store(load(old[i]) + load(change[i]), old[i])


@_kernel
def look_up(codes: Array, table: Array, up: Array, left: Array, bias: Array, sums: Array, threads: int) -> None:
    """sums (b, h, w, n) = bias (n) + a row of the table (m, k, n) for each of m taps: a convolution of one-hot codes.

    Tap m of a position reads the code `up[m]` rows above and `left[m]` columns to the left; beyond the grid, nothing.
    """
    batch, height, width = codes.shape
    features = len(bias)
    for thread in prange(threads):
        total = bias.copy()
        for n in range(batch * height * thread // threads, batch * height * (thread + 1) // threads):
            image, row = n // height, n % height
            for column in range(width):
                total[:] = bias
                for tap in range(len(up)):
                    y, x = row - up[tap], column - left[tap]
                    if y >= 0 and x >= 0 and x < width:
                        _accumulate(table[tap, codes[image, y, x]], total)
                out = sums[image, row, column]
                for i in range(features):
                    out[i] = store(total[i], out[i])


@_kernel
def look_up_gradient(codes: Array, upstream: Array, up: Array, left: Array, gradient: Array, threads: int) -> None:
    """gradient (m, k, n), zeros before: that of the table of `look_up` from that of its sums (b, h, w, n)."""
    batch, height, width = codes.shape
    taps = len(up)
    for thread in prange(threads):
        for tap in range(taps * thread // threads, taps * (thread + 1) // threads):
            for image in range(batch):
                for row in range(max(0, up[tap]), height):
                    for column in range(max(0, left[tap]), min(width, width + left[tap])):
                        code = codes[image, row - up[tap], column - left[tap]]
                        _accumulate(upstream[image, row, column], gradient[tap, code])


@_kernel
def nats(logits: Array, codes: Array, scale: Array, out: Array, threads: int) -> None:
    """out (n) = -log softmax(logits (n, k))[codes]; scale (n) = log sum exp(logits), which `nats_gradient` reads."""
    rows, k = logits.shape
    for thread in prange(threads):
        for n in range(rows * thread // threads, rows * (thread + 1) // threads):
            top = _largest(logits, n)
            scale[n] = top + math.log(_sum_of_exponentials(logits, n, top))
            out[n] = scale[n] - load(logits[n, codes[n]])


@_without_nan
def _largest(logits: Array, n: int) -> Any:
    """Of row n. Where one is NaN, anything: the sum of exponentials is NaN then."""
    top = load(logits[n, 0])
    for k in range(1, logits.shape[1]):
        x = load(logits[n, k])
        top = x if x > top else top
    return top


@_any_order
def _sum_of_exponentials(logits: Array, n: int, top: Any) -> Any:
    total = top * 0  # NaN where the largest is infinite
    for k in range(logits.shape[1]):
        x = logits[n, k]
        total += exponential(_clamped_below(load(x) - top), x)
    return total


@_kernel
def nats_gradient(logits: Array, codes: Array, scale: Array, upstream: Array, gradient: Array, threads: int) -> None:
    """gradient (n, k), that of the logits, from that of `nats`, upstream (n): upstream (softmax - one-hot)."""
    rows = len(logits)
    for thread in prange(threads):
        for n in range(rows * thread // threads, rows * (thread + 1) // threads):
            _nats_gradients(logits, n, codes[n], scale[n], upstream[n], gradient)


@_inline
def _nats_gradients(logits: Array, n: int, code: int, scale: Any, upstream: Any, gradient: Array) -> None:
    for k in range(logits.shape[1]):
        x = logits[n, k]
        gradient[n, k] = store(upstream * exponential(_clamped_below(load(x) - scale), x), x)
    x = logits[n, code]
    gradient[n, code] = store(upstream * (exponential(_clamped_below(load(x) - scale), x) - ONE), x)
