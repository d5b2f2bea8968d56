"""WaveNet over sequences of codes (van den Oord et al., arXiv 1609.03499): the prior of sound, and a decoder of it.

Dilated causal convolutions with gated units (section 2.3), residual and skip connections (2.4), conditioned globally on
labels and locally on features that lie on the codes' own grid (2.5). The variant: the code before each position is
embedded (no convolution of one-hot vectors), kernels of 2, a skip connection from every layer into a head of two 1x1
convolutions. Several codebooks at a position are predicted one after another, as in `GatedPixelCNN`.

Inside, features lie as (b, t, c), so that every layer is one matrix product over all positions.
Axes: b batch, t positions, k codes of a codebook, g codebooks, c channels, L label columns.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stage2_prior.dropout import GlobalBatchDropout
from stage2_prior.initialise import GATE_GAIN, initialise
from stage2_prior.prior import Prior, Stepper


class WaveNet(Prior):
    """p(codes | labels, local) of codes int64 (b, t[, g]), position by position.

    gate_channels: before the split into filter and gate, so twice the units of a layer.
    Layer i has the dilation 2^(i mod dilation_cycle). `dropout` is on the gated units.
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
    ) -> None:
        super().__init__(num_codes, num_codebooks, num_classes, local_channels)
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
        self.embeddings = nn.ModuleList(nn.Embedding(num_codes, residual_channels) for _ in range(num_codebooks))
        self.layers = nn.ModuleList(
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
        self.within = nn.ModuleList(nn.Embedding(num_codes, skip_channels) for _ in range(num_codebooks - 1))
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(), nn.Linear(skip_channels, skip_channels), nn.ReLU(), nn.Linear(skip_channels, num_codes)
            )
            for _ in range(num_codebooks)
        )
        self._initialise()

    @property
    def receptive_field(self) -> int:
        """How many positions before it the logits of a position depend on."""
        return 1 + sum((self.kernel_size - 1) * layer.dilation for layer in self.layers)

    @torch.no_grad()
    def _initialise(self) -> None:
        """Unit variance before every gate, a residual stream that grows from 1 to 2, logits near zero."""
        depth, halved = len(self.layers), 1 + (self.local_channels > 0)
        for embedding in (*self.embeddings, *self.within):
            nn.init.normal_(embedding.weight, std=self.num_codebooks**-0.5)
        for layer in self.layers:
            initialise(layer.dilated, halved**-0.5)
            if layer.out is not None:
                initialise(layer.out, GATE_GAIN * depth**-0.5)
            for table in layer.tables:
                nn.init.normal_(table.weight, std=0.1)
            if layer.local is not None:
                initialise(layer.local, halved**-0.5)
        initialise(self.skip, GATE_GAIN)
        for head in self.heads:
            initialise(head[1], 2**0.5)  # He et al. (2015), for ReLU
            initialise(head[3], 0.1)

    def forward(self, codes: Tensor, labels: Tensor | None = None, local: Tensor | None = None) -> Tensor:
        self.check(codes, labels, local)
        codes = codes if self.num_codebooks > 1 else codes[..., None]
        x = F.pad(self.embed(codes[:, :-1]), (0, 0, 1, 0))  # the code before each position; zeros before the first
        local = None if local is None else rearrange(local, "b c t -> b t c")
        gated = []
        for layer in self.layers:
            x, units = layer(x, labels, local)
            gated.append(units)
        features = self.skip(torch.cat(gated, dim=-1))
        if self.num_codebooks == 1:
            return self.heads[0](features).movedim(-1, 1)
        earlier = (table(codes[..., j]) for j, table in enumerate(self.within))
        logits = [head(seen) for head, seen in zip(self.heads, accumulate(earlier, initial=features), strict=True)]
        return torch.stack(logits, dim=-2).movedim(-1, 1)  # in memory k is innermost: log_prob reads it as it lies

    def embed(self, codes: Tensor) -> Tensor:
        """Codes (b, t, g) -> the sum of their embeddings (b, t, c)."""
        return sum(table(codes[..., j]) for j, table in enumerate(self.embeddings))

    def stepper(
        self, batch: int, grid: tuple[int, ...], labels: Tensor | None, local: Tensor | None
    ) -> "WaveNetStepper":
        self.check_conditions(batch, grid, labels, local)
        return WaveNetStepper(self, batch, labels, local)


