"""Cached sampling of a transformer as machine code, for CPUs: `compiled`'s products, and attention over cached keys.

One thread draws a block of samples step by step. Activations are laid out as (sample * step, feature); steps whose
codes are known go through the blocks several at a time. Keys are kept transposed, in panels, and values as rows, so
that attention too consists of `compiled.multiply`. A sample's sums run in the same order wherever it stands in a block,
and however many steps go through at once.

numba's cache checks this file alone, but much here comes from `compiled`. So only the entries are cached, and they
close over a checksum of that file, which numba's cache does look at.

Axes: s samples of a block, n steps, d channels, a heads, r dimensions of a head, m outputs (padded to whole panels).
"""

import inspect
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit

from stage2_prior import compiled
from stage2_prior.compiled import Array, draw, entry, exp, multiply, panel_width

EPSILON = 1e-5  # of nn.LayerNorm
AT_ONCE = 64  # rows (samples * steps) that go through the blocks together where codes are known

_inline = njit(nogil=True, error_model="numpy", fastmath={"contract"})
# A sum in any order, the same at each call for as many numbers, so that it is computed with vectors; so a maximum.
_any_order = njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})
_without_nan = njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nnan", "nsz"})


class Weights(NamedTuple):
    """A Transformer's parameters: weights packed (`compiled.pack`), biases padded; l blocks, g codebooks, k codes."""

    embeddings: Array  # (g, k, d)
    start: Array  # (d,)
    local: Array  # (1, ...), or none
    norms: Array  # (l, 2, d)
    qkv: Array  # (l, ...)
    out: Array  # (l, ...)
    out_bias: Array  # (l, m)
    wide: Array  # (l, ...)
    wide_bias: Array  # (l, m)
    narrow: Array  # (l, ...)
    narrow_bias: Array  # (l, m)
    last_norm: Array  # (d,)
    logits: Array  # (g, ...)
    logits_bias: Array  # (g, m)


class State(NamedTuple):
    """Keys and values of a block of samples, what conditions them, and workspace. rows: at most AT_ONCE, or s."""

    known: Array  # (n, d): what a step knows of the code that it predicts
    labels: Array  # (s, d)
    local: Array  # (s, positions, channels)
    cos: Array  # (2: queries, keys, n, r / 2)
    sin: Array  # (2, n, r / 2)
    keys: Array  # (l, s, a, panels, r, steps of a panel)
    values: Array  # (l, s, a, panels, n, dimensions of a panel)
    x: Array  # (rows, m): the residual stream
    seen: Array  # (rows, channels)
    normed: Array  # (rows, d)
    qkv: Array  # (rows, m)
    scores: Array  # (rows, whole panels of n)
    queries: Array  # (rows, r): of one sample and head
    found: Array  # (panels, rows, dimensions of a panel): likewise
    mixed: Array  # (rows, d)
    hidden: Array  # (rows, m)
    logits: Array  # (s, m)
    cdf: Array  # (k,)


def narrowest_panel(size: int, itemsize: int) -> int:
    """The number of columns of a panel for rows of `size` values: one panel, or the widest that there are."""
    width = compiled.NARROW
    while width < size * itemsize and width < panel_width(np.uint8):
        width *= 2
    return width // itemsize


