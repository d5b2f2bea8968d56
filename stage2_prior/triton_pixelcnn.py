"""A row of a Gated PixelCNN as one Triton kernel: the horizontal stack, the head and the draw, column after column.

Samples are independent, so a program draws one sample from the first column to the last, and no two programs ever wait
for each other. Every sum runs in an order that depends on the sizes alone: a sample's codes do not depend on the other
samples. Products are multiply-adds in the precision of the prior (no TF32), cumulative sums float64.

What bounds it: a program reads all weights of the horizontal stack and the head for every column. For 15 layers of 64
channels, K = 512 and a head of 256 in float32 these are 14 * 128 * 128 + 15 * 64 * 64 + 64 * 256 + 256 * 512 numbers
= 1.8 MB, which stay in the L2 cache. An H100's multiprocessor reads at most 64 bytes a cycle from L2, so a column takes
at least 28,000 cycles = 16 us; 64 programs together read 113 MB a column, 21 us at the 5.5 TB/s that L2 gives. The
440,000 multiply-adds take 3,500 cycles of 128 lanes, the chain of reductions (2 to 3 a layer, about 100 cycles each)
another 5,000. So 21 to 30 us a column: 0.02 to 0.03 s for 64 grids of 32 x 32, plus the rows of the vertical stack.

Axes: b samples, l layers, p features, n of p padded to a power of two, w columns, k codes, g codebooks.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from einops import rearrange
from torch import Tensor, nn

from stage2_prior import triton_draw
from stage2_prior.rule import Rule
from stage2_prior.triton_draw import DrawingKernel, draw_position, filled, gate, padded_size

MOST_FEATURES = 128  # a tile of n * n weights lies in the registers of a program


@triton.jit(
    do_not_specialize=["sample_stride", "number_stride", "batch"],
    do_not_specialize_on_alignment=["codes", "known", "uniforms"],
)
def draw_row(
    codes,  # int64, sample i's at i * sample_stride: (w, g)
    known,  # the same; -1: to be drawn
    uniforms,  # float64, at i * number_stride
    finite,  # int8 (): 0 where logits are not finite
    temperature,  # float64 (1,)
    sums,  # (l, b, w, 2p)
    history,  # (b, l - 1, TAPS + 1, n): inputs of later layers at this column and earlier ones
    first,  # (FIRST_TAPS, g, k, 2p): embedded codes times the first layer's weights
    horizontal,  # (l - 1, TAPS + 1, 2, n, n), (in, out)
    out,  # (l, n, n), (out, in)
    out_bias,  # (l, n)
    within,  # (g - 1, k, p)
    hidden,  # (g, n, HIDDEN), (in, out)
    hidden_bias,  # (g, HIDDEN)
    head,  # (g, HIDDEN, KP)
    head_bias,  # (g, KP)
    sample_stride,
    number_stride,
    batch,
    WIDTH: tl.constexpr,
    LAYERS: tl.constexpr,
    FIRST_TAPS: tl.constexpr,
    TAPS: tl.constexpr,  # earlier columns that a later layer sees
    P: tl.constexpr,
    N: tl.constexpr,
    HIDDEN: tl.constexpr,
    CHUNK: tl.constexpr,  # of HIDDEN
    K: tl.constexpr,
    KP: tl.constexpr,
    G: tl.constexpr,
    GREEDY: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64)
    codes += i * sample_stride
    known += i * sample_stride
    uniforms += i * number_stride
    history += i * (LAYERS - 1) * (TAPS + 1) * N
    layer_stride = batch.to(tl.int64) * WIDTH * 2 * P
    sums += i * WIDTH * 2 * P
    t = tl.load(temperature)
    feature = tl.arange(0, N)
    real = feature < P
    tile = feature[:, None] * N + feature[None, :]
    for column in range(WIDTH):
        f = tl.load(sums + column * 2 * P + feature, mask=real, other=0.0)
        g = tl.load(sums + column * 2 * P + P + feature, mask=real, other=0.0)
        for tap in tl.static_range(FIRST_TAPS):
            left = column - FIRST_TAPS + tap
            if left >= 0:
                for j in range(G):
                    row = first + ((tap * G + j) * K + tl.load(codes + left * G + j)) * 2 * P
                    f += tl.load(row + feature, mask=real, other=0.0)
                    g += tl.load(row + P + feature, mask=real, other=0.0)
        h = tl.sum(tl.load(out + tile) * gate(f, g)[None, :], axis=1) + tl.load(out_bias + feature)
        for layer in range(1, LAYERS):
            inputs = history + (layer - 1) * (TAPS + 1) * N
            weights = horizontal + (layer - 1) * (TAPS + 1) * 2 * N * N
            own = weights + TAPS * 2 * N * N
            here = sums + layer * layer_stride + column * 2 * P + feature
            # What does not wait for the layer below is read first: no load passes a reduction, which is a barrier
            f_above = tl.load(here, mask=real, other=0.0)
            g_above = tl.load(here + P, mask=real, other=0.0)
            to_out = tl.load(out + layer * N * N + tile)
            bias = tl.load(out_bias + layer * N + feature)
            to_f = tl.load(own + tile) * h[:, None]
            to_g = tl.load(own + N * N + tile) * h[:, None]
            for tap in tl.static_range(TAPS):
                left = column - TAPS + tap
                seen = tl.load(
                    inputs + (left + TAPS + 1) % (TAPS + 1) * N + feature, mask=(feature < N) & (left >= 0), other=0.0
                )
                to_f += tl.load(weights + tap * 2 * N * N + tile) * seen[:, None]
                to_g += tl.load(weights + (tap * 2 + 1) * N * N + tile) * seen[:, None]
            # Of TAPS + 1 slots the one that no thread reads at this column
            tl.store(inputs + column % (TAPS + 1) * N + feature, h)
            gated = gate(tl.sum(to_f, axis=0) + f_above, tl.sum(to_g, axis=0) + g_above)
            h += tl.sum(to_out * gated[None, :], axis=1) + bias
        draw_position(
            codes, known, uniforms, finite, t, column, h, within, hidden, hidden_bias, head, head_bias,
            P, N, HIDDEN, CHUNK, K, KP, G, GREEDY,
        )  # fmt: skip
        tl.debug_barrier()  # what one thread wrote here, codes and inputs, others read at the next columns


def applies(samples: int, features: int, num_codes: int, dtype: torch.dtype, rule: Rule) -> bool:
    """Whether the kernel serves a prior of these sizes and this rule."""
    return features <= MOST_FEATURES and triton_draw.applies(samples, num_codes, dtype, rule)


class PixelCNNRows(DrawingKernel):
    """The packed weights of a GatedPixelCNN's horizontal stack and heads, and the launch of `draw_row`."""

    kernel = draw_row

    def __init__(
        self,
        sums: Tensor,
        rule: Rule,
        embeddings: Sequence[Tensor],
        horizontal: Sequence[Tensor],
        out: Sequence[nn.Conv2d],
        within: Sequence[Tensor],
        heads: Sequence[tuple[nn.Linear, nn.Linear]],
    ) -> None:
        """sums (l, b, w, 2p): what the vertical stack adds, filled before each `draw`. embeddings, within: (k, p).

        horizontal: each layer's weights (2p, p, 1, taps), the first layer's without the position itself.
        """
        super().__init__(rule, within, heads)
        self.sums = sums
        batch, p = sums.shape[1], sums.shape[3] // 2
        n = padded_size(p)
        taps = [rearrange(weight, "(half n) p 1 x -> x half p n", half=2) for weight in horizontal[1:]]
        self.history = sums.new_empty(batch, len(taps), len(taps[0]) if taps else 1, n)
        first = [[table @ tap.T for table in embeddings] for tap in horizontal[0][:, :, 0].unbind(2)]
        self.stack = (
            torch.stack([torch.stack(tap) for tap in first]),
            filled(taps or [sums.new_empty(1, 2, p, p)], n, n),  # unused in a prior of one layer
            filled([layer.weight[:, :, 0, 0] for layer in out], n, n),
            filled([layer.bias for layer in out if layer.bias is not None], n),
        )
        self.constants = {
            "WIDTH": sums.shape[2],
            "LAYERS": len(horizontal),
            "FIRST_TAPS": horizontal[0].shape[3],
            "TAPS": self.history.shape[2] - 1,
            "P": p,
            "N": n,
            **self.head_constants,
        }
        self.options = {"num_warps": 8 if n <= 64 else 16}
        self.most = sums.shape[2]

    def arguments(self, codes: Tensor, known: Tensor, uniforms: Tensor, finite: Tensor) -> tuple[Tensor | int, ...]:
        state = finite, self.temperature, self.sums, self.history
        strides = codes.stride(0), uniforms.stride(0)
        return codes, known, uniforms, *state, *self.stack, *self.head, *strides, len(codes)
