"""The Gated PixelCNN of van den Oord et al., "Conditional Image Generation with PixelCNN Decoders" (arXiv 1606.05328).

Variant: their figure 2, with n x n kernels cropped to the visible taps (rows above: the vertical stack; codes to the
left: the horizontal one) instead of masked, so that no multiplication is wasted; the first layer (mask A) sees neither
the code itself nor the vertical stack's current row. No batch normalisation. The head is ReLU, 1x1, ReLU, 1x1.

Axes: b batch, c channels, h rows, w columns, k codes of a codebook, g codebooks, p features of a stack.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stage2_prior import fused, triton_compiler
from stage2_prior.codebooks import CodebookPrior
from stage2_prior.compiler import available, compiled, ready
from stage2_prior.dropout import GlobalBatchDropout
from stage2_prior.initialise import GATE_GAIN, initialise
from stage2_prior.layers import Layers, embed_labels
from stage2_prior.prior import NOT_FINITE, CompiledLoop, ReplayableStepper, RowKernel, Stepper
from stage2_prior.rule import Rule

PER_CODE = 4  # positions per code from which on the first layer looks up what its kernels make of a code: it multiplies
#               once per code instead of once per position, and a look-up costs a fifth of those products
TABLES = 2**25  # bytes up to which the compiled loop does so: more would be read from memory, beyond the caches


class GatedPixelCNN(CodebookPrior):
    """p(codes | labels, local) over (h, w) grids of any size: 1606.05328, equations 2, 4 and 5.

    channels: features p of each stack; convolutions yield 2p, gated to p. head_channels: width of the head.
    kernel_size, first_kernel_size: odd n of the n x n neighbourhood; a position sees first_kernel_size // 2 +
    (num_layers - 1) * (kernel_size // 2) rows up, and as many columns to either side.
    num_classes: one entry per label column; each column has a table of biases in every layer (V_f, V_g).
    local_channels: channels of `local` (b, c, h, w), which enters every layer through a 1x1 convolution.
    dropout: probability, on the horizontal stack's gated features.
    With g codebooks the head of codebook j also reads embeddings of codes 0 .. j-1 at its position.

    Codes (64, 32, 32) give logits (64, 512, 32, 32); with two codebooks (64, 32, 32, 2) give (64, 512, 32, 32, 2).
    """

    grid_axes = 2

    def __init__(
        self,
        num_codes: int = 512,
        num_codebooks: int = 1,
        channels: int = 64,
        num_layers: int = 15,
        kernel_size: int = 3,
        first_kernel_size: int = 7,
        num_classes: Sequence[int] = (),
        local_channels: int = 0,
        head_channels: int = 256,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_codes, num_codebooks, num_classes, local_channels)
        for name, value in {"channels": channels, "num_layers": num_layers, "head_channels": head_channels}.items():
            if value < 1:
                raise ValueError(f"{name}: expected 1 or more, found {value}")
        for name, value in {"kernel_size": kernel_size, "first_kernel_size": first_kernel_size}.items():
            if value < 3 or value % 2 == 0:
                raise ValueError(f"{name}: expected an odd number of 3 or more, found {value}")
        self.embeddings = self._tables(num_codebooks, channels)
        sizes = (first_kernel_size,) + (kernel_size,) * (num_layers - 1)
        self.layers: Layers[GatedLayer] = Layers(
            GatedLayer(channels, n, i == 0, self.num_classes, local_channels, dropout) for i, n in enumerate(sizes)
        )
        self.within = self._tables(num_codebooks - 1, channels)
        self.heads = self._heads(channels, head_channels)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Unit variance before every gate; a residual stream whose variance grows from 1 to 2; logits near zero."""
        depth = len(self.layers)
        self._initialise_embeddings()
        for i, layer in enumerate(self.layers):
            initialise(layer.vertical, 1.0 if i == 0 else GATE_GAIN)
            initialise(layer.across, 0.5**0.5)  # the two halves of the horizontal stack's sum
            initialise(layer.horizontal, 0.5**0.5)
            initialise(layer.out, GATE_GAIN * (1.0 if i == 0 else depth**-0.5))
            for table in layer.tables:
                nn.init.normal_(table.weight, std=0.1)
            if layer.local is not None:
                initialise(layer.local, 0.5)
        self._initialise_heads()

    def forward(self, codes: Tensor, labels: Tensor | None = None, local: Tensor | None = None) -> Tensor:
        self.check(codes, labels, local)
        codes = codes if self.num_codebooks > 1 else codes[..., None]
        weight = self.embeddings[0].weight
        dtype = fused.precision(weight)
        if ready(weight.device, dtype):
            return self.predict(self._fused(codes, labels, local, dtype), codes)
        v = h = self.embed(codes).movedim(-1, 1)
        for layer in self.layers:
            v, h = layer(v, h, labels, local)
        return self.predict(rearrange(h, "b p h w -> b h w p"), codes)

    def _fused(self, codes: Tensor, labels: Tensor | None, local: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The last features (b, h, w, p) of the horizontal stack, by the same layers in fewer passes over memory."""
        first = self.layers[0]
        if self.num_codebooks == 1 and self.num_codes * PER_CODE <= codes.numel():
            convolve = partial(fused.convolve_codes, codes[..., 0], self.embeddings[0].weight, dtype=dtype)
            seen = convolve(first.vertical.weight, bias_of(first.vertical), padding=first.vertical_padding)
            beside = convolve(first.horizontal.weight, None, padding=first.horizontal_padding)
        else:
            x = self.embed(codes).movedim(-1, 1)
            seen = fused.channels_last(first.vertical(F.pad(x, first.vertical_padding)))
            beside = fused.channels_last(first.horizontal(F.pad(x, first.horizontal_padding)))
        v = None
        reaches = [*(layer.reach for layer in self.layers), 0]
        for layer, reach in zip(self.layers, reaches[1:], strict=True):
            if v is not None:
                seen = fused.channels_last(layer.vertical(fused.channels_first(v)))
            v, beside = layer.fused(seen, beside, labels, local, reach)
        return beside

    def stepper(
        self, batch: int, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None
    ) -> "PixelCNNStepper":
        self.check_conditions(batch, grid, labels, local)
        return PixelCNNStepper(self, batch, grid, labels, local)

    def compiled_loop(self) -> "CompiledPixelCNN | None":
        return CompiledPixelCNN(self) if available() else None


class GatedLayer(nn.Module):
    """One layer of both stacks: (v, h) -> (v, h), each (b, p, h, w).

    Row r of v depends on rows above r only; h depends on the rows above and on the codes to the left, up to its own
    position (first layer: before it). Vertical features are added to the horizontal ones before the gates. In the first
    layer v and h are the embedded codes themselves; a residual connection there would show each code to itself.
    """

    def __init__(
        self, p: int, kernel_size: int, first: bool, num_classes: Sequence[int], local_channels: int, dropout: float
    ) -> None:
        super().__init__()
        self.first, self.reach = first, kernel_size // 2
        reach, own = self.reach, 0 if first else 1
        self.vertical = nn.Conv2d(p, 2 * p, (reach + own, kernel_size))
        self.across = nn.Conv2d(2 * p, 2 * p, 1)
        self.horizontal = nn.Conv2d(p, 2 * p, (1, reach + own), bias=False)  # `across` has the bias of their sum
        self.out = nn.Conv2d(p, p, 1)
        self.dropout = GlobalBatchDropout(dropout)
        self.tables: Layers[nn.Embedding] = Layers(nn.Embedding(count, 4 * p) for count in num_classes)
        self.local = nn.Conv2d(local_channels, 4 * p, 1, bias=False) if local_channels else None
        # (left, right, top, bottom); a negative bottom or right drops the position itself
        self.vertical_padding = (reach, reach, reach, own - 1)
        self.horizontal_padding = (reach, own - 1, 0, 0)

    def forward(self, v: Tensor, h: Tensor, labels: Tensor | None, local: Tensor | None) -> tuple[Tensor, Tensor]:
        bias_v, bias_h = self.condition(labels, local)
        v = add(self.vertical(F.pad(v, self.vertical_padding)), bias_v)
        s = add(self.across(v) + self.horizontal(F.pad(h, self.horizontal_padding)), bias_h)
        return gate(v), self.residual(s, h)

    def fused(
        self, seen: Tensor, beside: Tensor, labels: Tensor | None, local: Tensor | None, reach: int
    ) -> tuple[Tensor | None, Tensor]:
        """`forward` from the vertical convolution's sums on, in the layout and with the borders of `fused.Gates`."""
        bias_v, bias_h = self.condition(labels, local)
        if bias_v is not None:
            seen = (seen + fused.channels_last(bias_v)).to(seen.dtype)
        kept = self.dropout.kept((*seen.shape[:3], seen.shape[3] // 2), seen.device)
        scale = 1.0 / (1.0 - self.dropout.probability)
        horizontal = None if self.first else self.horizontal.weight
        return fused.Gates.apply(  # type: ignore[no-untyped-call]
            seen, beside, bias_h, kept, scale, reach, self.across.weight, self.across.bias, horizontal, self.out.weight,
            self.out.bias,
        )  # fmt: skip

    def residual(self, s: Tensor, h: Tensor) -> Tensor:
        """The horizontal stack after its convolutions: sums s (b, 2p, h, w), input h (b, p, h, w)."""
        update = self.out(self.dropout(gate(s)))
        return update if self.first else h + update

    def condition(self, labels: Tensor | None, local: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The terms that labels and local add before the gates: (b, 2p, 1 or h, 1 or w) per stack, or None."""
        terms = [rearrange(row, "b c -> b c 1 1") for row in embed_labels(self.tables, labels)]
        if self.local is not None:
            terms.append(self.local(local))
        if not terms:
            return None, None
        for_v, for_h = sum(terms[1:], start=terms[0]).chunk(2, dim=1)
        return for_v, for_h


def gate(s: Tensor) -> Tensor:
    """tanh(W_f * x) sigmoid(W_g * x), equation 2, for both halves of s (b, 2p, h, w)."""
    f, g = s.chunk(2, dim=1)
    return torch.tanh(f) * torch.sigmoid(g)


def add(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias


class PixelCNNStepper(ReplayableStepper):
    """Cached evaluation: the vertical stack once per row, the horizontal one once per column.

    Each layer keeps as many rows of its vertical input and earlier columns of its horizontal input as its kernels span,
    oldest first. Rows are laid out as (b, w, features), so that a layer is one matrix product per stack. The products
    with earlier columns do not depend on one another: one batched product makes those of all layers but the first.
    """

    def __init__(
        self, prior: GatedPixelCNN, batch: int, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None
    ) -> None:
        self.prior, self.batch, self.width = prior, batch, grid[1]
        self.local = None if local is None else rearrange(local, "b c h w -> b h w c")
        layers, weight = list(prior.layers), prior.embeddings[0].weight
        p = weight.shape[1]
        self.biases = [self._bias(layer, labels) for layer in layers]
        self.vertical = [rearrange(layer.vertical.weight, "n p y x -> (y x p) n") for layer in layers]
        self.across = [layer.across.weight[:, :, 0, 0].T for layer in layers]
        taps = [rearrange(layer.horizontal.weight, "n p 1 x -> x p n") for layer in layers]
        self.first, self.own = taps[0].flatten(0, 1), [tap[-1] for tap in taps[1:]]
        self.earlier = [tap[:-1].flatten(0, 1) for tap in taps[1:]]
        self.earlier = [torch.stack(self.earlier)] if self.earlier else []  # (l - 1, taps * p, 2p)

        margins = [layer.vertical.kernel_size[1] // 2 for layer in layers]
        self.rows = [
            weight.new_zeros(batch, layer.vertical.kernel_size[0], self.width + 2 * margin, p)
            for layer, margin in zip(layers, margins, strict=True)
        ]
        # Views without the margins, which stay zero.
        self.inner = [row.narrow(2, at, self.width).unbind(1) for row, at in zip(self.rows, margins, strict=True)]
        self.sums = weight.new_zeros(len(layers), batch, self.width, 2 * p)  # the vertical stack's terms of this row
        self.left = weight.new_zeros(batch, len(taps[0]), p)  # embedded codes
        self.columns = weight.new_zeros(len(layers) - 1, batch, len(taps[-1]) - 1, p)
        self.outputs = weight.new_zeros(len(layers), batch, p)  # of each layer at this column
        self.nothing = weight.new_zeros(())
        self.features = self.outputs[-1]

    def restart(self) -> None:
        """Forgets all codes: the next row is the first one of other grids."""
        for row in self.rows:
            row.zero_()

    @staticmethod
    def _bias(layer: GatedLayer, labels: Tensor | None) -> Tensor:
        """Before the gates of the vertical and of the horizontal stack, label terms included: (b or 1, 1, 4p)."""
        bias = torch.cat((bias_of(layer.vertical), bias_of(layer.across)))[None]
        return sum(embed_labels(layer.tables, labels), start=bias)[:, None]

    def begin_at(self, codes: Tensor, position: Sequence[Tensor], axis: int) -> None:
        codes, row = codes if self.prior.num_codebooks > 1 else codes[..., None], position[0]
        above = self.prior.embed(codes.index_select(1, (row - 1).clamp(min=0))[:, 0])
        _push(self.inner[0], torch.where(row > 0, above, self.nothing))
        local = None if self.local is None else self.local.index_select(1, row)[:, 0]
        for i, layer in enumerate(self.prior.layers):
            bias = self.biases[i]
            if layer.local is not None and local is not None:
                bias = bias + F.linear(local, layer.local.weight[:, :, 0, 0])
            for_v, for_h = bias.expand(self.batch, self.width, -1).chunk(2, dim=-1)
            seen = rearrange(self.rows[i].unfold(2, layer.vertical.kernel_size[1], 1), "b r w p x -> b w (r x p)")
            v = torch.baddbmm(for_v, seen, self.vertical[i].expand(self.batch, -1, -1))
            torch.baddbmm(for_h, v, self.across[i].expand(self.batch, -1, -1), out=self.sums[i])
            if i + 1 < len(self.rows):
                _push(self.inner[i + 1], _gate(v))
        self.left.zero_()
        self.columns.zero_()

    def step_at(self, codes: Tensor, position: Sequence[Tensor], codebook: int) -> Tensor:
        codes = (codes if self.prior.num_codebooks > 1 else codes[..., None]).flatten(1, 2)
        row, column = position
        number = torch.add(column, row, alpha=self.width)  # of the position
        if codebook == 0:
            left = self.prior.embed(codes.index_select(1, (number - 1).clamp(min=0))[:, 0])
            _push(self.left.unbind(1), torch.where(column > 0, left, self.nothing))
            self.features = self._features(column)
        else:
            code = codes[..., codebook - 1].index_select(1, number)[:, 0]
            self.features = self.features + self.prior.within[codebook - 1](code)
        return self.prior.heads[codebook](self.features)

    def row_kernel(self, rule: Rule) -> RowKernel | None:
        prior, p = self.prior, self.sums.shape[-1] // 2
        module = triton_compiler.pixelcnn(self.sums.device)
        if module is None or not module.applies(self.batch, p, prior.num_codes, self.sums.dtype, rule):
            return None
        rows: RowKernel = module.PixelCNNRows(
            self.sums,
            rule,
            embeddings=[table.weight for table in prior.embeddings],
            horizontal=[layer.horizontal.weight for layer in prior.layers],
            out=[layer.out for layer in prior.layers],
            within=[table.weight for table in prior.within],
            heads=[head.products for head in prior.heads],
        )
        return rows

    def _features(self, column: Tensor) -> Tensor:
        """The horizontal stack's output (b, p) at a column."""
        sums = self.sums.index_select(2, column)[:, :, 0]
        sums[0].addmm_(self.left.flatten(1), self.first)
        for weights in self.earlier:  # of all later layers together, or none in a prior of one layer
            sums[1:].baddbmm_(self.columns.flatten(2), weights)
        h = self.outputs
        for i, layer in enumerate(self.prior.layers):
            s = sums[i] if i == 0 else sums[i].addmm_(h[i - 1], self.own[i - 1])
            torch.addmm(bias_of(layer.out), _gate(s), layer.out.weight[:, :, 0, 0].T, out=h[i])
            if i > 0:
                h[i].add_(h[i - 1])
        if self.earlier:
            _push(self.columns.unbind(2), h[:-1])
        return h[-1]


def _gate(s: Tensor) -> Tensor:
    """As `gate`, for s (..., 2p), which is overwritten: two kernels in place of three."""
    s[..., : s.shape[-1] // 2].tanh_()
    return F.glu(s, dim=-1)


def _push(seen: Sequence[Tensor], new: Tensor) -> None:
    """Drops the oldest, the first, of `seen` and appends `new`, in place: addresses stay."""
    for older, newer in pairwise(seen):
        older.copy_(newer)
    seen[-1].copy_(new)


class CompiledPixelCNN(CompiledLoop):
    """The packed parameters of a GatedPixelCNN, and the loop over rows."""

    def __init__(self, prior: GatedPixelCNN) -> None:
        dtype = prior.embeddings[0].weight.dtype
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"prior: expected parameters of torch.float32 or torch.float64 on a CPU, found {dtype}")
        self.prior, self.dtype = prior, np.float32 if dtype == torch.float32 else np.float64
        layers, heads = list(prior.layers), [head.products for head in prior.heads]
        first, later = layers[0], layers[1:]
        halves = partial(rearrange, pattern="(two n) c 1 1 -> two n c", two=2)
        pack, fill_up = compiled.pack, compiled.fill_up
        embeddings = [table.weight.detach() for table in prior.embeddings]
        above, left = first.vertical, first.horizontal
        rows = prior.num_codes * prior.num_codebooks * sum(x.weight[0, 0].numel() for x in (above, left))
        tables = rows * first.across.weight[0].nbytes <= TABLES
        pairs = compiled.for_pairs if later and later[0].vertical.kernel_size[1] == 3 else nn.Identity()
        self.weights = compiled.Weights(
            embeddings=self._stack(embeddings, axes=2),
            first_vertical=self._stack([] if tables else list(pack(_taps(above))), axes=4),
            vertical=self._stack([pack(pairs(_taps(layer.vertical))) for layer in later], axes=5),
            across=self._stack([pack(layer.across.weight[:, :, 0, 0]) for layer in layers], axes=3),
            first_horizontal=self._stack([] if tables else list(pack(_taps(left)[0])), axes=3),
            tables_above=self._stack([self._table(x, above) for x in embeddings if tables], axes=4),
            tables_left=self._stack([self._table(x, left)[0] for x in embeddings if tables], axes=3),
            horizontal=self._stack([pack(_taps(layer.horizontal)[0]) for layer in later], axes=4),
            out=self._stack([pack(layer.out.weight[:, :, 0, 0]) for layer in layers], axes=3),
            out_bias=self._stack([fill_up(bias_of(layer.out)) for layer in layers], axes=1),
            local=self._stack([pack(halves(x.local.weight)) for x in layers if x.local is not None], axes=4),
            within=self._stack([table.weight for table in prior.within], axes=2),
            hidden=self._stack([pack(hidden.weight) for hidden, _ in heads], axes=3),
            hidden_bias=self._stack([fill_up(hidden.bias) for hidden, _ in heads], axes=1),
            logits=self._stack([pack(logits.weight) for _, logits in heads], axes=3),
            logits_bias=self._stack([fill_up(logits.bias) for _, logits in heads], axes=1),
        )

    @staticmethod
    def _table(embedding: Tensor, convolution: nn.Conv2d) -> np.ndarray:
        """What each tap makes of each code: (y, x, k, n)."""
        rows, columns = convolution.kernel_size
        table = fused.table(embedding, convolution.weight.detach())
        return compiled.fill_up(rearrange(table, "(y x) k n -> y x k n", y=rows, x=columns))

    def _stack(self, parts: Sequence[np.ndarray | Tensor], axes: int) -> np.ndarray:
        return compiled.stack(parts, axes, self.dtype)

    def fill(
        self, codes: Tensor, uniforms: Tensor, labels: Tensor | None, local: Tensor | None, rule: Rule
    ) -> Iterator[int]:
        batch, height, width = codes.shape[:3]
        drawn, numbers = (x.contiguous().numpy().reshape(batch, height, width, -1) for x in (codes, uniforms))
        state = self._state(batch, width, self._biases(labels, batch))
        features = self._features(local, batch, (height, width))
        top_k = self.prior.num_codes if rule.top_k is None else rule.top_k
        top_p = np.inf if rule.top_p is None else float(rule.top_p)
        how = float(rule.temperature), top_k, top_p
        for row in range(height):
            if not compiled.draw_row(row, drawn, numbers, features[row], *how, self.weights, state):
                raise ValueError(NOT_FINITE)
            yield batch * width

    def stepper(
        self, batch: int, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None
    ) -> "CompiledPixelCNNStepper":
        self.prior.check_conditions(batch, grid, labels, local)
        state = self._state(batch, grid[1], self._biases(labels, batch))
        return CompiledPixelCNNStepper(self.weights, state, self._features(local, batch, grid), self.prior.num_codes)

    def _features(self, local: Tensor | None, batch: int, grid: Sequence[int]) -> np.ndarray:
        """local (b, c, h, w) as (h, w * b, c)."""
        if local is None:
            return np.zeros((grid[0], grid[1] * batch, 0), self.dtype)
        return rearrange(local, "b c h w -> h (w b) c").to(self.prior.embeddings[0].weight.dtype).contiguous().numpy()

    def _biases(self, labels: Tensor | None, samples: int) -> np.ndarray:
        """Biases before the gates of each layer, label terms included: (l, 2, s, n)."""
        layers = []
        for layer in self.prior.layers:
            bias = torch.cat((bias_of(layer.vertical), bias_of(layer.across))).detach().repeat(samples, 1)
            for row in embed_labels(layer.tables, labels):
                bias[: len(row)] += row.detach()
            layers.append(compiled.fill_up(rearrange(bias, "s (two n) -> two s n", two=2)))
        return np.stack(layers)

    def _state(self, samples: int, width: int, biases: np.ndarray) -> "compiled.State":
        first, last = self.prior.layers[0], self.prior.layers[-1]
        layers, p = len(self.prior.layers), first.out.weight.shape[0]
        multiplied = len(self.weights.first_vertical) > 0
        pairs = compiled.pairs_at_once(samples)
        first_margin, margin = first.vertical.kernel_size[1] // 2, last.vertical.kernel_size[1] // 2

        def zeros(*shape: int) -> np.ndarray:
            return np.zeros(shape, self.dtype)

        return compiled.State(
            biases=biases,
            inputs=zeros(first_margin + 1, (width + 2 * first_margin) * samples * multiplied, p),
            rows=zeros(layers - 1, margin + 1, (width + width % 2 + 2 * margin) * samples, p),
            columns=zeros(layers - 1, margin + 1, samples, self.weights.out_bias.shape[1]),
            sums=zeros(layers, width * samples, biases.shape[-1]),
            chunk=zeros(2 * pairs, biases.shape[-1]),
            spread=zeros(4, pairs, p),
            products=zeros(4, pairs, biases.shape[-1]),
            gated=zeros(samples, p),
            features=zeros(samples, self.weights.out_bias.shape[1]),
            hidden=zeros(samples, self.weights.hidden_bias.shape[1]),
            logits=zeros(samples, self.weights.logits_bias.shape[1]),
            cdf=np.zeros(self.prior.num_codes),
        )


class CompiledPixelCNNStepper(Stepper):
    """The loop over rows, stopped before each code."""

    def __init__(
        self, weights: "compiled.Weights", state: "compiled.State", features: np.ndarray, num_codes: int
    ) -> None:
        self.weights, self.state, self.features, self.num_codes = weights, state, features, num_codes

    def step(self, codes: Tensor, position: tuple[int, ...]) -> Tensor:
        (row, column), codebook = position[:2], position[2] if len(position) > 2 else 0
        seen = codes.numpy().reshape(*codes.shape[:3], -1)
        compiled.step_row(row, column, codebook, seen, self.features[row], self.weights, self.state)
        return torch.from_numpy(self.state.logits)[:, : self.num_codes]


def _taps(convolution: nn.Conv2d) -> Tensor:
    return rearrange(convolution.weight, "n p y x -> y x n p")


def bias_of(convolution: nn.Conv2d | nn.Conv3d) -> Tensor:
    assert convolution.bias is not None
    return convolution.bias
