"""A decoder-only transformer (Vaswani et al., arXiv 1706.03762) over grids of codes with any number of axes.

Variant: LayerNorm before each branch (Xiong et al., arXiv 2002.04745), squared ReLU (So et al., arXiv 2109.08668),
rotary positions (Su et al., arXiv 2104.09864) in which every axis of the grid turns its own share of a head's
dimensions. Codes are flattened in raster order, codebook fastest; step n reads code n - 1 and predicts code n. Its
query is turned by the position of the code that it predicts, its key by that of the code that it reads, so that the
code above or to the left is at the same offset everywhere, at the beginning of a row too.

Axes: b batch, n steps (positions times codebooks), k codes of a codebook, g codebooks, d channels, a heads, r
dimensions of a head, L label columns, *grid positions.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from stage2_prior.compiler import available, compiled, compiled_transformer
from stage2_prior.dropout import GlobalBatchDropout
from stage2_prior.initialise import initialise
from stage2_prior.layers import Layers, embed_labels
from stage2_prior.prior import NOT_FINITE, CompiledLoop, Prior, ReplayableStepper, Stepper
from stage2_prior.rule import Rule

SHORTEST = 4.0  # positions of the shortest wave of an axis: neighbours differ by a quarter turn
LONGEST = 4.0  # lengths of the axis of its longest wave: both ends differ by a quarter turn
CHUNK = 128  # queries whose products with all keys are made at once
SPAN = 32  # positions between two progress reports of the compiled loop


class Transformer(Prior):
    """p(codes | labels, local) over grids of any size with as many axes as `grid`.

    grid: positions of the codes; the rotary waves of each axis span it. Grids of other sizes with as many axes fit too.
    channels: d, of the residual stream; num_heads divides it. expansion: the hidden layer of a block has expansion * d
    units. num_classes: one table of d channels for each label column; their sum conditions every position, and the
    first step reads it instead of a code. local_channels: channels of `local` (b, c, *grid): those of a position enter
    the steps that predict its codes. dropout: probability, on the outputs of both branches of a block.

    With grid=(32, 32), codes (64, 32, 32) give logits (64, 512, 32, 32); with two codebooks (64, 32, 32, 2) give
    (64, 512, 32, 32, 2), by 2,048 steps.
    """

    def __init__(
        self,
        num_codes: int = 512,
        num_codebooks: int = 1,
        grid: Sequence[int] = (32, 32),
        channels: int = 128,
        num_layers: int = 6,
        num_heads: int = 8,
        expansion: int = 4,
        num_classes: Sequence[int] = (),
        local_channels: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_codes, num_codebooks, num_classes, local_channels)
        self.waves_grid, self.grid_axes = tuple(int(size) for size in grid), len(grid)
        if not self.waves_grid or min(self.waves_grid) < 1:
            raise ValueError(f"grid: expected the positions of one axis or more, found {list(grid)}")
        sizes = {"channels": channels, "num_layers": num_layers, "num_heads": num_heads, "expansion": expansion}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name}: expected 1 or more, found {value}")
        if channels % num_heads or channels // num_heads % 2 or channels // num_heads < 2 * self.grid_axes:
            raise ValueError(f"num_heads: expected a divisor of channels {channels} that leaves a head an even number "
                             f"of {2 * self.grid_axes} dimensions or more, two for each axis, found {num_heads}")
        self.num_heads, self.head_channels = num_heads, channels // num_heads
        self.embeddings: Layers[nn.Embedding] = Layers(
            nn.Embedding(self.num_codes, channels) for _ in range(num_codebooks)
        )
        self.start = nn.Parameter(torch.empty(channels))  # read by the first step
        self.which = nn.Embedding(num_codebooks, channels) if num_codebooks > 1 else None  # codebook is predicted
        self.place = nn.Linear(self.head_channels, channels, bias=False)  # of the position that is predicted
        self.tables: Layers[nn.Embedding] = Layers(nn.Embedding(count, channels) for count in self.num_classes)
        self.local = nn.Linear(local_channels, channels, bias=False) if local_channels else None
        self.blocks: Layers[Block] = Layers(Block(channels, num_heads, expansion, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(channels, bias=False)
        self.heads: Layers[nn.Linear] = Layers(nn.Linear(channels, self.num_codes) for _ in range(num_codebooks))
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Codes of unit variance, other inputs less; a residual stream whose variance grows by 1; logits near zero."""
        for table in self.embeddings:
            nn.init.normal_(table.weight)
        nn.init.normal_(self.start)
        if self.which is not None:
            nn.init.normal_(self.which.weight, std=0.5)
        nn.init.normal_(self.place.weight, std=0.5 * (2 / self.head_channels) ** 0.5)  # mean square of a wave: 1/2
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.5)
        if self.local is not None:
            initialise(self.local, 0.5)
        gain = (2 * len(self.blocks)) ** -0.5
        for block in self.blocks:
            initialise(block.qkv, 1.0)
            initialise(block.out, gain)
            initialise(block.wide, 1.0)
            initialise(block.narrow, gain * 1.5**-0.5)  # E[relu(z)^4] = 3/2 for z ~ N(0, 1)
        for head in self.heads:
            initialise(head, 0.1)

    def forward(self, codes: Tensor, labels: Tensor | None = None, local: Tensor | None = None) -> Tensor:
        self.check(codes, labels, local)
        grid = self.grid(codes.shape)
        x = self._read(codes, grid, labels, local)
        if torch.is_autocast_enabled(x.device.type) and x.dtype == torch.float32:  # cast once, not in every block
            x = x.to(torch.get_autocast_dtype(x.device.type))
        cos, sin = self.rotations(grid, x.device, x.dtype)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self._predict(self.norm(x), codes.shape[1:])

    def _read(self, codes: Tensor, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None) -> Tensor:
        """What each step reads, (b, n, d): the code before it, and what conditions it."""
        by_codebook = rearrange(codes.flatten(1), "b (p g) -> b p g", g=self.num_codebooks)
        embedded = [table(by_codebook[..., j]) for j, table in enumerate(self.embeddings)]
        x = rearrange(torch.stack(embedded, 2), "b p g d -> b (p g) d")
        x = torch.cat((self.start.expand(x.shape[0], 1, -1), x[:, :-1]), 1)
        x = x + self.conditions(grid)
        for row in embed_labels(self.tables, labels):
            x = x + row[:, None]
        if self.local is not None and local is not None:
            x = x + self.local(rearrange(local, "b c ... -> b (...) c")).repeat_interleave(self.num_codebooks, 1)
        return x

    def _predict(self, features: Tensor, shape: Sequence[int]) -> Tensor:
        """Features (b, n, d) -> logits (b, k, *shape); in memory k is innermost, as the likelihood reads it."""
        if self.num_codebooks == 1:
            logits = self.heads[0](features)
        else:
            by_codebook = rearrange(features, "b (p g) d -> g b p d", g=self.num_codebooks)
            logits = torch.stack([head(x) for head, x in zip(self.heads, by_codebook, strict=True)], 2)
        return logits.reshape(logits.shape[0], *shape, self.num_codes).movedim(-1, 1)

    def conditions(self, grid: tuple[int, ...]) -> Tensor:
        """What a step knows of the code that it predicts, (n, d): its position, and which codebook it is of."""
        angles = self._angles(self._positions(grid, self.start.device)).to(self.start.dtype)
        x = self.place(torch.cat((angles.cos(), angles.sin()), -1))
        return x if self.which is None else (x[:, None] + self.which.weight).flatten(0, 1)

    def rotations(self, grid: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin (2, n, r / 2) of the angles by which queries, which are scaled too, and keys are turned."""
        at = self._positions(grid, device)
        predicted = at.repeat_interleave(self.num_codebooks, 0)
        before = torch.zeros_like(at[:1])
        before[:, -1] = -1  # the first step reads no code: its key is before the first position
        read = torch.cat((before, predicted[:-1]))
        angles = self._angles(torch.stack((predicted, read)))
        scale = torch.ones_like(angles[:, :1, :1])
        scale[0] = self.head_channels**-0.5
        return (angles.cos() * scale).to(dtype), (angles.sin() * scale).to(dtype)

    @staticmethod
    def _positions(grid: tuple[int, ...], device: torch.device) -> Tensor:
        """float64 (positions, axes)."""
        axes = [torch.arange(size, dtype=torch.float64, device=device) for size in grid]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)

    def _angles(self, positions: Tensor) -> Tensor:
        """Positions (..., axes) -> the angles of all waves there, (..., r / 2): each axis has its share of them."""
        pairs, parts = self.head_channels // 2, []
        for axis, size in enumerate(self.waves_grid):
            count = pairs * (axis + 1) // self.grid_axes - pairs * axis // self.grid_axes
            number = torch.arange(count, dtype=torch.float64, device=positions.device) / max(1, count - 1)
            lengths = SHORTEST * max(1.0, LONGEST * size / SHORTEST) ** number
            parts.append(positions[..., axis, None] * (2 * math.pi / lengths))
        return torch.cat(parts, -1)

    def stepper(
        self, batch: int, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None
    ) -> "TransformerStepper":
        self.check_conditions(batch, grid, labels, local)
        return TransformerStepper(self, batch, grid, labels, local)

    def compiled_loop(self) -> "CompiledTransformer | None":
        return CompiledTransformer(self) if available() else None


class Block(nn.Module):
    """x (b, n, d) -> x + attention(norm(x)), then the same with a hidden layer in place of attention."""

    def __init__(self, channels: int, num_heads: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.first_norm = nn.LayerNorm(channels, bias=False)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels)
        self.second_norm = nn.LayerNorm(channels, bias=False)
        self.wide = nn.Linear(channels, expansion * channels)
        self.narrow = nn.Linear(expansion * channels, channels)
        self.dropout = GlobalBatchDropout(dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = self.turned(x, cos, sin)
        return self.finish(x, attend(q, k, v))

    def turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (b, a, n, r) of x (b, n, d)."""
        qkv = self.qkv(self.first_norm(x))
        return _Heads.apply(qkv, cos, sin, self.num_heads)  # type: ignore[no-untyped-call]

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """x and the values (b, a, n, r) that each query found -> the block's output."""
        x = x + self._dropped(self.out(rearrange(mixed, "b a n r -> b n (a r)")))
        return x + self._dropped(self.narrow(_SquaredReLU.apply(self.wide(self.second_norm(x)))))  # type: ignore[no-untyped-call]

    def _dropped(self, x: Tensor) -> Tensor:
        kept = self.dropout.kept(x.shape, x.device)
        return x if kept is None else x * kept / (1.0 - self.dropout.probability)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of scaled queries, keys and values (b, a, n, r) -> (b, a, n, r).

    In bfloat16 on a CPU by plain products: PyTorch's kernel takes 34 us there per step, forward and backward, for 4
    heads of 32 and 49 steps, these 3; from 441 steps on half."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        return _Attention.apply(q, k, v)  # type: ignore[no-untyped-call]
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)


