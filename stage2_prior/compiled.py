"""Cached sampling as machine code, for CPUs: numba, with a matrix product built from vector instructions.

One thread draws a block of samples from the first position to the last. A PixelCNN's activations are laid out as
(column * sample, feature), so that a whole row of the vertical stack is one tall matrix product per tap, and a shift by
a column is an offset; a WaveNet's as (sample, feature). A sample's sums run in the same order wherever it stands in a
block, so its codes do not depend on its batchmates, in float32 either.

It relies on numba's extension interface and on LLVM's vector types, which change between versions. Tested with numba
0.61.2, 0.64.0 and 0.68.1 (llvmlite 0.44, 0.46 and 0.50). Import it through `compiler`: where another version fails, the
steppers take over.

Axes: s samples of a block, w columns, t positions, p gated features, r residual channels, n outputs (padded to whole
panels).
"""

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload
from torch import Tensor

from stage2_prior.errors import CompilerError

P = ParamSpec("P")
R = TypeVar("R")
Array: TypeAlias = npt.NDArray[Any]  # float32 or float64, the precision of the prior, where no other dtype is named

ir: Any = vars(cgutils)["ir"]  # llvmlite's builder of LLVM's intermediate representation

ROWS = 4  # of a tile, the piece of a product whose sums stay in registers
WIDE = 4 * 64  # bytes of a tile's row with AVX-512: 4 x 4 sums in its 32 registers of 64 bytes
HALF = 2 * 64  # the same for products of few outputs, where a WIDE tile would be mostly padding
NARROW = 2 * 32  # without AVX-512: 4 x 2 sums in 16 registers of 32 bytes
AT_ONCE = 16  # rows (positions * samples) that a WaveNet's layers multiply together where several positions are known
CHUNK = 64  # rows of the vertical stack that go through a layer at once, to stay in the nearest cache