@_inline
def embed(first: int, count: int, codes: Array, weights: Weights, state: State) -> None:
    """What `count` steps read -> `state.x`."""
    samples, codebooks, d = len(codes), len(weights.embeddings), len(weights.start)
    x, seen = state.x[: samples * count], state.seen[: samples * count]
    for s in range(samples):
        for i in range(count):
            step, row = first + i, x[s * count + i]
            read = weights.embeddings[(step - 1) % codebooks, codes[s, step - 1]] if step > 0 else weights.start
            known, labels = state.known[step], state.labels[s]
            for c in range(d):
                row[c] = read[c] + known[c] + labels[c]
            for c in range(d, len(row)):
                row[c] = 0
            for c in range(seen.shape[1]):
                seen[s * count + i, c] = state.local[s, step // codebooks, c]
    if len(weights.local) > 0:
        multiply(seen, weights.local[0], x)


@_any_order
def total(x: Array, size: int, mean: float, power: int) -> float:
    """The sum of (x - mean) ** power over the first `size` numbers; power 1 or 2."""
    result = x[0] * 0
    if power == 1:
        for i in range(size):
            result += x[i] - mean
    else:
        for i in range(size):
            result += (x[i] - mean) * (x[i] - mean)
    return result


@_without_nan
def largest(x: Array, size: int) -> float:
    """Where one is NaN, anything."""
    top = x[0]
    for i in range(1, size):
        top = x[i] if x[i] > top else top
    return top


@_inline
def normalise(x: Array, weight: Array, out: Array) -> None:
    """LayerNorm of the rows of x (rows, d or more), without bias, -> out (rows, d)."""
    d, zero, one = len(weight), x.dtype.type(0), x.dtype.type(1)
    size, epsilon = x.dtype.type(d), x.dtype.type(EPSILON)
    for i in range(len(out)):
        row, normed = x[i], out[i]
        mean = total(row, d, zero, 1) / size
        scale = one / np.sqrt(total(row, d, mean, 2) / size + epsilon)
        for c in range(d):
            normed[c] = (row[c] - mean) * scale * weight[c]


@_inline
def remember(layer: int, first: int, count: int, samples: int, state: State) -> None:
    """Turns queries and keys of `state.qkv`; writes keys and values of `count` steps to the caches."""
    heads, r, width = state.keys.shape[2], state.keys.shape[4], state.keys.shape[5]
    half, d, columns = r // 2, heads * r, state.values.shape[5]
    for s in range(samples):
        for i in range(count):
            step, row = first + i, state.qkv[s * count + i]
            for a in range(heads):
                keys = state.keys[layer, s, a, step // width]
                for j in range(half):
                    cos, sin = state.cos[0, step, j], state.sin[0, step, j]
                    x, y = row[a * r + j], row[a * r + half + j]
                    row[a * r + j], row[a * r + half + j] = x * cos - y * sin, y * cos + x * sin
                    cos, sin = state.cos[1, step, j], state.sin[1, step, j]
                    x, y = row[d + a * r + j], row[d + a * r + half + j]
                    keys[j, step % width], keys[half + j, step % width] = x * cos - y * sin, y * cos + x * sin
                for j in range(r):
                    state.values[layer, s, a, j // columns, step, j % columns] = row[2 * d + a * r + j]


@_inline
def attend(layer: int, first: int, count: int, samples: int, state: State) -> None:
    """Queries of `state.qkv` on the cached keys up to their own -> `state.mixed`.

    Masses of later steps of the same `count` are zero: they add nothing to a sum, to the bit."""
    heads, r, width = state.keys.shape[2], state.keys.shape[4], state.keys.shape[5]
    columns, steps = state.values.shape[5], first + count
    panels = (steps + width - 1) // width
    scores, queries = state.scores[:count], state.queries[:count]
    lowest = scores.dtype.type(-87 if scores.itemsize == 4 else -700)
    for s in range(samples):
        for a in range(heads):
            for i in range(count):
                scores[i, : panels * width] = 0
                for j in range(r):
                    queries[i, j] = state.qkv[s * count + i, a * r + j]
            multiply(queries, state.keys[layer, s, a, :panels], scores)
            for i in range(count):
                row, own = scores[i], first + i + 1
                top = largest(row, own)
                for j in range(own):
                    x = row[j] - top
                    row[j] = exp(lowest if x < lowest else x)
                row[own:steps] = 0
            for panel in range(state.values.shape[3]):  # arrays are contiguous: `multiply` is compiled once
                found = state.found[panel, :count]
                found[:] = 0
                multiply(scores, state.values[layer, s, a, panel, :steps].reshape(1, steps, columns), found)
            for i in range(count):
                mass = total(scores[i], first + i + 1, scores.dtype.type(0), 1)
                for j in range(r):
                    state.mixed[s * count + i, a * r + j] = state.found[j // columns, i, j % columns] / mass


@_inline
def add_product(x: Array, weight: Array, bias: Array, out: Array) -> None:
    """out += x @ weight + bias."""
    for i in range(len(out)):
        row = out[i]
        for c in range(len(bias)):
            row[c] += bias[c]
    multiply(x, weight, out)


@_inline
def advance(first: int, count: int, drawing: bool, codes: Array, weights: Weights, state: State) -> None:
    """`count` steps through all blocks; codes (s, n) before each are filled. -> `state.normed` if `drawing`; otherwise
    of the last block only keys and values are made."""
    samples = len(codes)
    rows, layers = samples * count, len(weights.norms)
    x, normed, qkv, mixed = state.x[:rows], state.normed[:rows], state.qkv[:rows], state.mixed[:rows]
    hidden, zero = state.hidden[:rows], state.x.dtype.type(0)
    embed(first, count, codes, weights, state)
    for layer in range(layers):
        normalise(x, weights.norms[layer, 0], normed)
        qkv[:] = 0
        multiply(normed, weights.qkv[layer], qkv)
        remember(layer, first, count, samples, state)
        if layer == layers - 1 and not drawing:
            return
        attend(layer, first, count, samples, state)
        add_product(mixed, weights.out[layer], weights.out_bias[layer], x)
        normalise(x, weights.norms[layer, 1], normed)
        hidden[:] = 0
        add_product(normed, weights.wide[layer], weights.wide_bias[layer], hidden)
        for i in range(rows):
            row = hidden[i]
            for c in range(len(row)):
                row[c] = zero if row[c] < zero else row[c] * row[c]
        add_product(hidden, weights.narrow[layer], weights.narrow_bias[layer], x)
    normalise(x, weights.last_norm, normed)


@_inline
def code_logits(step: int, codes: Array, weights: Weights, state: State) -> None:
    """One step of all samples -> `state.logits`; codes (s, n) before it are filled."""
    advance(step, 1, True, codes, weights, state)
    state.logits[:] = 0
    codebook = step % len(weights.logits)
    samples = len(codes)
    add_product(state.normed[:samples], weights.logits[codebook], weights.logits_bias[codebook], state.logits)


def _entries(version: int) -> tuple[Callable[..., bool], Callable[..., None]]:
    """The entries, for this version of the products."""

    @entry
    def draw_steps(
        start: int,
        stop: int,
        codes: Array,
        uniforms: Array,
        temperature: float,
        top_k: int,
        top_p: float,
        weights: Weights,
        state: State,
    ) -> bool:
        """Draws codes (s, n) where they are -1, from step `start` on, before `stop`. False where logits are NaN or
        infinite."""
        samples, step = len(codes), start + 0 * version
        several = max(1, AT_ONCE // samples)
        while step < stop:
            count = 0  # steps from here on whose codes are all known
            while count < several and step + count < stop and codes[:, step + count].min() >= 0:
                count += 1
            if count > 0:
                advance(step, count, False, codes, weights, state)
                step += count
                continue
            code_logits(step, codes, weights, state)
            for s in range(samples):
                if codes[s, step] < 0:
                    code = draw(state.logits[s], uniforms[s, step], temperature, top_k, top_p, state.cdf)
                    if code < 0:
                        return False
                    codes[s, step] = code
            step += 1
        return True

    @entry
    def one_step(step: int, codes: Array, weights: Weights, state: State) -> None:
        """-> `state.logits` of a step. Called for each in order; codes (s, n) before it are filled."""
        code_logits(step + 0 * version, codes, weights, state)

    return draw_steps, one_step


draw_steps, one_step = _entries(zlib.crc32(inspect.getsource(compiled).encode()))
