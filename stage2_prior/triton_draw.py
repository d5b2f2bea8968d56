"""What the sampling kernels share: gates, the head with the draw of a position's codes, and their launch from PyTorch.

Every sum runs in an order that depends on the sizes alone. Products are multiply-adds in the precision of the prior (no
TF32), cumulative sums float64.

Axes: b samples, n features padded to a power of two, k codes, g codebooks.
"""

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from stage2_prior.errors import CompilerError
from stage2_prior.prior import RowKernel
from stage2_prior.rule import Rule

MOST_CODES = 4096  # the logits lie in the registers of a program
# Each sample reads all weights: 512 times 1.8 MB of a PixelCNN take 0.17 ms at L2's 5.5 TB/s, 512 times 6.4 MB of a
# WaveNet 0.6 ms. A recorded step of 124 or 400 kernels, which reads them once for all samples, takes as long.
MOST_SAMPLES = 512
TILE = 32768  # bytes of a tile of the head's last product: with 8 warps 32 registers of a thread
LEAST = 16  # the shortest side of a tile of weights


@triton.jit
def gate(f, g):
    """tanh(f) sigmoid(g): with a = exp(-2f) and b = exp(-g), (1 - a) / ((1 + a) (1 + b)). Constant beyond 40."""
    a = -2.0 * f
    a = tl.exp(tl.where(a > 40.0, 40.0, tl.where(a < -40.0, -40.0, a)))  # what is NaN stays so
    b = -g
    b = tl.exp(tl.where(b > 40.0, 40.0, tl.where(b < -40.0, -40.0, b)))
    return (1.0 - a) / ((1.0 + a) * (1.0 + b))


@triton.jit
def draw_code(logits, u, temperature, K: tl.constexpr, KP: tl.constexpr, GREEDY: tl.constexpr):
    """`sampling.draw` for logits (KP,), of which the first K are real, and whether they are a distribution."""
    code = tl.arange(0, KP)
    real = code < K
    logits = tl.where(real, logits, float("-inf")).to(tl.float64)
    top = tl.max(logits, axis=0)
    broken = tl.max((logits != logits).to(tl.int32), axis=0) > 0
    broken = broken | (top == float("inf")) | (top == float("-inf"))
    if GREEDY:
        drawn = tl.min(tl.where(logits == top, code, KP), axis=0)
    else:
        mass = tl.where(real, tl.exp((logits - top) / temperature), 0.0)
        cdf = tl.cumsum(mass, axis=0)
        total = tl.sum(tl.where(code == KP - 1, cdf, 0.0), axis=0)
        last = tl.max(tl.where(mass > 0.0, code, -1), axis=0)
        drawn = tl.min(tl.where((mass > 0.0) & (cdf > u * total), code, KP), axis=0)
        drawn = tl.where(drawn == KP, last, drawn)
    return tl.where(broken, 0, drawn), broken  # a code that can be looked up, in any case


@triton.jit
def draw_position(
    codes,  # int64 (w, g)
    known,  # the same; -1: to be drawn
    uniforms,  # float64 (w, g)
    finite,  # int8 (): becomes 0 where logits are not finite
    temperature,  # float64
    position,
    h,  # (n,): features, of which the first P are real
    within,  # (g - 1, k, P)
    hidden,  # (g, n, HIDDEN), (in, out)
    hidden_bias,  # (g, HIDDEN)
    head,  # (g, HIDDEN, KP)
    head_bias,  # (g, KP)
    P: tl.constexpr,
    N: tl.constexpr,
    HIDDEN: tl.constexpr,
    CHUNK: tl.constexpr,  # of HIDDEN
    K: tl.constexpr,
    KP: tl.constexpr,
    G: tl.constexpr,
    GREEDY: tl.constexpr,
):
    """The head, and the codes at `position`: known, or drawn."""
    feature = tl.arange(0, N)
    code = tl.arange(0, KP)
    unit = tl.arange(0, CHUNK)
    for j in range(G):
        seen = tl.where(h < 0.0, 0.0, h)  # ReLU that passes on what is NaN
        acc = tl.zeros((CHUNK, KP), dtype=h.dtype)
        for start in range(0, HIDDEN, CHUNK):
            at = start + unit
            weight = tl.load(hidden + j * N * HIDDEN + feature[:, None] * HIDDEN + at[None, :])
            x = tl.sum(weight * seen[:, None], axis=0) + tl.load(hidden_bias + j * HIDDEN + at)
            x = tl.where(x < 0.0, 0.0, x)
            acc += tl.load(head + j * HIDDEN * KP + at[:, None] * KP + code[None, :]) * x[:, None]
        logits = tl.sum(acc, axis=0) + tl.load(head_bias + j * KP + code)
        at = position * G + j
        drawn, broken = draw_code(logits, tl.load(uniforms + at), temperature, K, KP, GREEDY)
        given = tl.load(known + at)
        chosen = tl.where(given < 0, drawn.to(tl.int64), given)
        tl.store(codes + at, chosen)
        if broken:
            tl.store(finite, 0)
        if j + 1 < G:
            h += tl.load(within + (j * K + chosen) * P + feature, mask=feature < P, other=0.0)