class GatedLayer(nn.Module):
    """x (b, t, r) -> (x + residual, gated units (b, t, gate_channels / 2)), equation 2 and figure 4.

    The last layer hands nothing on: its x comes back as it was.
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
        self.dilated = nn.Linear(kernel_size * residual_channels, gate_channels)  # taps from the earliest to the present
        self.tables = nn.ModuleList(nn.Embedding(count, gate_channels) for count in num_classes)
        self.local = nn.Linear(local_channels, gate_channels, bias=False) if local_channels else None
        self.dropout = GlobalBatchDropout(dropout)
        self.out = None if last else nn.Linear(gate_channels // 2, residual_channels)
        self.delays = tuple(dilation * tap for tap in range(kernel_size - 1, -1, -1))

    def forward(self, x: Tensor, labels: Tensor | None, local: Tensor | None) -> tuple[Tensor, Tensor]:
        length = x.shape[1]
        padded = F.pad(x, (0, 0, self.delays[0], 0))
        taps = torch.cat([padded[:, self.delays[0] - delay :][:, :length] for delay in self.delays], dim=-1)
        return self.finish(x, taps, labels, local)

    def finish(
        self, x: Tensor, taps: Tensor, labels: Tensor | None, local: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """From what the kernel sees, taps (b, t, kernel_size * r), and local (b, t, c)."""
        sums = self.dilated(taps)
        for column, table in enumerate(self.tables):
            sums = sums + table(labels[:, column])[:, None]
        if self.local is not None:
            sums = sums + self.local(local)
        f, g = sums.chunk(2, dim=-1)
        units = self.dropout(torch.tanh(f) * torch.sigmoid(g))
        return (x if self.out is None else x + self.out(units)), units


class WaveNetStepper(Stepper):
    """Cached evaluation: each layer remembers as many of its inputs as its kernel reaches back, in a ring."""

    def __init__(self, prior: WaveNet, batch: int, labels: Tensor | None, local: Tensor | None) -> None:
        self.prior, self.labels = prior, labels
        self.local = None if local is None else rearrange(local, "b c t -> b t c")
        weight = prior.embeddings[0].weight
        self.start = weight.new_zeros(batch, 1, weight.shape[1])
        self.rings = [weight.new_zeros(batch, layer.delays[0] + 1, weight.shape[1]) for layer in prior.layers]
        self.features = self.start

    def step(self, codes: Tensor, position: tuple[int, ...]) -> Tensor:
        codes = codes if self.prior.num_codebooks > 1 else codes[..., None]
        t, codebook = position if self.prior.num_codebooks > 1 else (*position, 0)
        if codebook == 0:
            self.features = self._features(codes, t)
        else:
            self.features = self.features + self.prior.within[codebook - 1](codes[:, t, codebook - 1])
        return self.prior.heads[codebook](self.features)

    def _features(self, codes: Tensor, t: int) -> Tensor:
        x = self.prior.embed(codes[:, t - 1 : t]) if t > 0 else self.start
        local = None if self.local is None else self.local[:, t : t + 1]
        gated = []
        for layer, ring in zip(self.prior.layers, self.rings, strict=True):
            ring[:, t % ring.shape[1]] = x[:, 0]
            taps = torch.cat([ring[:, (t - delay) % ring.shape[1]] for delay in layer.delays], dim=-1)
            x, units = layer.finish(x, taps[:, None], self.labels, local)
            gated.append(units)
        return self.prior.skip(torch.cat(gated, dim=-1))[:, 0]