_njit = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Machine code, made at the first call for the arguments' types, and cached on disk.

    numba's cache checks this file alone: a change in another file to a function that is compiled here would be missed.
    """
    machine_code: Callable[P, R] = _njit(function)
    return machine_code


def entry(function: Callable[P, R]) -> Callable[P, R]:
    """Machine code that Python calls; raises CompilerError where numba or its LLVM cannot make it."""
    machine_code = compiled(function)

    @wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            return machine_code(*arguments, **named)
        except Exception as error:  # the machine code itself raises nothing; compilers have no common class of errors
            raise CompilerError(f"{type(error).__name__}: {error}") from error

    return call


def panel_width(dtype: npt.DTypeLike) -> int:
    """The number of outputs that a tile covers: weights are packed into panels of that many columns."""
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return (WIDE if wide else NARROW) // np.dtype(dtype).itemsize


def pack(weight: Tensor, fitted: bool = False) -> Array:
    """Weights (..., n, depth) of products x @ weight.T -> (..., panels, depth, panel width).

    fitted: uses half the width where that at least halves the padding.
    """
    filled = fill_up(weight.movedim(-2, -1))
    width = panel_width(filled.dtype)
    if fitted and width * filled.itemsize == WIDE and 0 < weight.shape[-2] % width <= width // 2:
        width //= 2
        filled = filled[..., :-width]
    return np.ascontiguousarray(rearrange(filled, "... depth (panels width) -> ... panels depth width", width=width))


def for_pairs(taps: Tensor) -> Tensor:
    """Kernels (..., 3, n, depth) -> (..., 4, n, depth): what `correlate_pairs` multiplies by."""
    left, middle, right = taps.unbind(-3)
    return torch.stack((left, (left + middle + right) / 2, (left - middle + right) / 2, right), dim=-3)


def pairs_at_once(samples: int) -> int:
    """Pairs of columns * samples: at least one pair of columns, and about CHUNK rows."""
    return max(1, CHUNK // (2 * samples)) * samples


def fill_up(bias: Tensor) -> Array:
    """(..., n) -> the same, zero-padded along n to whole panels."""
    values = bias.detach().numpy()
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, -values.shape[-1] % panel_width(values.dtype))])


def stack(parts: Sequence[Array | Tensor], axes: int, dtype: npt.DTypeLike) -> Array:
    """Stacks arrays of `axes` axes along a new first axis; the list may be empty."""
    arrays = [part.detach().numpy() if isinstance(part, Tensor) else part for part in parts]
    return np.stack(arrays) if arrays else np.zeros((0,) * (axes + 1), dtype)


def _tile(rows: int, width_bytes: int, vector_bytes: int) -> Any:
    """out[row : row + rows, panel] += x[row : row + rows, :depth] @ weight[panel]; the last axes are contiguous.

    Written in LLVM's vector types because its loop vectoriser uses half the width of AVX-512 and keeps sums in memory:
    this reaches 85-90 % of the hardware's peak rate of multiply-adds.
    """

    @intrinsic
    def multiply_tile(typing_context: Any, x: Any, row: Any, weight: Any, panel: Any, out: Any) -> Any:
        dtype = x.dtype
        size = dtype.bitwidth // 8
        lanes, vectors = vector_bytes // size, width_bytes // vector_bytes

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, row, weight, panel, out = (
                context.make_array(kind)(context, builder, value) if isinstance(kind, types.Array) else value
                for kind, value in zip(signature.args, arguments, strict=True)
            )
            number = ir.IntType(64)
            vector = ir.VectorType(context.get_value_type(dtype), lanes)
            undefined = ir.Constant(vector, ir.Undefined)
            spread = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            multiply_add = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
                builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{lanes}f{dtype.bitwidth}"
            )

            def line(array: Any, r: int) -> Any:  # array[row + r]
                stride = builder.sdiv(builder.extract_value(array.strides, 0), number(size))
                return builder.gep(array.data, [builder.mul(builder.add(row, number(r)), stride)])

            def vectors_at(pointer: Any, offset: Any) -> list[Any]:
                starts = [builder.add(offset, number(v * lanes)) for v in range(vectors)]
                return [builder.bitcast(builder.gep(pointer, [start]), vector.as_pointer()) for start in starts]

            width = number(vectors * lanes)
            depth = builder.extract_value(weight.shape, 1)
            first = builder.mul(builder.mul(panel, depth), width)
            inputs = [line(x, r) for r in range(rows)]
            targets = [vectors_at(line(out, r), builder.mul(panel, width)) for r in range(rows)]
            alloca: Any = cgutils.alloca_once_value
            sums = [[alloca(builder, builder.load(at, align=size)) for at in row] for row in targets]
            with cgutils.for_range(builder, depth) as loop:
                here = vectors_at(weight.data, builder.add(first, builder.mul(loop.index, width)))
                weights = [builder.load(at, align=size) for at in here]
                for r in range(rows):
                    value = builder.load(builder.gep(inputs[r], [loop.index]))
                    value = builder.insert_element(undefined, value, ir.IntType(32)(0))
                    value = builder.shuffle_vector(value, undefined, spread)
                    for v in range(vectors):
                        total = builder.call(multiply_add, [value, weights[v], builder.load(sums[r][v])])
                        builder.store(total, sums[r][v])
            for r in range(rows):
                for v in range(vectors):
                    builder.store(builder.load(sums[r][v]), targets[r][v], align=size)
            return context.get_dummy_value()

        return types.void(x, types.intp, weight, types.intp, out), generate

    return multiply_tile


_multiply_wide_tile = _tile(ROWS, WIDE, vector_bytes=64)
_multiply_wide_pair = _tile(2, WIDE, vector_bytes=64)
_multiply_wide_row = _tile(1, WIDE, vector_bytes=64)
_multiply_half_tile = _tile(ROWS, HALF, vector_bytes=64)
_multiply_half_pair = _tile(2, HALF, vector_bytes=64)
_multiply_half_row = _tile(1, HALF, vector_bytes=64)
_multiply_narrow_tile = _tile(ROWS, NARROW, vector_bytes=32)
_multiply_narrow_pair = _tile(2, NARROW, vector_bytes=32)
_multiply_narrow_row = _tile(1, NARROW, vector_bytes=32)


@compiled
def multiply(x: Array, weight: Array, out: Array) -> None:
    """out (rows, n) += x (rows, depth or more) @ weight, which is packed.

    Rows beyond a multiple of ROWS are computed as a pair, which takes no longer than a single row, and one by one.
    Every sum runs over the depth in order, whatever the tile.
    """
    width = weight.shape[2] * weight.itemsize
    rows = out.shape[0]
    tiled = rows - rows % ROWS
    paired = rows - rows % 2
    for panel in range(weight.shape[0]):
        if width == WIDE:
            for row in range(0, tiled, ROWS):
                _multiply_wide_tile(x, row, weight, panel, out)
            for row in range(tiled, paired, 2):
                _multiply_wide_pair(x, row, weight, panel, out)
            for row in range(paired, rows):
                _multiply_wide_row(x, row, weight, panel, out)
        elif width == HALF:
            for row in range(0, tiled, ROWS):
                _multiply_half_tile(x, row, weight, panel, out)
            for row in range(tiled, paired, 2):
                _multiply_half_pair(x, row, weight, panel, out)
            for row in range(paired, rows):
                _multiply_half_row(x, row, weight, panel, out)
        else:
            for row in range(0, tiled, ROWS):
                _multiply_narrow_tile(x, row, weight, panel, out)
            for row in range(tiled, paired, 2):
                _multiply_narrow_pair(x, row, weight, panel, out)
            for row in range(paired, rows):
                _multiply_narrow_row(x, row, weight, panel, out)


def exponential_of_terms(
    real: Any, integer: Any, mantissa: int, log2: tuple[float, float], terms: int
) -> Callable[[Any], Any]:
    """exp(x) = 2^n exp(r), |r| <= log(2) / 2, as plain arithmetic, which LLVM turns into vector instructions.

    exp(r) by `terms` terms of its Taylor series; 2^n, a normal number, by writing n into the exponent's bits.
    log2: log(2) in two parts, the first so short that n times it is exact.
    """
    per_log2, half = real(1.0 / math.log(2.0)), real(0.5)
    high, low = real(log2[0]), real(log2[1])
    shift, offset = integer(mantissa), integer(-np.finfo(real).minexp + 1)
    coefficients = tuple(real(1.0 / math.factorial(i)) for i in range(terms))

    def exponential(x: Any) -> Any:
        n = np.floor(x * per_log2 + half)
        r = (x - n * high) - n * low
        y = coefficients[terms - 1]
        for i in range(terms - 2, -1, -1):
            y = y * r + coefficients[i]
        return y * integer((integer(n) + offset) << shift).view(real)

    return exponential


# The first omitted term: 0.347^8 / 8! = 5e-9 in float32, 0.347^14 / 14! = 4e-18 in float64.
_EXP_32 = exponential_of_terms(np.float32, np.int32, 23, (0.693359375, -2.1219444005469058e-4), terms=8)
_EXP_64 = exponential_of_terms(np.float64, np.int64, 52, (0.693145751953125, 1.4286068203094172e-6), terms=14)


def exp(x: float) -> float:
    """exp(x) in the precision of x, a normal number: |x| <= 87 in float32, 708 in float64."""
    raise NotImplementedError("for compiled functions only")


@overload(exp)
def _exp(x: Any) -> Callable[[Any], Any]:
    return _EXP_32 if x == types.float32 else _EXP_64


@compiled
def gate(sums: Array, gated: Array) -> None:
    """gated (s, p) = tanh(f) sigmoid(g) of sums (s, f and g: 2p, ...), 1606.05328 equation 2.

    With a = exp(-2f) and b = exp(-g): (1 - a) / ((1 + a) (1 + b)). Beyond 40 both functions are constant.
    """
    p = gated.shape[1]
    one, two, most = sums.dtype.type(1), sums.dtype.type(2), sums.dtype.type(40)
    for s in range(gated.shape[0]):
        for i in range(p):
            f, g = -two * sums[s, i], -sums[s, p + i]
            a = exp(most if f > most else (-most if f < -most else f))
            b = exp(most if g > most else (-most if g < -most else g))
            gated[s, i] = (one - a) / ((one + a) * (one + b))


@compiled
def draw(logits: Array, uniform: float, temperature: float, top_k: int, top_p: float, cdf: Array) -> int:
    """`sampling.draw` for one sample; -1 where logits (k or more) are NaN or infinite. cdf: float64 (k), workspace."""
    codes = len(cdf)
    best, top, numbers = 0, logits[0], True
    for k in range(codes):
        numbers &= logits[k] == logits[k]
        if logits[k] > top:
            best, top = k, logits[k]
    if not (numbers and np.isfinite(top)):
        return -1
    if temperature == 0.0:
        return best
    for k in range(codes):
        x = (np.float64(logits[k]) - np.float64(top)) / temperature
        cdf[k] = exp(x) if x > -700.0 else 0.0
    if top_k < codes or top_p < np.inf:
        truncate(logits, top_k, top_p, cdf)
    for k in range(1, codes):
        cdf[k] += cdf[k - 1]
    # u <= 1 - 2^-53, so u * cdf[-1] < cdf[-1]: there is such a code, and its mass is positive.
    return np.searchsorted(cdf, uniform * cdf[-1], side="right")


@compiled
def truncate(logits: Array, top_k: int, top_p: float, mass: Array) -> None:
    """Sets the mass (k) of every code to 0 that top-k, or then top-p, excludes.

    A heap yields the likeliest codes one by one: usually few are needed, and a sort would dominate the time of a draw.
    """
    codes = len(mass)
    heap = np.arange(codes)  # heap[:left] is the heap, heap[left:] the codes taken off it, the likeliest last
    left = codes
    for at in range(codes // 2 - 1, -1, -1):
        sift_down(heap, at, left, logits)
    if top_k < codes:
        for _ in range(top_k):
            left = take_likeliest(heap, left, logits)
        for i in range(left):
            mass[heap[i]] = 0.0
    total = 0.0
    for code in range(codes):
        total += mass[code]
    kept, before = codes, 0.0  # heap[kept:] keep their mass
    while kept > codes - top_k and before < top_p * total:
        if kept == left:
            left = take_likeliest(heap, left, logits)
        kept -= 1
        before += mass[heap[kept]]
    for i in range(kept):
        mass[heap[i]] = 0.0


@compiled
def take_likeliest(heap: Array, size: int, logits: Array) -> int:
    """Moves the top of the heap behind its end; returns its new size."""
    size -= 1
    heap[0], heap[size] = heap[size], heap[0]
    sift_down(heap, 0, size, logits)
    return size


@compiled
def sift_down(heap: Array, at: int, size: int, logits: Array) -> None:
    """Moves the code heap[at] down until it precedes both codes below it."""
    code = heap[at]
    while 2 * at + 1 < size:
        below = 2 * at + 1
        if below + 1 < size and precedes(heap[below + 1], heap[below], logits):
            below += 1
        if not precedes(heap[below], code, logits):
            break
        heap[at] = heap[below]
        at = below
    heap[at] = code


@compiled
def precedes(one: int, other: int, logits: Array) -> bool:
    """Whether code `one` is likelier than `other`, or as likely and lower."""
    return logits[one] > logits[other] or (logits[one] == logits[other] and one < other)


class Weights(NamedTuple):
    """A GatedPixelCNN's parameters: weights packed (`pack`), biases padded; l layers, t taps, g codebooks."""

    embeddings: Array  # (g, k, p)
    first_vertical: Array  # (y, x, ...): rows above, columns; empty where tables serve
    vertical: Array  # (l - 1, y, x, ...), or (l - 1, y, 4, ...): `for_pairs` of columns
    across: Array  # (l, ...)
    first_horizontal: Array  # (t, ...): the leftmost tap first; empty where tables serve
    tables_above: Array  # (g, y, x, k, n): what `first_vertical` makes of each code, or empty
    tables_left: Array  # (g, t, k, n): what `first_horizontal` makes of each code, or empty
    horizontal: Array  # (l - 1, t, ...)
    out: Array  # (l, ...)
    out_bias: Array  # (l, n)
    local: Array  # (l, 2: vertical and horizontal, ...)
    within: Array  # (g - 1, k, p)
    hidden: Array  # (g, ...)
    hidden_bias: Array  # (g, n)
    logits: Array  # (g, ...)
    logits_bias: Array  # (g, n)