class _Attention(torch.autograd.Function):
    """`attend`, CHUNK queries at a time with the keys up to them: half of all products, and of the memory."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape, found, ctx.masses = q.shape, [], []
        q, k, v = (x.reshape(-1, *shape[2:]) for x in (q, k, v))
        later = q.new_full((CHUNK, CHUNK), -math.inf).triu_(1)
        for start, stop in _chunks(shape[2]):
            scores = torch.bmm(q[:, start:stop], k[:, :stop].mT)
            scores[..., start:] += later[: stop - start, : stop - start]
            ctx.masses.append(scores.softmax(-1))
            found.append(torch.bmm(ctx.masses[-1], v[:, :stop]))
        ctx.save_for_backward(q, k, v)
        return torch.cat(found, 1).view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = ctx.saved_tensors
        shape, upstream = upstream.shape, upstream.reshape(q.shape)
        for_q, for_k, for_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (start, stop), masses in zip(_chunks(shape[2]), ctx.masses, strict=True):
            own = upstream[:, start:stop]
            for_v[:, :stop] += torch.bmm(masses.mT, own)
            for_masses = torch.bmm(own, v[:, :stop].mT)
            for_scores = torch.ops.aten._softmax_backward_data(for_masses, masses, -1, q.dtype)
            for_q[:, start:stop] = torch.bmm(for_scores, k[:, :stop])
            for_k[:, :stop] += torch.bmm(for_scores.mT, q[:, start:stop])
        return for_q.view(shape), for_k.view(shape), for_v.view(shape)


def _chunks(steps: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + CHUNK, steps)) for start in range(0, steps, CHUNK))


class _Heads(torch.autograd.Function):
    """qkv (b, n, 3 d), cos and sin (2, n, r / 2) -> queries, keys, turned, and values, each (b, a, n, r), contiguous.

    Dimension i of a head and dimension i + r / 2 are turned together. The gradient is turned back."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        out = qkv.new_empty(3, qkv.shape[0], heads, qkv.shape[1], qkv.shape[2] // 3 // heads)
        parts = rearrange(qkv, "b n (c a r) -> c b a n r", c=3, a=heads)
        _turn(parts[:2], cos[:, None, None], sin[:, None, None], out[:2])
        out[2] = parts[2]
        q, k, v = out.unbind(0)
        return q, k, v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, for_q: Tensor, for_k: Tensor, for_v: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        b, a, n, r = for_q.shape
        gradient = for_q.new_empty(b, n, 3, a, r)
        parts = rearrange(gradient, "b n c a r -> c b a n r")
        for which, part in enumerate((for_q, for_k)):
            _turn(part, cos[which], -sin[which], parts[which])
        parts[2] = for_v
        return gradient.flatten(2), None, None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Turns the pairs of x (..., r) by angles (..., r / 2), into `out`."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin)


