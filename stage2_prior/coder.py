"""Entropy coding of codes whose distributions are known up to rounding: files that decode elsewhere.

Two machines, or two implementations on one, compute the logits of a code differently in the last digits. A range coder
that is fed such numbers loses its way at the first difference. Here every probability is an integer out of a short
table, chosen by rounding, and a guard band makes the choice the same everywhere:

- A code is coded as the path to its leaf in a binary tree over the codes' indices, bit by bit from the highest. The
  masses of the two subtrees of a node are sums of pairs, never differences of a cumulative sum, so that a change of all
  logits by at most d moves a node's log-odds by at most 2 d, however many codes there are.
- Log-odds are rounded to multiples of 1 / STEPS and clipped; their probability is `TABLE`'s, a multiple of 2^-BITS.
- Where log-odds on the path lie within 2 TOLERANCE of a rounding edge, the encoder, which alone knows the code, sends
  an exception: a flag, and the code's bits plainly. Every decoder whose logits are within TOLERANCE of the encoder's
  reads the same codes.

The probabilities go through a range coder on integers below 2^56 (Martin 1979, in the carry-propagating form). All of
it is machine code by numba, or the same functions in plain Python where numba is missing, about a hundred times slower.

Axes: m codes in the order of the stream, k codes of a codebook.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from stage2_prior.compiler import compiled as compiler

Array = npt.NDArray[Any]
F = TypeVar("F", bound=Callable[..., Any])

STEPS = 16  # per nat of log-odds: costs at most 6e-5 bits per decision
CLIP = 240  # steps: 15 nats, a probability of 3e-7
BITS = 24  # probabilities are multiples of 2^-24
TOLERANCE = 1e-8  # of logits; implementations in float64 differ by less than 1e-12
FLOOR = -600.0  # of a logit below the largest one: its exponential is a normal number
# Probabilities of a 1 at log-odds of -CLIP to CLIP steps, and of an exception's flag; none is within 1e-3 of a rounding
# edge, so every machine's exponential function yields these integers.
TABLE = np.array([round(2**BITS / (1 + math.exp(-j / STEPS))) for j in range(-CLIP, CLIP + 1)], np.uint64)
FLAG = np.uint64(2 ** (BITS - 16))
HALF = np.uint64(2 ** (BITS - 1))

_BITS, _BYTE, _TOP = np.uint64(BITS), np.uint64(8), np.uint64(48)
_WHOLE, _LEAST = np.uint64(2**56), np.uint64(2**48)  # a range is in (2^48, 2^56]
_GUARD = 2 * TOLERANCE * STEPS
_MAY_EXCEED = 32  # bytes beyond the last that a call may write: those of one code


def _compiled(function: F) -> F:
    return function if compiler is None else compiler.compiled(function)  # type: ignore[return-value]


@_compiled
def _write_bit(bit: bool, one: Any, state: Array, out: Array) -> None:
    """state: low, range, bytes written. one: the probability of a 1, in units of 2^-BITS."""
    bound = (state[1] >> _BITS) * one
    if bit:
        state[1] = bound
    else:
        state[1] -= bound
        state[0] += bound
        if state[0] >= _WHOLE:
            state[0] -= _WHOLE
            _carry(int(state[2]), out)
    while state[1] < _LEAST:
        out[int(state[2])] = state[0] >> _TOP
        state[2] += np.uint64(1)
        state[0] = (state[0] & (_LEAST - np.uint64(1))) << _BYTE
        state[1] <<= _BYTE


@_compiled
def _carry(written: int, out: Array) -> None:
    """Adds 1 to the number whose digits were written; it is below 1, so a digit before the last nines can take it."""
    at = written - 1
    while out[at] == 255:
        out[at] = 0
        at -= 1
    out[at] += np.uint8(1)


@_compiled
def _read_bit(one: Any, state: Array, data: Array) -> bool:
    """state: value above low, range, place of the next byte, end. After the end there are zeros."""
    bound = (state[1] >> _BITS) * one
    bit = state[0] < bound
    if bit:
        state[1] = bound
    else:
        state[0] -= bound
        state[1] -= bound
    while state[1] < _LEAST:
        state[0] <<= _BYTE
        state[1] <<= _BYTE
        if state[2] < state[3]:
            state[0] |= np.uint64(data[int(state[2])])
        state[2] += np.uint64(1)
    return bit


@_compiled
def _grow(logits: Array, tree: Array) -> bool:
    """The masses of all subtrees, node i above nodes 2 i and 2 i + 1, leaves last; False where logits are no numbers.

    Leaves beyond the last code have no mass. Codes with a logit of -inf have some: they could be coded."""
    size, top = len(tree) // 2, logits[0]
    numbers = True
    for k in range(len(logits)):
        numbers &= logits[k] == logits[k]
        top = max(top, logits[k])
    if not (numbers and np.isfinite(top)):
        return False
    for k in range(len(logits)):
        tree[size + k] = np.exp(max(logits[k] - top, FLOOR))
    for k in range(len(logits), size):
        tree[size + k] = 0.0
    for node in range(size - 1, 0, -1):
        tree[node] = tree[2 * node] + tree[2 * node + 1]
    return True


@_compiled
def _log_odds(node: int, tree: Array) -> float:
    """Of a 1, the right subtree, in steps, clipped."""
    left, right = tree[2 * node], tree[2 * node + 1]
    if right <= 0.0:
        return float(-CLIP)
    if left <= 0.0:
        return float(CLIP)
    return min(max(STEPS * np.log(right / left), float(-CLIP)), float(CLIP))


@_compiled
def _is_near_an_edge(x: float) -> bool:
    return abs(x - np.floor(x) - 0.5) <= _GUARD


@_compiled
def _write_code(code: int, tree: Array, state: Array, out: Array) -> bool:
    """Writes a code by a grown tree; whether it was an exception."""
    size, depth = len(tree) // 2, 0
    while 1 << depth < size:
        depth += 1
    escaped = False
    for level in range(depth):
        escaped |= _is_near_an_edge(_log_odds((size + code) >> (depth - level), tree))
    _write_bit(escaped, FLAG, state, out)
    for level in range(depth):
        bit = ((code >> (depth - 1 - level)) & 1) == 1
        if escaped:
            _write_bit(bit, HALF, state, out)
        else:
            x = _log_odds((size + code) >> (depth - level), tree)
            _write_bit(bit, TABLE[int(np.floor(x + 0.5)) + CLIP], state, out)
    return escaped


@_compiled
def _read_code(tree: Array, state: Array, data: Array) -> int:
    """Reads a code by a grown tree; damaged data may yield one of the leaves beyond the last code."""
    size, node = len(tree) // 2, 1
    escaped = _read_bit(FLAG, state, data)
    while node < size:
        if escaped:
            bit = _read_bit(HALF, state, data)
        else:
            bit = _read_bit(TABLE[int(np.floor(_log_odds(node, tree) + 0.5)) + CLIP], state, data)
        node = 2 * node + (1 if bit else 0)
    return node - size


@_compiled
def _write_codes(logits: Array, codes: Array, tree: Array, state: Array, out: Array) -> tuple[int, int]:
    """Writes codes (m,) by logits (m, k) as long as `out` has room: how many, and how many were exceptions.

    A negative number of exceptions: the logits of the next code are no numbers."""
    exceptions = 0
    for i in range(len(codes)):
        if int(state[2]) + _MAY_EXCEED * 4 > len(out):
            return i, exceptions
        if not _grow(logits[i], tree):
            return i, -1
        exceptions += _write_code(codes[i], tree, state, out)
    return len(codes), exceptions


@_compiled
def _read_codes(logits: Array, streams: Array, tree: Array, states: Array, data: Array, codes: Array) -> bool:
    """Reads codes (m,) by logits (m, k), code i from stream streams[i], each from its state; False: no numbers."""
    for i in range(len(codes)):
        if not _grow(logits[i], tree):
            return False
        codes[i] = min(_read_code(tree, states[streams[i]], data), logits.shape[1] - 1)
    return True


@_compiled
def _write_bits(value: int, count: int, state: Array, out: Array) -> None:
    for place in range(count - 1, -1, -1):
        _write_bit(((value >> place) & 1) == 1, HALF, state, out)


@_compiled
def _read_bits(count: int, state: Array, data: Array) -> int:
    value = 0
    for _ in range(count):
        value = 2 * value + (1 if _read_bit(HALF, state, data) else 0)
    return value


class Encoder:
    """Writes one stream."""

    def __init__(self) -> None:
        self._state = np.array([0, 2**56, 0], np.uint64)
        self._out = np.zeros(1024, np.uint8)
        self.exceptions = 0  # codes that were sent plainly
        self.exception_bits = 0  # what they took

    def codes(self, logits: Array, codes: Array) -> None:
        """Writes codes int64 (m,) by their logits float64 (m, k). Raises ValueError for NaN and infinite logits."""
        logits, codes = np.ascontiguousarray(logits, np.float64), np.ascontiguousarray(codes, np.int64)
        tree, done = np.zeros(2 * leaves(logits.shape[1])), 0
        while done < len(codes):
            more, exceptions = _write_codes(logits[done:], codes[done:], tree, self._state, self._out)
            if exceptions < 0:
                raise ValueError(NOT_NUMBERS)
            done += more
            exceptions = int(exceptions)  # in plain Python it is NumPy's
            self.exceptions += exceptions
            self.exception_bits += exceptions * (16 + leaves(logits.shape[1]).bit_length() - 1)
            if done < len(codes):
                self._out = np.concatenate((self._out, np.zeros_like(self._out)))

    def bits(self, value: int, count: int) -> None:
        """Writes an integer in [0, 2^count), count <= 62, as it is."""
        if int(self._state[2]) + _MAY_EXCEED > len(self._out):
            self._out = np.concatenate((self._out, np.zeros_like(self._out)))
        _write_bits(value, count, self._state, self._out)

    def finish(self) -> bytes:
        """The stream: the shortest number within the range; zeros at its end go without saying."""
        low, size, written = (int(x) for x in self._state)
        out = bytearray(self._out[:written].tobytes())
        for count in range(8):
            unit = 1 << (56 - 8 * count)
            number = -(-low // unit) * unit
            if number < low + size:
                break
        whole = int.from_bytes(out, "big") * 2**56 + number
        return whole.to_bytes(written + 7, "big").rstrip(b"\0")


class Decoder:
    """Reads several streams side by side."""

    def __init__(self, streams: Sequence[bytes]) -> None:
        self._data = np.frombuffer(b"".join(streams) + b"\0", np.uint8)
        ends = np.cumsum([len(stream) for stream in streams])
        self._states = np.zeros((len(streams), 4), np.uint64)
        for state, stream, end in zip(self._states, streams, ends, strict=True):
            state[:] = int.from_bytes(stream[:7].ljust(7, b"\0"), "big"), 2**56, end - len(stream) + 7, end

    def codes(self, logits: Array, streams: Array) -> Array:
        """Reads codes int64 (m,) by their logits float64 (m, k), in order, code i from stream streams[i], int64 (m,).

        Damaged data yield any codes in [0, k). Raises ValueError for NaN and infinite logits."""
        logits = np.ascontiguousarray(logits, np.float64)
        codes, tree = np.empty(len(logits), np.int64), np.zeros(2 * leaves(logits.shape[1]))
        if not _read_codes(logits, streams, tree, self._states, self._data, codes):
            raise ValueError(NOT_NUMBERS)
        return codes

    def bits(self, stream: int, count: int) -> int:
        """Reads an integer of `count` bits from a stream."""
        return int(_read_bits(count, self._states[stream], self._data))


NOT_NUMBERS = "logits: expected finite numbers, found NaN or infinity: the model's weights are broken"


def leaves(num_codes: int) -> int:
    """The power of two that has room for all codes, at least 1."""
    return 1 << (num_codes - 1).bit_length()