class State(NamedTuple):
    """Cached activations of a block of samples, and workspace. Rows and columns are kept in rings, by index modulo."""

    biases: Array  # (l, 2: vertical and horizontal, s, n): the convolutions' biases plus label terms
    inputs: Array  # (rows, w * s, p): embedded codes, zero margins left and right, like `rows`; empty with tables
    rows: Array  # (l - 1, rows, w * s, p): inputs of the vertical stack's layers after the first
    columns: Array  # (l - 1, columns, s, n): inputs of the horizontal stack's layers after the first
    sums: Array  # (l, w * s, n): before the horizontal gates, one row
    chunk: Array  # (an even number of columns * s, n): before the vertical gates
    spread: Array  # (4, pairs of columns * s, p): what `correlate_pairs` multiplies
    products: Array  # (4, pairs of columns * s, n): its products
    gated: Array  # (s, p)
    features: Array  # (s, n)
    hidden: Array  # (s, n)
    logits: Array  # (s, n)
    cdf: Array  # (k,)


@compiled
def vertical_stack(row: int, codes: Array, local: Array, weights: Weights, state: State) -> None:
    """One row of the vertical stack, all layers: fills `state.sums` with its terms of the horizontal stack."""
    samples, length, last = state.gated.shape[0], state.sums.shape[1], weights.across.shape[0] - 1
    pairs = weights.vertical.shape[2] == 4
    margin = (1 if pairs else weights.vertical.shape[2] // 2) * samples  # in rows of the ring: columns * samples
    for i in range(last + 1):
        for start in range(0, length, state.chunk.shape[0]):
            stop = min(start + state.chunk.shape[0], length)
            chunk, sums = state.chunk[: stop - start], state.sums[i, start:stop]
            for at in range(0, stop - start, samples):
                flat(chunk, at, samples)[:] = flat(state.biases[i, 0], 0, samples)
                flat(sums, at, samples)[:] = flat(state.biases[i, 1], 0, samples)
            if local.shape[1] > 0:
                multiply(local[start:stop], weights.local[i, 0], chunk)
                multiply(local[start:stop], weights.local[i, 1], sums)
            if i == 0 and weights.tables_above.shape[0] > 0:
                look_up_above(codes, row, start, weights.tables_above, chunk)
            elif i == 0:
                correlate(state.inputs, row - 1, start, samples, weights.first_vertical, chunk)
            elif pairs:
                weight, workspace = weights.vertical[i - 1], (state.spread, state.products)
                correlate_pairs(state.rows[i - 1], row, start, samples, weight, workspace, chunk)
            else:
                correlate(state.rows[i - 1], row, start, samples, weights.vertical[i - 1], chunk)
            multiply(chunk, weights.across[i], sums)
            if i < last:
                gate(chunk, state.rows[i, row % state.rows.shape[1], margin + start : margin + stop])


@compiled
def look_up_above(codes: Array, row: int, start: int, tables: Array, out: Array) -> None:
    """`correlate` of embedded codes (s, h, w, g) with the first layer's kernel, by tables (g, y, x, k, n)."""
    samples, _, columns, codebooks = codes.shape
    height, width = tables.shape[1], tables.shape[2]
    for j in range(out.shape[0]):
        column, s = (start + j) // samples, (start + j) % samples
        for y in range(max(0, height - row), height):
            for x in range(width):
                beside = column + x - width // 2
                if 0 <= beside < columns:
                    for g in range(codebooks):
                        code = codes[s, row - height + y, beside, g]
                        for n in range(out.shape[1]):
                            out[j, n] += tables[g, y, x, code, n]


@compiled
def look_up_left(codes: Array, row: int, column: int, tables: Array, out: Array) -> None:
    """The first layer's horizontal kernel on embedded codes (s, h, w, g), by tables (g, t, k, n): out (s, n) += it."""
    taps = tables.shape[1]
    for s in range(codes.shape[0]):
        for tap in range(max(0, taps - column), taps):
            for g in range(codes.shape[3]):
                code = codes[s, row, column - taps + tap, g]
                for n in range(out.shape[1]):
                    out[s, n] += tables[g, tap, code, n]


@compiled
def correlate(ring: Array, newest: int, start: int, samples: int, weight: Array, out: Array) -> None:
    """out += a convolution over the rows up to `newest` of a ring (rows, margin + w * s + margin, p).

    weight (height, width, ...): out's first row is at `start`, and its leftmost tap half a kernel width before that.
    """
    height, width = weight.shape[0], weight.shape[1]
    for y in range(height):
        row = ring[(newest + 1 - height + y) % ring.shape[0]]
        for x in range(width):
            first = start + x * samples
            multiply(row[first : first + out.shape[0]], weight[y, x], out)


@compiled
def correlate_pairs(
    ring: Array, newest: int, start: int, samples: int, weight: Array, workspace: tuple[Array, Array], out: Array
) -> None:
    """`correlate` with kernels of three columns in two thirds of the multiplications, by weights `for_pairs`.

    Two neighbouring outputs of three taps on inputs d0 to d3 are sums of four products (Winograd's F(2, 3), as in Lavin
    and Gray, arXiv 1509.09308). `start` is at an even column; the last pair may reach one column beyond the row.
    """
    spread, products = workspace
    height, columns = weight.shape[0], out.shape[0] // samples
    rows = (columns + 1) // 2 * samples
    for k in range(4):
        products[k, :rows] = 0
    for y in range(height):
        inputs = ring[(newest + 1 - height + y) % ring.shape[0]]
        for at in range(0, rows, samples):
            d0, d1 = flat(inputs, start + 2 * at, samples), flat(inputs, start + 2 * at + samples, samples)
            d2 = flat(inputs, start + 2 * at + 2 * samples, samples)
            d3 = flat(inputs, start + 2 * at + 3 * samples, samples)
            subtract(d0, d2, flat(spread[0], at, samples))
            add(d1, d2, flat(spread[1], at, samples))
            subtract(d2, d1, flat(spread[2], at, samples))
            subtract(d1, d3, flat(spread[3], at, samples))
        for k in range(4):
            multiply(spread[k], weight[y, k], products[k, :rows])
    for column in range(columns):
        at = column // 2 * samples
        m0, m1 = flat(products[0], at, samples), flat(products[1], at, samples)
        m2, m3 = flat(products[2], at, samples), flat(products[3], at, samples)
        sums = flat(out, column * samples, samples)
        if column % 2 == 0:
            add_three(m0, m1, m2, sums)
        else:
            subtract_two(m1, m2, m3, sums)


@compiled
def flat(x: Array, start: int, rows: int) -> Array:
    """The rows from `start` on of a contiguous x, one after the other."""
    return x[start : start + rows].reshape(-1)


@compiled
def add(x: Array, y: Array, out: Array) -> None:
    for i in range(len(out)):
        out[i] = x[i] + y[i]


@compiled
def subtract(x: Array, y: Array, out: Array) -> None:
    for i in range(len(out)):
        out[i] = x[i] - y[i]


@compiled
def add_three(x: Array, y: Array, z: Array, out: Array) -> None:
    for i in range(len(out)):
        out[i] += x[i] + y[i] + z[i]


@compiled
def subtract_two(x: Array, y: Array, z: Array, out: Array) -> None:
    for i in range(len(out)):
        out[i] += x[i] - y[i] - z[i]


@compiled
def horizontal_stack(row: int, column: int, codes: Array, weights: Weights, state: State) -> None:
    """One position of the horizontal stack, all layers: `state.sums` -> `state.features`."""
    samples, last = state.gated.shape[0], weights.across.shape[0] - 1
    taps = state.columns.shape[1]
    here = column % taps
    for i in range(last + 1):
        sums = state.sums[i, column * samples : (column + 1) * samples]
        if i == 0 and weights.tables_left.shape[0] > 0:
            look_up_left(codes, row, column, weights.tables_left, sums)
        elif i == 0:  # its leftmost tap is as many columns back as it has taps, and so is the margin
            inputs = state.inputs[row % state.inputs.shape[0]]
            for tap in range(weights.first_horizontal.shape[0]):
                seen = inputs[(column + tap) * samples : (column + tap + 1) * samples]
                multiply(seen, weights.first_horizontal[tap], sums)
        else:
            for tap in range(taps):
                multiply(state.columns[i - 1, (column + 1 + tap) % taps], weights.horizontal[i - 1, tap], sums)
        gate(sums, state.gated)
        target = state.features if i == last else state.columns[i, here]
        for s in range(samples):
            for n in range(target.shape[1]):
                residual = state.columns[i - 1, here, s, n] if i > 0 else target.dtype.type(0)
                target[s, n] = weights.out_bias[i, n] + residual
        multiply(state.gated, weights.out[i], target)


@compiled
def rectified_product(x: Array, weight: Array, bias: Array, rectified: Array, out: Array) -> None:
    """out = relu(x) @ weight + bias."""
    zero = x.dtype.type(0)
    for s in range(x.shape[0]):
        for i in range(rectified.shape[1]):
            rectified[s, i] = zero if x[s, i] < zero else x[s, i]
        out[s] = bias
    multiply(rectified, weight, out)


@compiled
def begin_row(row: int, codes: Array, local: Array, weights: Weights, state: State) -> None:
    """What comes before the first position of a row of codes (s, h, w, g): all rows above are filled."""
    if weights.tables_left.shape[0] == 0:  # the first layer multiplies codes rather than looks them up
        if row > 0:
            embed(row - 1, codes.shape[2] - 1, codes, weights, state)
        state.inputs[row % state.inputs.shape[0]] = 0
    state.columns[:] = 0
    vertical_stack(row, codes, local, weights, state)


@compiled
def begin_position(row: int, column: int, codes: Array, weights: Weights, state: State) -> None:
    """-> `state.features` of the first codebook; all codes before the position are filled."""
    if weights.tables_left.shape[0] == 0 and column > 0:
        embed(row, column - 1, codes, weights, state)
    horizontal_stack(row, column, codes, weights, state)


@compiled
def embed(row: int, column: int, codes: Array, weights: Weights, state: State) -> None:
    """Adds the embedded codes of a position to `state.inputs`."""
    samples, p = state.gated.shape
    first = (weights.first_horizontal.shape[0] + column) * samples
    for s in range(samples):
        for g in range(codes.shape[3]):
            for i in range(p):
                state.inputs[row % state.inputs.shape[0], first + s, i] += weights.embeddings[
                    g, codes[s, row, column, g], i
                ]


@compiled
def add_codes(codes: Array, table: Array, features: Array) -> None:
    """features (s, n) += the rows (p) of a table (k, p) at codes (s,)."""
    for s in range(len(codes)):
        for i in range(table.shape[1]):
            features[s, i] += table[codes[s], i]


@compiled
def code_logits(g: int, weights: Weights, state: State) -> None:
    """`state.features` -> `state.logits` of codebook g."""
    rectified_product(state.features, weights.hidden[g], weights.hidden_bias[g], state.gated, state.hidden)
    rectified_product(state.hidden, weights.logits[g], weights.logits_bias[g], state.hidden, state.logits)


@entry
def draw_row(
    row: int,
    codes: Array,
    uniforms: Array,
    local: Array,
    temperature: float,
    top_k: int,
    top_p: float,
    weights: Weights,
    state: State,
) -> bool:
    """Draws a row of codes (s, h, w, g) where they are -1. False where logits are NaN or infinite."""
    begin_row(row, codes, local, weights, state)
    for column in range(codes.shape[2]):
        begin_position(row, column, codes, weights, state)
        for g in range(codes.shape[3]):
            if g > 0:
                add_codes(codes[:, row, column, g - 1], weights.within[g - 1], state.features)
            if codes[:, row, column, g].min() < 0:
                code_logits(g, weights, state)
            for s in range(codes.shape[0]):
                if codes[s, row, column, g] < 0:
                    u = uniforms[s, row, column, g]
                    code = draw(state.logits[s], u, temperature, top_k, top_p, state.cdf)
                    if code < 0:
                        return False
                    codes[s, row, column, g] = code
    return True


@entry
def step_row(
    row: int, column: int, g: int, codes: Array, local: Array, weights: Weights, state: State
) -> None:
    """-> `state.logits` of one code. Called for each in order; codes (s, h, w, g) are filled before it."""
    if g == 0:
        if column == 0:
            begin_row(row, codes, local, weights, state)
        begin_position(row, column, codes, weights, state)
    else:
        add_codes(codes[:, row, column, g - 1], weights.within[g - 1], state.features)
    code_logits(g, weights, state)


class TemporalWeights(NamedTuple):
    """A GatedPixelCNN3d's temporal stack: weights packed (`pack`), biases padded; l layers, t frames of a kernel."""

    seen: Array  # (l, t, y, x, ...): earliest frame first; or (l, t, y, 4, ...): `for_pairs` of columns
    bias: Array  # (l, n)
    local: Array  # (l, ...)
    out: Array  # (l, ...)
    out_bias: Array  # (l, n)


class TemporalState(NamedTuple):
    """Cached activations of a block's last frames, in a ring, by index modulo, and workspace."""

    frames: Array  # (l + 1, t, h, w * s, n): inputs of the layers and the last one's output, zero margins around
    chunk: Array  # (an even number of columns * s, n): before the gates
    gated: Array  # (columns * s, p)
    spread: Array  # (4, pairs of columns * s, n): what `correlate_pairs` multiplies
    products: Array  # (4, pairs of columns * s, n): its products


@entry
def temporal_stack(frame: int, samples: int, local: Array, weights: TemporalWeights, state: TemporalState) -> None:
    """One frame through all layers, from `state.frames[0]` to `state.frames[-1]`. local (h, w * s, channels)."""
    layers, kernel, taps, multiplied = weights.seen.shape[:4]
    height, length, _ = local.shape
    here, above, margin = frame % kernel, taps // 2, taps // 2 * samples
    for i in range(layers):
        for row in range(height):
            inputs = state.frames[i, here, above + row, margin : margin + length]
            outputs = state.frames[i + 1, here, above + row, margin : margin + length]
            for start in range(0, length, state.chunk.shape[0]):
                stop = min(start + state.chunk.shape[0], length)
                chunk, gated = state.chunk[: stop - start], state.gated[: stop - start]
                for j in range(stop - start):
                    chunk[j] = weights.bias[i]
                if local.shape[2] > 0:
                    multiply(local[row, start:stop], weights.local[i], chunk)
                for tap in range(kernel):
                    earlier = state.frames[i, (frame + 1 + tap) % kernel]
                    if multiplied == 4:
                        workspace = state.spread, state.products
                        correlate_pairs(
                            earlier, row + taps - 1, start, samples, weights.seen[i, tap], workspace, chunk
                        )
                    else:
                        correlate(earlier, row + taps - 1, start, samples, weights.seen[i, tap], chunk)
                gate(chunk, gated)
                for j in range(start, stop):
                    for n in range(outputs.shape[1]):
                        outputs[j, n] = weights.out_bias[i, n] + inputs[j, n]
                multiply(gated, weights.out[i], outputs[start:stop])


class WaveNetWeights(NamedTuple):
    """A WaveNet's parameters: weights packed (`pack`), biases padded; l layers, g codebooks, c skip channels."""

    embeddings: Array  # (g, k, r)
    dilations: Array  # (l,) int64
    dilated: Array  # (l, taps, ...): earliest first
    local: Array  # (l, ...)
    skip: Array  # (l, ...)
    skip_bias: Array  # (n,)
    out: Array  # (l - 1, ...)
    out_bias: Array  # (l - 1, r)
    within: Array  # (g - 1, k, c)
    hidden: Array  # (g, ...)
    hidden_bias: Array  # (g, n)
    logits: Array  # (g, ...)
    logits_bias: Array  # (g, n)


class WaveNetState(NamedTuple):
    """Cached activations of a block of samples, and workspace."""

    biases: Array  # (l, s, n): before the gates, label terms included
    sums: Array  # (l, several positions * s, n): before the gates
    rings: Array  # (summed reach of all kernels * s, r): earlier inputs of each layer, by position modulo reach
    x: Array  # (s, n): the residual stream
    gated: Array  # (s, p)
    features: Array  # (s, n): the sum of the skip connections
    rectified: Array  # (s, c)
    hidden: Array  # (s, n)
    logits: Array  # (s, n)
    cdf: Array  # (k,)


@compiled
def start_sums(t: int, local: Array, weights: WaveNetWeights, state: WaveNetState) -> None:
    """Starts `state.sums` for several positions at once, from t on; local (positions * s, channels) says how many.

    The terms are biases, local, and the earlier inputs of layers with a dilation so large that all of them are known.
    t and such a dilation are multiples of the number of positions, so these inputs are contiguous in the ring.
    """
    samples, rows, taps = state.x.shape[0], len(local), weights.dilated.shape[1]
    several = state.sums.shape[1] // samples
    ring = 0
    for i in range(state.sums.shape[0]):
        dilation = weights.dilations[i]
        reach = (taps - 1) * dilation
        sums = state.sums[i, :rows]
        for row in range(rows):
            for n in range(sums.shape[1]):
                sums[row, n] = state.biases[i, row % samples, n]
        if local.shape[1] > 0:
            multiply(local, weights.local[i], sums)
        if dilation >= several:
            for tap in range(taps - 1):
                first = (ring + (t + tap * dilation) % reach) * samples
                multiply(state.rings[first : first + rows], weights.dilated[i, tap], sums)
        ring += reach


@compiled
def gated_layers(t: int, place: int, drawing: bool, weights: WaveNetWeights, state: WaveNetState) -> None:
    """One position through all layers: `state.x`, embedded codes -> `state.features`, which are computed if `drawing`.

    place: the position's index in `state.sums`.
    """
    samples, r = state.x.shape[0], state.rings.shape[1]
    layers, taps = weights.dilated.shape[:2]
    several = state.sums.shape[1] // samples
    ring = 0
    for i in range(layers):
        dilation = weights.dilations[i]
        reach = (taps - 1) * dilation
        sums = state.sums[i, place * samples : (place + 1) * samples]
        if dilation < several:
            for tap in range(taps - 1):
                first = (ring + (t + tap * dilation) % reach) * samples
                multiply(state.rings[first : first + samples], weights.dilated[i, tap], sums)
        multiply(state.x, weights.dilated[i, taps - 1], sums)
        first = (ring + t % reach) * samples  # the earliest inputs, no longer needed
        for s in range(samples):
            for j in range(r):
                state.rings[first + s, j] = state.x[s, j]
        ring += reach
        gate(sums, state.gated)
        if drawing:
            multiply(state.gated, weights.skip[i], state.features)
        if i + 1 < layers:
            for s in range(samples):
                for j in range(r):
                    state.x[s, j] += weights.out_bias[i, j]
            multiply(state.gated, weights.out[i], state.x)


@compiled
def begin_step(
    t: int, start: int, drawing: bool, codes: Array, local: Array, weights: WaveNetWeights, state: WaveNetState
) -> None:
    """-> `state.features` of the first codebook at position t, if `drawing`; codes (s, t, g) before it are filled.

    start: the position of local's (positions * s, channels) first rows."""
    samples, r = state.x.shape[0], state.rings.shape[1]
    several = state.sums.shape[1] // samples
    place = (t - start) % several
    if place == 0:
        first = (t - start) * samples
        start_sums(t, local[first : first + several * samples], weights, state)
    state.x[:] = 0
    if t > 0:
        for s in range(samples):
            for g in range(codes.shape[2]):
                for j in range(r):
                    state.x[s, j] += weights.embeddings[g, codes[s, t - 1, g], j]
    for s in range(samples):
        state.features[s] = weights.skip_bias
    gated_layers(t, place, drawing, weights, state)


@compiled
def symbol_logits(g: int, weights: WaveNetWeights, state: WaveNetState) -> None:
    """`state.features` -> `state.logits` of codebook g."""
    rectified_product(state.features, weights.hidden[g], weights.hidden_bias[g], state.rectified, state.hidden)
    rectified_product(state.hidden, weights.logits[g], weights.logits_bias[g], state.hidden, state.logits)


@entry
def draw_positions(
    start: int,
    codes: Array,
    uniforms: Array,
    local: Array,
    temperature: float,
    top_k: int,
    top_p: float,
    weights: WaveNetWeights,
    state: WaveNetState,
) -> bool:
    """Draws codes (s, t, g) where they are -1, at the positions of local (positions * s, channels), from `start` on.

    False where logits are NaN or infinite.
    """
    samples = state.x.shape[0]
    for t in range(start, start + len(local) // samples):
        begin_step(t, start, codes[:, t].min() < 0, codes, local, weights, state)
        for g in range(codes.shape[2]):
            if g > 0:
                add_codes(codes[:, t, g - 1], weights.within[g - 1], state.features)
            if codes[:, t, g].min() < 0:
                symbol_logits(g, weights, state)
            for s in range(samples):
                if codes[s, t, g] < 0:
                    code = draw(state.logits[s], uniforms[s, t, g], temperature, top_k, top_p, state.cdf)
                    if code < 0:
                        return False
                    codes[s, t, g] = code
    return True


@entry
def step_position(
    t: int, g: int, start: int, codes: Array, local: Array, weights: WaveNetWeights, state: WaveNetState
) -> None:
    """-> `state.logits` of one code. Called for each in order; codes (s, t, g) are filled before it."""
    if g == 0:
        begin_step(t, start, True, codes, local, weights, state)
    else:
        add_codes(codes[:, t, g - 1], weights.within[g - 1], state.features)
    symbol_logits(g, weights, state)