class DrawingKernel(RowKernel):
    """A kernel that ends with `draw_position` at each position: the head's packed weights, and the launch."""

    kernel: Any  # its function
    constants: dict[str, int | bool]
    options: dict[str, int]

    def __init__(
        self, rule: Rule, within: Sequence[Tensor], heads: Sequence[tuple[nn.Linear, nn.Linear]]
    ) -> None:
        """within: (k, p)."""
        (first, last), *_ = heads
        weight, p, hidden, codes = first.weight, first.in_features, first.out_features, last.out_features
        n, padded = padded_size(p), padded_size(codes)
        chunk = max(1, min(triton.next_power_of_2(hidden), TILE // (padded * weight.itemsize)))
        hidden += -hidden % chunk
        self.head = (
            torch.stack(list(within) or [weight.new_empty(1)]),  # unused with one codebook
            filled([layer.weight.T for layer, _ in heads], n, hidden),
            filled([layer.bias for layer, _ in heads], hidden),
            filled([layer.weight.T for _, layer in heads], hidden, padded),
            filled([layer.bias for _, layer in heads], padded),
        )
        self.temperature = torch.full((1,), rule.temperature, dtype=torch.float64, device=weight.device)
        self.head_constants = {
            "HIDDEN": hidden,
            "CHUNK": chunk,
            "K": codes,
            "KP": padded,
            "G": len(heads),
            "GREEDY": rule.temperature == 0.0,
        }
        self.compiled = False

    @abstractmethod
    def arguments(self, codes: Tensor, known: Tensor, uniforms: Tensor, finite: Tensor) -> tuple[Tensor | int, ...]:
        """The arguments of the kernel but for its constants, in order."""

    def draw(self, codes: Tensor, known: Tensor, uniforms: Tensor, finite: Tensor) -> None:
        for x in (codes, known, uniforms):
            assert x.stride()[1:] == (x.shape[2], 1), "rows are dense"
        assert codes.stride(0) == known.stride(0)
        arguments = self.arguments(codes, known, uniforms, finite.view(torch.int8))
        # Triton launches on the current device
        device = torch.cuda.device(codes.device) if codes.is_cuda else nullcontext()
        try:
            with device:
                self.kernel[(len(codes),)](*arguments, **self.constants, **self.options)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers and loaders have no common class of errors
            if self.compiled:
                raise
            raise CompilerError(f"{type(error).__name__}: {error}") from error
        self.compiled = True


def applies(samples: int, num_codes: int, dtype: torch.dtype, rule: Rule) -> bool:
    """Whether `draw_position` serves so many samples and codes, this precision and this rule."""
    plain = rule.top_k is None and rule.top_p is None
    fits = samples <= MOST_SAMPLES and num_codes <= MOST_CODES
    return plain and fits and dtype in (torch.float32, torch.float64)


def padded_size(size: int) -> int:
    power: int = triton.next_power_of_2(max(size, LEAST))
    return power


def filled(parts: Sequence[Tensor], *sizes: int) -> Tensor:
    """Stacks the parts along a new first axis; zeros fill their last axes up to `sizes`."""
    stacked = parts[0].new_zeros(len(parts), *parts[0].shape[: -len(sizes)], *sizes)
    for part, own in zip(parts, stacked, strict=True):
        own[(..., *(slice(size) for size in part.shape[-len(sizes) :]))] = part
    return stacked
