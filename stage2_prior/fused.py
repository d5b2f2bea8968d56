"""Layers of the gated PixelCNN on a CPU: PyTorch's products and convolutions, and `training_kernels` for the rest.

The same function as `pixelcnn.GatedLayer`, which serves other devices and which the tests compare with. There, half of
the time of a training step goes into borders, copies, sums, gates and their gradients. Here gates write into the
bordered input of the next layer, gradients are added where they stand, and the first layer looks up what its kernels
make of each code. Sums of kernels run in float32 for bfloat16 features, in the features' precision otherwise.

Features are laid out as (b, h, w, features).
Axes: b batch, h rows, w columns, p features of a stack, k codes, m taps of a kernel, n positions.
"""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable

from stage2_prior.compiler import training_kernels as kernels


class Gates(torch.autograd.Function):
    """What follows the vertical convolution in a layer: its sums and the horizontal stack -> (v, h) of the next layer.

    seen: (b, h, w, 2p), sums of the vertical stack. left: (b, h, reach + w, p), features of the horizontal stack, with
    zeros before each row; in the first layer (b, h, w, 2p), the sums of its horizontal kernel, where `horizontal` is
    None.
    bias: (b, 2p, 1 or h, 1 or w), terms before the horizontal gates that vary with the sample, or None.
    kept: the gated features that dropout keeps, bool (b, h, w, p), and multiplies by `scale`; None: all.
    reach: of the next layer's kernels; 0 for none, and then there is no v, and h has no border.
    Returns v, (b, reach + h, reach + w + reach, p) with zeros above and at both sides, and h as `left`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        seen: Tensor,
        left: Tensor,
        bias: Tensor | None,
        kept: Tensor | None,
        scale: float,
        reach: int,
        across: Tensor,
        across_bias: Tensor,
        horizontal: Tensor | None,
        out: Tensor,
        out_bias: Tensor,
    ) -> tuple[Tensor | None, Tensor]:
        ctx.dtypes = [None if x is None else x.dtype for x in (across, across_bias, horizontal, out, out_bias)]
        across, out = (x.to(seen.dtype)[:, :, 0, 0] for x in (across, out))
        across_bias, out_bias = (x.to(_sum_dtype(seen.dtype)) for x in (across_bias, out_bias))
        horizontal = None if horizontal is None else horizontal.to(seen.dtype)
        batch, height, width, features = seen.shape
        p = features // 2
        with torch.autocast("cpu", enabled=False):
            sums = (_rows(seen) @ across.T).view(seen.shape)
            if bias is not None:
                sums += channels_last(bias)
            beside = left if horizontal is None else channels_last(F.conv2d(channels_first(left), horizontal))
            gated = seen.new_empty(batch, height, width, p)
            kernels.run(kernels.gate_of_sum, _rows(sums), _rows(beside), across_bias, _rows(gated))
            dropped = gated if kept is None else (gated * kept).mul_(scale)
            update = (_rows(dropped) @ out.T).view(gated.shape)
            h = seen.new_empty(batch, height, reach + width, p)
            old = torch.zeros_like(update) if horizontal is None else left
            kernels.run(kernels.residual, old, old.shape[2] - width, update, out_bias, h, reach)
            v = None
            if reach:
                v = seen.new_empty(batch, reach + height, width + 2 * reach, p)
                kernels.run(kernels.gate, seen, v, reach, reach)
        ctx.save_for_backward(seen, left, sums, dropped, kept, across, horizontal, out)
        ctx.reach, ctx.scale, ctx.bias = reach, scale, None if bias is None else (bias.shape, bias.dtype)
        ctx.set_materialize_grads(False)
        return v, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, for_v: Tensor | None, for_h: Tensor | None) -> tuple[Any, ...]:
        seen, left, sums, dropped, kept, across, horizontal, out = ctx.saved_tensors
        batch, height, width, p = dropped.shape
        for_h = seen.new_zeros(batch, height, ctx.reach + width, p) if for_h is None else for_h.contiguous()
        for_update = _rows(for_h[:, :, ctx.reach :].contiguous())
        for_gated = (for_update @ out).view(dropped.shape)
        for_out = for_update.T @ _rows(dropped)
        if kept is not None:
            for_gated = (for_gated * kept).mul_(ctx.scale)
        for_sums = torch.empty_like(sums)
        kernels.run(kernels.gate_gradient, sums, for_gated, 0, 0, for_sums, False)
        for_seen = (_rows(for_sums) @ across).view(seen.shape)
        for_across = _rows(for_sums).T @ _rows(seen)
        for_left, for_horizontal = for_sums, None
        if horizontal is not None:
            for_left, for_horizontal, _ = torch.ops.aten.convolution_backward(
                channels_first(for_sums), channels_first(left), horizontal, None,
                [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, False],
            )  # fmt: skip
            for_left = channels_last(for_left)
            kernels.run(kernels.add_inside, for_left, left.shape[2] - width, for_h, ctx.reach)
        if for_v is not None:
            kernels.run(kernels.gate_gradient, seen, for_v.contiguous(), ctx.reach, ctx.reach, for_seen, True)
        for_bias = None
        if ctx.bias is not None:
            shape, dtype = ctx.bias
            for_bias = channels_first(for_sums).to(dtype).sum_to_size(shape)
        parameters = (
            for_across[..., None, None], _rows(for_sums).sum(0), for_horizontal, for_out[..., None, None],
            for_update.sum(0),
        )  # fmt: skip
        cast = (None if x is None else x.to(dtype) for x, dtype in zip(parameters, ctx.dtypes, strict=True))
        return for_seen, for_left, for_bias, None, None, None, *cast


class Gate(torch.autograd.Function):
    """sums (..., 2p) -> tanh(f) sigmoid(g) (..., p), f and g the halves of the sums."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor) -> Tensor:
        sums = sums.contiguous()
        out = sums.new_empty(*sums.shape[:-1], sums.shape[-1] // 2)
        kernels.run(kernels.gate, _rows(sums)[:, None, None], _rows(out)[:, None, None], 0, 0)
        ctx.save_for_backward(sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        (sums,) = ctx.saved_tensors
        out = torch.empty_like(sums)
        wide, upstream = _rows(sums)[:, None, None], _rows(upstream.contiguous())[:, None, None]
        kernels.run(kernels.gate_gradient, wide, upstream, 0, 0, _rows(out)[:, None, None], False)
        return out


class LookUp(torch.autograd.Function):
    """Codes (b, h, w), a table (m, k, n) and a bias (n) -> sums (b, h, w, n) of one row per tap, in `dtype`.

    Tap i of a position reads the code up[i] rows above and left[i] columns to the left; beyond the grid, nothing.
    """

    @staticmethod
    def forward(
        ctx: Any, codes: Tensor, table: Tensor, bias: Tensor, up: Tensor, left: Tensor, dtype: torch.dtype
    ) -> Tensor:
        out = torch.empty(*codes.shape, len(bias), dtype=dtype)
        codes = codes.contiguous()
        kernels.run(kernels.look_up, codes.numpy(), table, up.numpy(), left.numpy(), bias, out)
        ctx.save_for_backward(codes, up, left)
        ctx.shape, ctx.dtype = table.shape, table.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        codes, up, left = ctx.saved_tensors
        out = torch.zeros(ctx.shape, dtype=ctx.dtype)
        upstream = upstream.contiguous()
        kernels.run(kernels.look_up_gradient, codes.numpy(), upstream, up.numpy(), left.numpy(), out)
        return None, out, _rows(upstream).sum(0).to(ctx.dtype), None, None, None


class Nats(torch.autograd.Function):
    """-log softmax(logits (n, k))[codes (n)], (n), in float32 or float64."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, codes: Tensor) -> Tensor:
        logits, codes = logits.contiguous(), codes.contiguous()
        nats = logits.new_empty(len(logits), dtype=_sum_dtype(logits.dtype))
        scale = torch.empty_like(nats)
        kernels.run(kernels.nats, logits, codes.numpy(), scale, nats)
        ctx.save_for_backward(logits, codes, scale)
        return nats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        logits, codes, scale = ctx.saved_tensors
        out = torch.empty_like(logits)
        kernels.run(kernels.nats_gradient, logits, codes.numpy(), scale, upstream.contiguous(), out)
        return out, None


def precision(x: Tensor) -> torch.dtype:
    """The precision of products with x: its own, or autocast's."""
    cast = torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64
    return torch.get_autocast_dtype(x.device.type) if cast else x.dtype


def convolve_codes(
    codes: Tensor,
    embedding: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: tuple[int, int, int, int],
    dtype: torch.dtype,
) -> Tensor:
    """Convolves embedded codes (b, h, w), padded (left, right, top, bottom) with zeros, into sums (b, h, w, n).

    embedding (k, p); weight (n, p, rows, columns), of rows above and columns beside a position, none of them below it.
    """
    n, _, rows, columns = weight.shape
    with torch.autocast(codes.device.type, enabled=False):
        looked_up = table(embedding, weight)
        up = (padding[2] - torch.arange(rows)).repeat_interleave(columns)
        left = (padding[0] - torch.arange(columns)).repeat(rows)
        bias = looked_up.new_zeros(n) if bias is None else bias
        looked_up, bias = (x.to(_sum_dtype(dtype)).contiguous() for x in (looked_up, bias))
        return LookUp.apply(codes, looked_up, bias, up, left, dtype)  # type: ignore[no-untyped-call]


def table(embedding: Tensor, weight: Tensor) -> Tensor:
    """What each tap of a kernel (n, p, rows, columns) makes of each embedded code (k, p): (rows * columns, k, n)."""
    return rearrange(embedding @ rearrange(weight, "n p y x -> p (y x n)"), "k (m n) -> m k n", n=len(weight))


def _sum_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _rows(x: Tensor) -> Tensor:
    return x.view(-1, x.shape[-1])


def channels_first(x: Tensor) -> Tensor:
    return rearrange(x, "b h w c -> b c h w")


def channels_last(x: Tensor) -> Tensor:
    return rearrange(x, "b c h w -> b h w c").contiguous()