class _SquaredReLU(torch.autograd.Function):
    """relu(x)^2 in two passes over memory, and its gradient in two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = x.relu()
        ctx.save_for_backward(positive)
        return positive.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return (positive * upstream).mul_(2)


class TransformerStepper(ReplayableStepper):
    """Cached evaluation: every block keeps the keys and values of all steps."""

    def __init__(
        self, prior: Transformer, batch: int, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None
    ) -> None:
        self.prior, self.grid = prior, grid
        like, steps = prior.start, math.prod(grid) * prior.num_codebooks
        self.embeddings = torch.cat([table.weight for table in prior.embeddings])
        self.known = prior.conditions(grid)
        self.labels = sum(embed_labels(prior.tables, labels), start=like.new_zeros(batch, len(like)))[:, None]
        self.local = None if local is None else rearrange(local, "b c ... -> b (...) c")
        self.cos, self.sin = prior.rotations(grid, like.device, like.dtype)
        shape = len(prior.blocks), batch, prior.num_heads, steps, prior.head_channels
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self.numbers = torch.arange(steps, device=like.device)
        self.slice = self.numbers[: steps // grid[0]]

    def begin_at(self, codes: Tensor, position: Sequence[Tensor], axis: int) -> None:
        """Keys and values of the slice before, whose steps may have been skipped, by one pass over all of them.

        Before the first slice there is none: what is computed then is computed again before it is read."""
        if axis == 0:
            steps = (position[0] - 1).clamp(min=0) * len(self.slice) + self.slice
            self._features(codes, steps, drawing=False)

    def step_at(self, codes: Tensor, position: Sequence[Tensor], codebook: int) -> Tensor:
        number = position[0]
        for place, size in zip(position[1:], self.grid[1:], strict=True):
            number = torch.add(place, number, alpha=size)
        step = number * self.prior.num_codebooks + codebook
        return self.prior.heads[codebook](self._features(codes, step)[:, 0])

    def _features(self, codes: Tensor, steps: Tensor, drawing: bool = True) -> Tensor:
        """Steps (m,), one after the other -> features (b, m, d); of the last block only keys and values where they are
        not for `drawing`."""
        prior, before = self.prior, (steps - 1).clamp(min=0)
        rows = codes.flatten(1).index_select(1, before) + before % prior.num_codebooks * prior.num_codes
        x = torch.where((steps > 0)[:, None], F.embedding(rows, self.embeddings), prior.start)
        x = x + self.known.index_select(0, steps) + self.labels
        if self.local is not None and prior.local is not None:
            x = x + prior.local(self.local.index_select(1, steps // prior.num_codebooks))
        cos, sin = self.cos.index_select(1, steps), self.sin.index_select(1, steps)
        seen = self.numbers <= steps[:, None]
        for i, (block, keys, values) in enumerate(zip(prior.blocks, self.keys, self.values, strict=True), start=1):
            q, k, v = block.turned(x, cos, sin)
            keys.index_copy_(2, steps, k)
            values.index_copy_(2, steps, v)
            if i == len(prior.blocks) and not drawing:
                break
            x = block.finish(x, F.scaled_dot_product_attention(q, keys, values, attn_mask=seen, scale=1.0))
        return prior.norm(x)


class CompiledTransformer(CompiledLoop):
    """The packed parameters of a Transformer, and the loop over spans of positions."""

    def __init__(self, prior: Transformer) -> None:
        dtype = prior.start.dtype
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"prior: expected parameters of torch.float32 or torch.float64 on a CPU, found {dtype}")
        self.prior, self.dtype = prior, np.float32 if dtype == torch.float32 else np.float64
        blocks, heads, pack, fill_up = list(prior.blocks), list(prior.heads), compiled.pack, compiled.fill_up
        norms = [torch.stack((block.first_norm.weight, block.second_norm.weight)) for block in blocks]
        self.weights = compiled_transformer.Weights(
            embeddings=self._stack([table.weight for table in prior.embeddings], axes=2),
            start=prior.start.detach().numpy(),
            local=self._stack([] if prior.local is None else [pack(prior.local.weight)], axes=3),
            norms=self._stack(norms, axes=2),
            qkv=self._stack([pack(block.qkv.weight) for block in blocks], axes=3),
            out=self._stack([pack(block.out.weight) for block in blocks], axes=3),
            out_bias=self._stack([fill_up(block.out.bias) for block in blocks], axes=1),
            wide=self._stack([pack(block.wide.weight) for block in blocks], axes=3),
            wide_bias=self._stack([fill_up(block.wide.bias) for block in blocks], axes=1),
            narrow=self._stack([pack(block.narrow.weight) for block in blocks], axes=3),
            narrow_bias=self._stack([fill_up(block.narrow.bias) for block in blocks], axes=1),
            last_norm=prior.norm.weight.detach().numpy(),
            logits=self._stack([pack(head.weight) for head in heads], axes=3),
            logits_bias=self._stack([fill_up(head.bias) for head in heads], axes=1),
        )

    def _stack(self, parts: Sequence[np.ndarray | Tensor], axes: int) -> np.ndarray:
        return compiled.stack(parts, axes, self.dtype)

    def fill(
        self, codes: Tensor, uniforms: Tensor, labels: Tensor | None, local: Tensor | None, rule: Rule
    ) -> Iterator[int]:
        batch, grid, books = len(codes), self.prior.grid(codes.shape), self.prior.num_codebooks
        drawn, numbers = (x.contiguous().numpy().reshape(batch, -1) for x in (codes, uniforms))
        free = np.flatnonzero((drawn < 0).any(0))
        end = int(free[-1]) + 1 if len(free) else 0  # what comes after the last code to draw conditions nothing
        state = self._state(batch, grid, labels, local, end)
        top_k = self.prior.num_codes if rule.top_k is None else rule.top_k
        top_p = np.inf if rule.top_p is None else float(rule.top_p)
        how = float(rule.temperature), top_k, top_p
        positions = math.prod(grid)
        for start in range(0, positions, SPAN):
            stop = min(start + SPAN, positions)
            steps = start * books, min(stop * books, end)
            if not compiled_transformer.draw_steps(*steps, drawn, numbers, *how, self.weights, state):
                raise ValueError(NOT_FINITE)
            yield batch * (stop - start)

    def stepper(
        self, batch: int, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None
    ) -> "CompiledTransformerStepper":
        self.prior.check_conditions(batch, grid, labels, local)
        steps = math.prod(grid) * self.prior.num_codebooks
        state = self._state(batch, grid, labels, local, steps)
        return CompiledTransformerStepper(self.weights, state, grid, self.prior)

    def _state(
        self, samples: int, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None, steps: int
    ) -> "compiled_transformer.State":
        """For the first `steps` of all steps: they alone take memory."""
        prior, weights = self.prior, self.weights
        d, r, channels = len(prior.start), prior.head_channels, prior.local_channels
        rows, size = max(compiled_transformer.AT_ONCE, samples), np.dtype(self.dtype).itemsize
        width = compiled_transformer.narrowest_panel(steps, size)
        columns = compiled_transformer.narrowest_panel(r, size)
        panels = -(-steps // width)
        each = len(weights.norms), samples, prior.num_heads

        def zeros(*shape: int) -> np.ndarray:
            return np.zeros(shape, self.dtype)

        def array(x: Tensor) -> np.ndarray:
            return x.detach().to(prior.start.dtype).contiguous().numpy()

        rotations = prior.rotations(grid, prior.start.device, prior.start.dtype)
        summed = sum(embed_labels(prior.tables, labels), start=torch.zeros_like(prior.start).expand(samples, -1))
        return compiled_transformer.State(
            known=array(prior.conditions(grid)),
            labels=array(summed),
            local=zeros(samples, math.prod(grid), 0) if local is None else array(
                rearrange(local, "b c ... -> b (...) c")),
            cos=array(rotations[0]),
            sin=array(rotations[1]),
            keys=zeros(*each, panels, r, width),
            values=zeros(*each, -(-r // columns), steps, columns),
            x=zeros(rows, weights.out_bias.shape[1]),
            seen=zeros(rows, channels),
            normed=zeros(rows, d),
            qkv=zeros(rows, weights.qkv.shape[1] * weights.qkv.shape[3]),
            scores=zeros(rows, panels * width),
            queries=zeros(rows, r),
            found=zeros(-(-r // columns), rows, columns),
            mixed=zeros(rows, d),
            hidden=zeros(rows, weights.wide_bias.shape[1]),
            logits=zeros(samples, weights.logits_bias.shape[1]),
            cdf=np.zeros(prior.num_codes),
        )


class CompiledTransformerStepper(Stepper):
    """The loop over steps, stopped before each code."""

    def __init__(
        self,
        weights: "compiled_transformer.Weights",
        state: "compiled_transformer.State",
        grid: tuple[int, ...],
        prior: Transformer,
    ) -> None:
        self.weights, self.state, self.num_codes = weights, state, prior.num_codes
        self.shape = (*grid, prior.num_codebooks) if prior.num_codebooks > 1 else grid

    def step(self, codes: Tensor, position: tuple[int, ...]) -> Tensor:
        seen, step = codes.numpy().reshape(len(codes), -1), int(np.ravel_multi_index(position, self.shape))
        compiled_transformer.one_step(step, seen, self.weights, self.state)
        return torch.from_numpy(self.state.logits)[:, : self.num_codes]
