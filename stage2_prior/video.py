"""The Gated PixelCNN for video: each frame is conditioned on earlier frames by causal 3-D convolutions.

van den Oord et al. (arXiv 1711.00937, section 4.4) model the codes of video without describing the network. Here
p(codes) is a product over frames of a `GatedPixelCNN` (arXiv 1606.05328) whose `local` features come from a temporal
stack, as in the Video Pixel Network (Kalchbrenner et al., arXiv 1610.00527), with gated residual layers of causal 3-D
convolutions in place of its encoder and LSTM. The stack's input is delayed by one frame, so that it never sees the
frame that it conditions.

Axes: b batch, t frames, h rows, w columns, k codes of a codebook, g codebooks, c channels, p features of a stack,
s samples of a block.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from stage2_prior.compiler import available, compiled
from stage2_prior.dropout import GlobalBatchDropout
from stage2_prior.initialise import GATE_GAIN, initialise
from stage2_prior.layers import Layers
from stage2_prior.pixelcnn import CompiledPixelCNN, GatedPixelCNN, add, bias_of, gate
from stage2_prior.prior import CompiledLoop, Prior, ReplayableStepper, RowKernel, Stepper
from stage2_prior.rule import Rule


class GatedPixelCNN3d(Prior):
    """p(codes | labels, local) over (t, h, w) grids of any size: causal in time, raster order within a frame.

    channels, num_layers, kernel_size, first_kernel_size, head_channels, num_classes: as in `GatedPixelCNN`, the model
    of one frame.
    num_temporal_layers, temporal_kernel_size: the number of layers of the temporal stack, and the number of frames that
    each of them sees. The stack sees 1 + num_temporal_layers * (temporal_kernel_size - 1) frames back, and in all of
    them num_temporal_layers * (kernel_size // 2) positions to every side.
    local_channels: channels of `local` (b, c, t, h, w), for example actions. Those of frame t enter the temporal
    stack's layers at t through a 1x1x1 convolution, and condition frame t and later ones.
    dropout: probability, on the gated features of the temporal and the horizontal stack.

    Codes (8, 16, 21, 21) give logits (8, 512, 16, 21, 21); with two codebooks (8, 16, 21, 21, 2) give
    (8, 512, 16, 21, 21, 2).
    """

    grid_axes = 3

    def __init__(
        self,
        num_codes: int = 512,
        num_codebooks: int = 1,
        channels: int = 64,
        num_layers: int = 12,
        kernel_size: int = 3,
        first_kernel_size: int = 7,
        num_temporal_layers: int = 6,
        temporal_kernel_size: int = 2,
        num_classes: Sequence[int] = (),
        local_channels: int = 0,
        head_channels: int = 256,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_codes, num_codebooks, num_classes, local_channels)
        sizes = {"num_temporal_layers": num_temporal_layers, "temporal_kernel_size": temporal_kernel_size}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name}: expected 1 or more, found {value}")
        self.frame = GatedPixelCNN(
            num_codes,
            num_codebooks,
            channels,
            num_layers,
            kernel_size,
            first_kernel_size,
            num_classes,
            local_channels=channels,
            head_channels=head_channels,
            dropout=dropout,
        )
        self.temporal: Layers[TemporalLayer] = Layers(
            TemporalLayer(channels, temporal_kernel_size, kernel_size, local_channels, dropout)
            for _ in range(num_temporal_layers)
        )
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Unit variance before every gate; a residual stream whose variance grows from 1 to 2."""
        for layer in self.temporal:
            initialise(layer.seen, 1.0)
            initialise(layer.out, GATE_GAIN * len(self.temporal) ** -0.5)
            if layer.local is not None:
                initialise(layer.local, 0.5)

    def forward(self, codes: Tensor, labels: Tensor | None = None, local: Tensor | None = None) -> Tensor:
        self.check(codes, labels, local)
        batch, frames = codes.shape[:2]
        x = F.pad(self.embed(codes[:, :-1]), (0, 0, 0, 0, 1, 0))  # the frame before each; zeros before the first
        for layer in self.temporal:
            x = layer(F.pad(x, (0, 0, 0, 0, layer.before, 0)), local)
        labels = None if labels is None else repeat(labels, "b l -> (b t) l", t=frames)
        logits = self.frame(codes.flatten(0, 1), labels, rearrange(x, "b p t h w -> (b t) p h w"))
        return logits.unflatten(0, (batch, frames)).movedim(1, 2)

    @property
    def frames_seen(self) -> int:
        """How many of the frames before it condition a frame: the temporal stack's receptive field."""
        return 1 + sum(layer.before for layer in self.temporal)

    def embed(self, codes: Tensor) -> Tensor:
        """Codes of frames (b, t, h, w[, g]) -> the temporal stack's input (b, p, t, h, w)."""
        return self.frame.embed(codes if self.num_codebooks > 1 else codes[..., None]).movedim(-1, 1)

    def stepper(
        self, batch: int, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None
    ) -> "PixelCNN3dStepper":
        self.check_conditions(batch, grid, labels, local)
        return PixelCNN3dStepper(self, batch, grid, labels, local)

    def compiled_loop(self) -> "CompiledPixelCNN3d | None":
        return CompiledPixelCNN3d(self) if available() else None


class TemporalLayer(nn.Module):
    """x -> x + (convolution and local, gate, 1x1x1)(x): a frame sees itself and `before` earlier ones, non-causally."""

    def __init__(self, p: int, num_frames: int, kernel_size: int, local_channels: int, dropout: float) -> None:
        super().__init__()
        self.before, reach = num_frames - 1, kernel_size // 2
        self.seen = nn.Conv3d(p, 2 * p, (num_frames, kernel_size, kernel_size), padding=(0, reach, reach))
        self.local = nn.Conv3d(local_channels, 2 * p, 1, bias=False) if local_channels else None
        self.dropout = GlobalBatchDropout(dropout)
        self.out = nn.Conv3d(p, p, 1)

    def forward(self, x: Tensor, local: Tensor | None) -> Tensor:
        """x (b, p, before + t, h, w), earlier frames first, and local (b, c, t, h, w) -> (b, p, t, h, w)."""
        sums = add(self.seen(x), None if self.local is None else self.local(local))
        return x[:, :, self.before :] + self.out(self.dropout(gate(sums)))


class PixelCNN3dStepper(ReplayableStepper):
    """Cached evaluation: the temporal stack once per frame, then the frame's own stepper.

    Each layer of the temporal stack keeps as many frames of its input as its kernel reaches back.
    """

    def __init__(
        self, prior: GatedPixelCNN3d, batch: int, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None
    ) -> None:
        self.prior, self.local = prior, local
        weight = prior.frame.embeddings[0].weight
        context = weight.new_zeros(batch, weight.shape[1], *grid[1:])  # conditions the frame
        self.inside = prior.frame.stepper(batch, grid[1:], labels, context)
        self.context = context
        self.earlier = [
            weight.new_zeros(batch, weight.shape[1], layer.before, *grid[1:]) for layer in prior.temporal
        ]
        self.nothing = weight.new_zeros(())

    def begin_at(self, codes: Tensor, position: Sequence[Tensor], axis: int) -> None:
        frame, *within = position
        if axis > 0:
            self.inside.begin_at(codes.index_select(1, frame)[:, 0], within, axis - 1)
            return
        x = self.prior.embed(codes.index_select(1, (frame - 1).clamp(min=0)))
        x = torch.where(frame > 0, x, self.nothing)
        local = None if self.local is None else self.local.index_select(2, frame)
        for layer, earlier in zip(self.prior.temporal, self.earlier, strict=True):
            seen = torch.cat((earlier, x), dim=2)
            earlier.copy_(seen[:, :, 1:])
            x = layer(seen, local)
        self.context.copy_(x[:, :, 0])
        self.inside.restart()

    def step_at(self, codes: Tensor, position: Sequence[Tensor], codebook: int) -> Tensor:
        frame, *within = position
        return self.inside.step_at(codes.index_select(1, frame)[:, 0], within, codebook)

    def row_kernel(self, rule: Rule) -> RowKernel | None:
        return self.inside.row_kernel(rule)


class CompiledPixelCNN3d(CompiledLoop):
    """The packed parameters of the temporal stack, and the loop over frames; frames are drawn by `CompiledPixelCNN`."""

    def __init__(self, prior: GatedPixelCNN3d) -> None:
        self.prior, self.frame = prior, CompiledPixelCNN(prior.frame)
        layers, pack, dtype = list(prior.temporal), compiled.pack, self.frame.dtype
        taps = [rearrange(layer.seen.weight, "n p t y x -> t y x n p") for layer in layers]
        taps = [compiled.for_pairs(tap) if tap.shape[2] == 3 else tap for tap in taps]
        self.weights = compiled.TemporalWeights(
            seen=compiled.stack([pack(weight) for weight in taps], 6, dtype),
            bias=compiled.stack([compiled.fill_up(bias_of(layer.seen)) for layer in layers], 1, dtype),
            local=compiled.stack(
                [pack(layer.local.weight.flatten(1)) for layer in layers if layer.local is not None], 3, dtype
            ),
            out=compiled.stack([pack(layer.out.weight.flatten(1)) for layer in layers], 3, dtype),
            out_bias=compiled.stack([compiled.fill_up(bias_of(layer.out)) for layer in layers], 1, dtype),
        )

    def fill(
        self, codes: Tensor, uniforms: Tensor, labels: Tensor | None, local: Tensor | None, rule: Rule
    ) -> Iterator[int]:
        batch, frames, height, width = codes.shape[:4]
        contexts = self.contexts(batch, (frames, height, width), local)
        for t in range(frames):
            context = contexts(t, codes)
            if (codes[:, t] < 0).any():
                drawn = codes[:, t].contiguous()
                yield from self.frame.fill(drawn, uniforms[:, t], labels, context, rule)
                codes[:, t] = drawn
            else:
                yield batch * height * width

    def stepper(
        self, batch: int, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None
    ) -> "CompiledPixelCNN3dStepper":
        self.prior.check_conditions(batch, grid, labels, local)
        return CompiledPixelCNN3dStepper(self, batch, grid, labels, local)

    def contexts(
        self, batch: int, grid: Sequence[int], local: Tensor | None
    ) -> Callable[[int, Tensor], Tensor]:
        """A function (t, codes (b, t, h, w[, g])) -> what conditions frame t (b, p, h, w), called for each t in order,
        with the codes of all frames before it."""
        frames, height, width = grid
        state = self._state(batch, height, width)
        # By position and sample, without the margins: the stack's input, and its output, which conditions a frame.
        p, margin = self.prior.frame.local_channels, self.weights.seen.shape[2] // 2
        inner = slice(margin, margin + height), slice(margin, margin + width)
        grids = rearrange(torch.from_numpy(state.frames), "l t h (w s) p -> l t h w s p", s=batch)
        grids = grids[:, :, *inner, :, :p]
        if local is None:
            features = np.zeros((frames, height, width * batch, 0), self.frame.dtype)
        else:
            features = rearrange(local, "b c t h w -> t h (w b) c").to(grids.dtype).contiguous().numpy()

        def context(t: int, codes: Tensor) -> Tensor:
            here = t % state.frames.shape[1]
            if t > 0:
                grids[0, here] = rearrange(self.prior.embed(codes[:, t - 1 : t]).detach(), "b p 1 h w -> h w b p")
            compiled.temporal_stack(t, batch, features[t], self.weights, state)
            return rearrange(grids[-1, here], "h w b p -> b p h w")

        return context

    def _state(self, samples: int, height: int, width: int) -> "compiled.TemporalState":
        layers, kernel, taps = self.weights.seen.shape[:3]
        columns, pairs = width + width % 2 + taps - 1, compiled.pairs_at_once(samples)
        n = self.weights.out_bias.shape[1]

        def zeros(*shape: int) -> np.ndarray:
            return np.zeros(shape, self.frame.dtype)

        return compiled.TemporalState(
            frames=zeros(layers + 1, kernel, height + taps - 1, columns * samples, n),
            chunk=zeros(2 * pairs, self.weights.bias.shape[1]),
            gated=zeros(2 * pairs, self.prior.frame.local_channels),
            spread=zeros(4, pairs, n),
            products=zeros(4, pairs, self.weights.bias.shape[1]),
        )


class CompiledPixelCNN3dStepper(Stepper):
    """The loop over frames, stopped before each code."""

    def __init__(
        self, loop: CompiledPixelCNN3d, batch: int, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None
    ) -> None:
        self.frame, self.batch, self.grid, self.labels = loop.frame, batch, grid, labels
        self.contexts = loop.contexts(batch, grid, local)
        self.inside: Stepper | None = None

    def step(self, codes: Tensor, position: tuple[int, ...]) -> Tensor:
        t, *within = position
        if not any(within):
            context = self.contexts(t, codes)
            self.inside = self.frame.stepper(self.batch, self.grid[1:], self.labels, context)
            self.drawn = codes[:, t].clone(memory_format=torch.contiguous_format)
        else:
            self.drawn.copy_(codes[:, t])
        assert self.inside is not None
        return self.inside.step(self.drawn, tuple(within))
