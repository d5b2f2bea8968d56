"""WaveNet over sequences of codes (van den Oord et al., arXiv 1609.03499): a prior for audio, and an audio decoder.

Dilated causal convolutions with gated units (section 2.3), residual and skip connections (2.4), conditioned globally on
labels and locally on features at the codes' own rate (2.5). Variant: an embedding of the code before each position (no
convolution of one-hot vectors), kernels of 2, a skip connection from every layer into a head of two 1x1 convolutions.
Several codes per position are predicted one after another (`CodebookPrior`).

Features are laid out as (b, t, c), so that every layer is one matrix product over all positions.
Axes: b batch, t positions, k codes of a codebook, g codebooks, c channels, L label columns.
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

from stage2_prior import triton_compiler
from stage2_prior.codebooks import CodebookPrior
from stage2_prior.compiler import available, compiled, ready
from stage2_prior.dropout import GlobalBatchDropout
from stage2_prior.fused import Gate
from stage2_prior.initialise import GATE_GAIN, initialise
from stage2_prior.layers import Layers, embed_labels
from stage2_prior.prior import NOT_FINITE, CompiledLoop, ReplayableStepper, RowKernel, Stepper
from stage2_prior.rule import Rule

SPAN = 256  # positions between two progress reports of the compiled loop


class WaveNet(CodebookPrior):
    """p(codes | labels, local) of codes int64 (b, t[, g]), position by position.

    gate_channels: before the split into filter and gate, so twice the units of a layer.
    Layer i has dilation 2^(i mod dilation_cycle). dropout: probability, on the gated units.
    ordered: codes are levels of a quantity, for example of mu-law: embeddings start as smooth functions of the level.
    """

    grid_axes = 1

    def __init__(
        self,
        num_codes: int = 256,
        num_codebooks: int = 1,
        residual_channels: int = 32,
        gate_channels: int = 64,
        skip_channels: int = 256,
        num_layers: int = 40,
        dilation_cycle: int = 10,
        kernel_size: int = 2,
        num_classes: Sequence[int] = (),
        local_channels: int = 0,
        dropout: float = 0.0,
        ordered: bool = False,
    ) -> None:
        super().__init__(num_codes, num_codebooks, num_classes, local_channels)
        self.ordered = ordered
        sizes = {"residual_channels": residual_channels, "skip_channels": skip_channels, "num_layers": num_layers,
                 "dilation_cycle": dilation_cycle}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name}: expected 1 or more, found {value}")
        if gate_channels < 2 or gate_channels % 2:
            raise ValueError(f"gate_channels: expected an even number of 2 or more, found {gate_channels}")
        if kernel_size < 2:
            raise ValueError(f"kernel_size: expected 2 or more, found {kernel_size}")
        self.kernel_size = kernel_size
        self.embeddings = self._tables(num_codebooks, residual_channels)
        self.layers: Layers[GatedLayer] = Layers(
            GatedLayer(
                residual_channels,
                gate_channels,
                kernel_size,
                2 ** (i % dilation_cycle),
                i == num_layers - 1,
                self.num_classes,
                local_channels,
                dropout,
            )
            for i in range(num_layers)
        )
        self.skip = nn.Linear(num_layers * gate_channels // 2, skip_channels)  # the sum of all layers' skip connections
        self.within = self._tables(num_codebooks - 1, skip_channels)
        self.heads = self._heads(skip_channels, skip_channels)
        self._initialise()

    @property
    def receptive_field(self) -> int:
        """The number of earlier positions that the logits of a position depend on."""
        return 1 + sum((self.kernel_size - 1) * layer.dilation for layer in self.layers)

    @torch.no_grad()
    def _initialise(self) -> None:
        """Unit variance before every gate; a residual stream whose variance grows from 1 to 2; logits near zero."""
        depth, halved = len(self.layers), 1 + (self.local_channels > 0)
        self._initialise_embeddings()
        if self.ordered:
            for embedding in self.embeddings:
                embedding.weight.copy_(_waves(*embedding.weight.shape) * self.num_codebooks**-0.5)
        for layer in self.layers:
            initialise(layer.dilated, halved**-0.5)
            if layer.out is not None:
                initialise(layer.out, GATE_GAIN * depth**-0.5)
            for table in layer.tables:
                nn.init.normal_(table.weight, std=0.1)
            if layer.local is not None:
                initialise(layer.local, halved**-0.5)
        initialise(self.skip, GATE_GAIN)
        self._initialise_heads()

    def forward(self, codes: Tensor, labels: Tensor | None = None, local: Tensor | None = None) -> Tensor:
        self.check(codes, labels, local)
        codes = codes if self.num_codebooks > 1 else codes[..., None]
        x = F.pad(self.embed(codes[:, :-1]), (0, 0, 1, 0))  # the previous code at each position; zeros at the first
        local = None if local is None else rearrange(local, "b c t -> b t c")
        if torch.is_autocast_enabled(x.device.type):  # cast once, not in every layer
            dtype = torch.get_autocast_dtype(x.device.type)
            x, local = x.to(dtype), None if local is None else local.to(dtype)
        gated = []
        for layer in self.layers:
            x, units = layer(x, labels, local)
            gated.append(units)
        return self.predict(self.skip(torch.cat(gated, dim=-1)), codes)

    def stepper(
        self, batch: int, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None
    ) -> "WaveNetStepper":
        self.check_conditions(batch, grid, labels, local)
        return WaveNetStepper(self, batch, labels, local)

    def compiled_loop(self) -> "CompiledWaveNet | None":
        return CompiledWaveNet(self) if available() else None


def _waves(levels: int, channels: int) -> Tensor:
    """(levels, channels): cosines of the level with 1/2, 1, 3/2, ... periods over the range, unit variance over all.

    With 32 channels the first, nearly linear in the level, has a quarter of the variance; each next one has less."""
    level = (torch.arange(levels) + 0.5) / levels
    frequency = torch.arange(1, channels + 1)
    waves = torch.cos(torch.pi * frequency * level[:, None]) / frequency**0.5
    return waves / waves.square().mean().sqrt()


class GatedLayer(nn.Module):
    """x (b, t, r) -> (x + residual, gated units (b, t, gate_channels / 2)), equation 2 and figure 4.

    The last layer has no residual output: it returns x unchanged.
    """

    def __init__(
        self,
        residual_channels: int,
        gate_channels: int,
        kernel_size: int,
        dilation: int,
        last: bool,
        num_classes: Sequence[int],
        local_channels: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.dilation = dilation
        self.dilated = nn.Linear(kernel_size * residual_channels, gate_channels)  # earliest tap first
        self.tables: Layers[nn.Embedding] = Layers(nn.Embedding(count, gate_channels) for count in num_classes)
        self.local = nn.Linear(local_channels, gate_channels, bias=False) if local_channels else None
        self.dropout = GlobalBatchDropout(dropout)
        self.out = None if last else nn.Linear(gate_channels // 2, residual_channels)
        self.delays = tuple(dilation * tap for tap in range(kernel_size - 1, -1, -1))

    def forward(self, x: Tensor, labels: Tensor | None, local: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.finish(x, _Taps.apply(x, local, self.delays), labels)  # type: ignore[no-untyped-call]

    def finish(self, x: Tensor, seen: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """seen (b, t, kernel_size * r + local channels): x at the kernel's taps, earliest first, then local.

        One product for all of them: at these widths memory traffic takes most of the time."""
        weight = self.dilated.weight
        if self.local is not None:
            weight = torch.cat((weight, self.local.weight), dim=1)
        bias = self.dilated.bias.expand(x.shape[0], -1)  # shape, not len: a graph's batch has any size
        for row in embed_labels(self.tables, labels):
            bias = bias + row
        sums = torch.baddbmm(bias[:, None], seen, weight.T.expand(x.shape[0], -1, -1))
        gate = Gate if ready(sums.device, sums.dtype) else _Gate
        units = self.dropout(gate.apply(sums))  # type: ignore[no-untyped-call]
        return (x if self.out is None else x + self.out(units)), units


class _Taps(torch.autograd.Function):
    """x (b, t, r), local (b, t, c) or None -> (b, t, taps * r + c): x at each of `delays` (the last is 0), then local.

    The same as padding, slicing and concatenating, with a third of the memory traffic in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, local: Tensor | None, delays: tuple[int, ...]) -> Tensor:
        ctx.delays, ctx.width, length = delays, x.shape[2], x.shape[1]
        channels = 0 if local is None else local.shape[2]
        seen = x.new_empty(*x.shape[:2], len(delays) * ctx.width + channels)
        for tap, delay in enumerate(delays):
            part, delay = seen[..., tap * ctx.width :][..., : ctx.width], min(delay, length)
            part[:, :delay] = 0
            part[:, delay:] = x[:, : length - delay]
        if local is not None:
            seen[..., len(delays) * ctx.width :] = local
        return seen

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        taps = gradient[..., : len(ctx.delays) * ctx.width]
        parts = rearrange(taps, "b t (taps r) -> taps b t r", r=ctx.width).unbind(0)
        to_x, length = parts[-1].clone(), gradient.shape[1]
        for part, delay in zip(parts[:-1], ctx.delays):
            to_x[:, : max(0, length - delay)] += part[:, delay:]
        to_local = gradient[..., len(ctx.delays) * ctx.width :].contiguous() if ctx.needs_input_grad[1] else None
        return to_x, to_local, None


