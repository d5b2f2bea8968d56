"""A span of a WaveNet's positions as one Triton kernel: all layers, the head and the draw, position after position.

As in `triton_pixelcnn`, a program draws one sample, and no two programs wait for each other. It reads all weights for
every position: for 40 layers of 64 residual and 128 gate channels and a skip of 256 in float32 40 (2 * 64 * 128 +
64 * 64 + 64 * 256) + 2 * 256 * 256 numbers = 6.4 MB, from the L2 cache at no more than 64 bytes a cycle: 100,000
cycles, 57 us, and 64 programs share its 5.5 TB/s: 75 us a position, where a recorded step of 400 kernels takes 0.9 ms.

Axes: b samples, l layers, r residual channels, h gated units, s skip channels (rn, hn, sn: padded to powers of two),
t positions, k codes, g codebooks.
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

MOST_TILE = 128 * 128  # numbers of a tile of a layer's weights, which lies in the registers of a program
MOST_SKIP = 256 * 128  # of a tile of a skip connection's
SPAN = 256  # positions of a launch, between two progress reports
LOCAL_SPAN = 32  # the same where local features add terms, which take memory, to each of them


@triton.jit(
    do_not_specialize=["sample_stride", "number_stride", "term_sample", "term_position", "start", "count"],
    do_not_specialize_on_alignment=["codes", "known", "uniforms"],
)
def draw_span(
    codes,  # int64, sample i's at i * sample_stride: (t, g), from position `start` on
    known,  # the same; -1: to be drawn
    uniforms,  # float64, at i * number_stride
    finite,  # int8 (): 0 where logits are not finite
    temperature,  # float64 (1,)
    terms,  # biases, label and local terms: (l, 2h) at i * term_sample + t * term_position
    history,  # (b, SLOTS, rn): for each layer a ring of its inputs
    places,  # int32 (l, 2): dilation, first slot of the ring
    embeddings,  # (g, k, r)
    dilated,  # (l, TAPS, 2, rn, hn), (in, out)
    out,  # (l, rn, hn), (out, in)
    out_bias,  # (l, rn)
    skip,  # (l, sn, hn), (out, in)
    skip_bias,  # (1, sn)
    within,
    hidden,
    hidden_bias,
    head,
    head_bias,
    sample_stride,
    number_stride,
    term_sample,
    term_position,
    start,
    count,
    LAYERS: tl.constexpr,
    TAPS: tl.constexpr,
    SLOTS: tl.constexpr,
    R: tl.constexpr,
    RN: tl.constexpr,
    H: tl.constexpr,
    HN: tl.constexpr,
    S: tl.constexpr,
    SN: tl.constexpr,
    HIDDEN: tl.constexpr,
    CHUNK: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    G: tl.constexpr,
    GREEDY: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64)
    codes += i * sample_stride
    known += i * sample_stride
    uniforms += i * number_stride
    terms += i * term_sample
    history += i * SLOTS * RN
    t = tl.load(temperature)
    r = tl.arange(0, RN)
    h = tl.arange(0, HN)
    s = tl.arange(0, SN)
    across = r[:, None] * HN + h[None, :]
    up = s[:, None] * HN + h[None, :]
    column = 0
    while column < count:
        position = start + column
        x = tl.zeros((RN,), dtype=embeddings.dtype.element_ty)
        if position > 0:
            for j in range(G):
                code = tl.load(codes + (column - 1) * G + j)
                x += tl.load(embeddings + (j * K + code) * R + r, mask=r < R, other=0.0)
        sums = tl.zeros((SN, HN), dtype=x.dtype)
        for layer in range(LAYERS):
            dilation = tl.load(places + 2 * layer)
            ring = history + tl.load(places + 2 * layer + 1) * RN
            length = dilation * (TAPS - 1) + 1
            weights = dilated + layer * TAPS * 2 * RN * HN
            own = weights + (TAPS - 1) * 2 * RN * HN
            here = terms + column * term_position + layer * 2 * H + h
            f_term = tl.load(here, mask=h < H, other=0.0)
            g_term = tl.load(here + H, mask=h < H, other=0.0)
            to_out = tl.load(out + layer * RN * HN + across)
            bias = tl.load(out_bias + layer * RN + r)
            to_f = tl.load(own + across) * x[:, None]
            to_g = tl.load(own + RN * HN + across) * x[:, None]
            for tap in tl.static_range(TAPS - 1):
                back = (TAPS - 1 - tap) * dilation
                slot = (position + length - back) % length
                seen = tl.load(ring + slot * RN + r, mask=(r < RN) & (position >= back), other=0.0)
                to_f += tl.load(weights + tap * 2 * RN * HN + across) * seen[:, None]
                to_g += tl.load(weights + (tap * 2 + 1) * RN * HN + across) * seen[:, None]
            # The one slot that no thread reads at this position
            tl.store(ring + position % length * RN + r, x)
            gated = gate(tl.sum(to_f, axis=0) + f_term, tl.sum(to_g, axis=0) + g_term)
            sums += tl.load(skip + layer * SN * HN + up) * gated[None, :]
            x += tl.sum(to_out * gated[None, :], axis=1) + bias
        features = tl.sum(sums, axis=1) + tl.load(skip_bias + s)
        draw_position(
            codes, known, uniforms, finite, t, column, features, within, hidden, hidden_bias, head, head_bias,
            S, SN, HIDDEN, CHUNK, K, KP, G, GREEDY,
        )  # fmt: skip
        tl.debug_barrier()  # what one thread wrote here, codes and inputs, others read at the next positions
        column += 1


def applies(
    samples: int, residual: int, gated: int, skip: int, num_codes: int, dtype: torch.dtype, rule: Rule
) -> bool:
    """Whether the kernel serves a prior of these sizes and this rule."""
    rn, hn, sn = (padded_size(size) for size in (residual, gated, skip))
    fits = rn * hn <= MOST_TILE and sn * hn <= MOST_SKIP
    return fits and triton_draw.applies(samples, num_codes, dtype, rule)


class WaveNetSpans(DrawingKernel):
    """The packed weights of a WaveNet, its rings, and the launch of `draw_span`."""

    kernel = draw_span

    def __init__(
        self,
        batch: int,
        rule: Rule,
        biases: Tensor,
        local: Tensor | None,
        local_weights: Sequence[Tensor],
        dilations: Sequence[int],
        embeddings: Sequence[Tensor],
        dilated: Sequence[Tensor],
        out: Sequence[nn.Linear],
        skip: nn.Linear,
        within: Sequence[Tensor],
        heads: Sequence[tuple[nn.Linear, nn.Linear]],
    ) -> None:
        """biases (b or 1, l, 2h), with label terms; local (b, t, c) and its weights (2h, c) of each layer.

        dilated: each layer's weights (2h, taps * r), the earliest tap first. out: of all layers but the last.
        """
        super().__init__(rule, within, heads)
        r, h, s = embeddings[0].shape[1], biases.shape[2] // 2, skip.out_features
        rn, hn, sn = (padded_size(size) for size in (r, h, s))
        taps = dilated[0].shape[1] // r
        lengths = [dilation * (taps - 1) + 1 for dilation in dilations]
        starts = [sum(lengths[:layer]) for layer in range(len(lengths))]
        self.biases, self.local = biases[:, None], local
        self.local_weight = torch.cat(list(local_weights)).T if local is not None else None  # (c, l * 2h)
        nothing = biases.new_zeros(r, h)  # the last layer has no residual output
        self.stack = (
            biases.new_empty(batch, sum(lengths), rn),
            torch.tensor([list(place) for place in zip(dilations, starts)], dtype=torch.int32, device=biases.device),
            torch.stack(list(embeddings)),
            filled([rearrange(weight, "(half h) (k r) -> k half r h", half=2, k=taps) for weight in dilated], rn, hn),
            filled([*(layer.weight for layer in out), nothing], rn, hn),
            filled([*(layer.bias for layer in out), nothing[:, 0]], rn),
            filled(rearrange(skip.weight, "s (l h) -> l s h", h=h).unbind(0), sn, hn),
            filled([skip.bias], sn),
        )
        self.constants = {
            "LAYERS": len(dilations),
            "TAPS": taps,
            "SLOTS": sum(lengths),
            "R": r,
            "RN": rn,
            "H": h,
            "HN": hn,
            "S": s,
            "SN": sn,
            **self.head_constants,
        }
        self.options = {"num_warps": 8 if max(4 * rn * hn, sn * hn) <= 128 * 128 else 16}
        self.most = SPAN if local is None else LOCAL_SPAN
        self.begun = 0

    def arguments(self, codes: Tensor, known: Tensor, uniforms: Tensor, finite: Tensor) -> tuple[Tensor | int, ...]:
        start, count = self.begun, codes.shape[1]
        terms = self.biases
        if self.local is not None and self.local_weight is not None:
            added = self.local[:, start : start + count] @ self.local_weight
            terms = (terms + added.unflatten(-1, self.biases.shape[2:])).contiguous()
        stride = [0 if terms.shape[axis] == 1 else terms.stride(axis) for axis in (0, 1)]
        state = finite, self.temperature, terms
        strides = codes.stride(0), uniforms.stride(0), *stride
        return codes, known, uniforms, *state, *self.stack, *self.head, *strides, start, count

    def draw(self, codes: Tensor, known: Tensor, uniforms: Tensor, finite: Tensor) -> None:
        super().draw(codes, known, uniforms, finite)
        self.begun += codes.shape[1]