class _Gate(torch.autograd.Function):
    """sums (..., 2 h) -> tanh(f) sigmoid(g) (..., h), equation 2, by one tanh: sigmoid(g) = (1 + tanh(g / 2)) / 2."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor) -> Tensor:
        half = sums.shape[-1] // 2
        scale = sums.new_ones(2 * half)
        scale[half:] = 0.5  # filled on the device: no copy to it, no synchronisation
        tanh = torch.mul(sums, scale).tanh_()
        ctx.save_for_backward(tanh)
        f, g = tanh[..., :half], tanh[..., half:]
        return torch.addcmul(f, f, g).mul_(0.5)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (tanh,) = ctx.saved_tensors
        half = tanh.shape[-1] // 2
        f, g = tanh[..., :half], tanh[..., half:]
        slope = 1 - tanh * tanh
        result = torch.empty_like(tanh)
        halved = gradient * 0.5
        torch.mul(halved, 1 + g, out=result[..., :half])
        torch.mul(halved, f * 0.5, out=result[..., half:])
        return result.mul_(slope)


class WaveNetStepper(ReplayableStepper):
    """Cached evaluation: each layer keeps as many of its inputs as its kernel reaches back, in a ring buffer."""

    def __init__(self, prior: WaveNet, batch: int, labels: Tensor | None, local: Tensor | None) -> None:
        self.prior, layers = prior, list(prior.layers)
        self.local = None if local is None else rearrange(local, "b c t -> b t c")
        weight = prior.embeddings[0].weight
        self.start = weight.new_zeros(batch, weight.shape[1])
        self.rings = [weight.new_zeros(batch, layer.delays[0] + 1, weight.shape[1]) for layer in layers]
        self.delays = torch.tensor([layer.delays for layer in layers], device=weight.device)
        self.lengths = self.delays[:, :1] + 1
        self.weights = [layer.dilated.weight.T for layer in layers]  # (kernel_size * r + local channels, gate channels)
        self.weights = [
            weight if layer.local is None else torch.cat((weight, layer.local.weight.T))
            for weight, layer in zip(self.weights, layers, strict=True)
        ]
        self.biases = [sum(embed_labels(layer.tables, labels), start=layer.dilated.bias) for layer in layers]
        self.features = self.start

    def step_at(self, codes: Tensor, position: Sequence[Tensor], codebook: int) -> Tensor:
        (t,) = position
        codes = codes if self.prior.num_codebooks > 1 else codes[..., None]
        if codebook == 0:
            self.features = self._features(codes, t)
        else:
            before = codes[..., codebook - 1].index_select(1, t)[:, 0]
            self.features = self.features + self.prior.within[codebook - 1](before)
        return self.prior.heads[codebook](self.features)

    def row_kernel(self, rule: Rule) -> RowKernel | None:
        prior, module = self.prior, triton_compiler.wavenet(self.start.device)
        r, skip = self.start.shape[1], prior.skip.out_features
        h = prior.layers[0].dilated.out_features // 2
        batch, dtype = len(self.start), self.start.dtype
        if module is None or not module.applies(batch, r, h, skip, prior.num_codes, dtype, rule):
            return None
        spans: RowKernel = module.WaveNetSpans(
            batch,
            rule,
            biases=torch.stack([bias.expand(batch, -1) for bias in self.biases], dim=1),
            local=self.local,
            local_weights=[layer.local.weight for layer in prior.layers if layer.local is not None],
            dilations=[layer.dilation for layer in prior.layers],
            embeddings=[table.weight for table in prior.embeddings],
            dilated=[layer.dilated.weight for layer in prior.layers],
            out=[layer.out for layer in prior.layers if layer.out is not None],
            skip=prior.skip,
            within=[table.weight for table in prior.within],
            heads=[head.products for head in prior.heads],
        )
        return spans

    def _features(self, codes: Tensor, position: Tensor) -> Tensor:
        before = codes.index_select(1, (position - 1).clamp(min=0))
        x = torch.where(position > 0, self.prior.embed(before)[:, 0], self.start)
        local = None if self.local is None else self.local.index_select(1, position)[:, 0]
        slots = (position - self.delays) % self.lengths  # (layers, kernel_size): the kernel's taps in each ring
        gated = []
        for layer, ring, slot, weight, bias in zip(
            self.prior.layers, self.rings, slots, self.weights, self.biases, strict=True
        ):
            ring.index_copy_(1, slot[-1:], x[:, None])
            seen = ring.index_select(1, slot).flatten(1)
            seen = seen if local is None else torch.cat((seen, local), dim=-1)
            f, g = torch.addmm(bias, seen, weight).chunk(2, dim=-1)
            gated.append(torch.tanh(f) * torch.sigmoid(g))
            if layer.out is not None:
                x = x + layer.out(gated[-1])
        return self.prior.skip(torch.cat(gated, dim=-1))


class CompiledWaveNet(CompiledLoop):
    """The packed parameters of a WaveNet, and the loop over spans of positions."""

    def __init__(self, prior: WaveNet) -> None:
        dtype = prior.embeddings[0].weight.dtype
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"prior: expected parameters of torch.float32 or torch.float64 on a CPU, found {dtype}")
        self.prior, self.dtype = prior, np.float32 if dtype == torch.float32 else np.float64
        layers, heads = list(prior.layers), [head.products for head in prior.heads]
        pack, fill_up = compiled.pack, compiled.fill_up
        taps = [rearrange(layer.dilated.weight, "n (k r) -> k n r", k=prior.kernel_size) for layer in layers]
        skip = rearrange(prior.skip.weight, "n (l p) -> l n p", l=len(layers))
        self.weights = compiled.WaveNetWeights(
            embeddings=self._stack([table.weight for table in prior.embeddings], axes=2),
            dilations=np.array([layer.dilation for layer in layers]),
            dilated=self._stack([pack(weight) for weight in taps], axes=4),
            local=self._stack([pack(layer.local.weight) for layer in layers if layer.local is not None], axes=3),
            skip=pack(skip),
            skip_bias=fill_up(prior.skip.bias),
            out=self._stack([pack(x.out.weight, fitted=True) for x in layers if x.out is not None], axes=3),
            out_bias=self._stack([layer.out.bias for layer in layers if layer.out is not None], axes=1),
            within=self._stack([table.weight for table in prior.within], axes=2),
            hidden=self._stack([pack(hidden.weight) for hidden, _ in heads], axes=3),
            hidden_bias=self._stack([fill_up(hidden.bias) for hidden, _ in heads], axes=1),
            logits=self._stack([pack(logits.weight) for _, logits in heads], axes=3),
            logits_bias=self._stack([fill_up(logits.bias) for _, logits in heads], axes=1),
        )

    def _stack(self, parts: Sequence[np.ndarray | Tensor], axes: int) -> np.ndarray:
        return compiled.stack(parts, axes, self.dtype)

    def fill(
        self, codes: Tensor, uniforms: Tensor, labels: Tensor | None, local: Tensor | None, rule: Rule
    ) -> Iterator[int]:
        batch, length = codes.shape[:2]
        drawn, numbers = (x.contiguous().numpy().reshape(batch, length, -1) for x in (codes, uniforms))
        state = self._state(batch, self._biases(labels, batch))
        top_k = self.prior.num_codes if rule.top_k is None else rule.top_k
        top_p = np.inf if rule.top_p is None else float(rule.top_p)
        how = float(rule.temperature), top_k, top_p
        for start in range(0, length, SPAN):
            stop = min(start + SPAN, length)
            span = self._features(None if local is None else local[:, :, start:stop], batch, stop - start)
            if not compiled.draw_positions(start, drawn, numbers, span, *how, self.weights, state):
                raise ValueError(NOT_FINITE)
            yield batch * (stop - start)

    def stepper(
        self, batch: int, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None
    ) -> "CompiledWaveNetStepper":
        self.prior.check_conditions(batch, grid, labels, local)
        features = self._features(local, batch, grid[0])
        return CompiledWaveNetStepper(
            self.weights, self._state(batch, self._biases(labels, batch)), features, self.prior.num_codes
        )

    def _features(self, local: Tensor | None, batch: int, length: int) -> np.ndarray:
        """local (b, c, t) as (t * b, c)."""
        if local is None:
            return np.zeros((length * batch, 0), self.dtype)
        return rearrange(local, "b c t -> (t b) c").to(self.prior.embeddings[0].weight.dtype).contiguous().numpy()

    def _biases(self, labels: Tensor | None, batch: int) -> np.ndarray:
        """Biases before the gates of each layer, label terms included: (l, s, n)."""
        layers = []
        for layer in self.prior.layers:
            bias = layer.dilated.bias.detach().repeat(batch, 1)
            for row in embed_labels(layer.tables, labels):
                bias += row.detach()
            layers.append(compiled.fill_up(bias))
        return np.stack(layers)

    def _state(self, samples: int, biases: np.ndarray) -> "compiled.WaveNetState":
        first, weights = self.prior.layers[0], self.weights
        r, p = weights.embeddings.shape[2], first.dilated.out_features // 2
        several = 2 ** max(0, math.floor(math.log2(compiled.AT_ONCE / samples)))  # a power of two, as dilations are
        assert SPAN % several == 0

        def zeros(*shape: int) -> np.ndarray:
            return np.zeros(shape, self.dtype)

        return compiled.WaveNetState(
            biases=biases,
            sums=zeros(len(biases), several * samples, biases.shape[-1]),
            rings=zeros(sum(layer.delays[0] for layer in self.prior.layers) * samples, r),
            x=zeros(samples, compiled.fill_up(first.dilated.weight[0, :r]).shape[0]),
            gated=zeros(samples, p),
            features=zeros(samples, weights.skip_bias.shape[0]),
            rectified=zeros(samples, self.prior.skip.out_features),
            hidden=zeros(samples, weights.hidden_bias.shape[1]),
            logits=zeros(samples, weights.logits_bias.shape[1]),
            cdf=np.zeros(self.prior.num_codes),
        )


class CompiledWaveNetStepper(Stepper):
    """The loop over positions, stopped before each code."""

    def __init__(
        self, weights: "compiled.WaveNetWeights", state: "compiled.WaveNetState", features: np.ndarray, num_codes: int
    ) -> None:
        self.weights, self.state, self.features, self.num_codes = weights, state, features, num_codes

    def step(self, codes: Tensor, position: tuple[int, ...]) -> Tensor:
        t, codebook = position[0], position[1] if len(position) > 1 else 0
        seen = codes.numpy().reshape(*codes.shape[:2], -1)
        compiled.step_position(t, codebook, 0, seen, self.features, self.weights, self.state)
        return torch.from_numpy(self.state.logits)[:, : self.num_codes]
