"""Cached sampling of image priors: gated PixelCNN of 15 layers of 64 features, float32, K = 512."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.work import Contender, Estimate, Floor, Run, Sizes, Work
from benchmarks.works.stage2_step import HEAD, pixelcnn_macs
from stage2_prior import pixelcnn
from stage2_prior.pixelcnn import GatedPixelCNN
from stage2_prior.prior import Prior
from stage2_prior.sampling import sample, sample_naive

PART = 64  # grids of one forward pass at once: logits of more would fill the memory


def drawn_macs(k: int, p: int, layers: int) -> float:
    """Multiply-accumulates per drawn position, fewer than in a forward pass: the first layer on codes, (42 + 6) p^2, is
    looked up, and of a later layer's vertical stack, 12 p^2, pairs of columns save a third."""
    return pixelcnn_macs(k, p, layers) - (48 + 4 * (layers - 1)) * p**2


class SteppedPixelCNN(GatedPixelCNN):
    """Without the compiled loop, as where numba is missing."""

    def compiled_loop(self) -> None:
        return None


@torch.no_grad()
def sharpened(outputs: Iterable[nn.Module]) -> None:
    """Layers that make logits, whose standard deviation becomes about 2, as in a trained prior; an untrained one is
    close to uniform."""
    for layer in outputs:
        layer.weight *= 20  # type: ignore[operator]


def forward_passes(prior: Prior, codes: Tensor, part: int) -> Run:
    """One forward pass over all codes, `part` grids at once."""

    def run() -> None:
        with torch.inference_mode():
            for some in codes.split(part):
                prior(some)

    return run


def compared(prior: Prior, inputs: Callable[[torch.dtype], dict[str, Tensor | None]]) -> dict[str, float]:
    """The share of codes in which `sample` and `sample_naive` differ. In float64 there are none; in float32 a draw that
    falls on a rounding edge of the distribution may differ, and with it all later codes of its sample."""
    found = {}
    for dtype in (torch.float32, torch.float64):
        prior, arguments = prior.to(dtype), inputs(dtype)
        differing = sample(prior, **arguments) != sample_naive(prior, **arguments)
        name = f"share of codes that differ from sample_naive, {str(dtype).removeprefix('torch.')}"
        found[name] = differing.float().mean().item()
    return found


@dataclass(frozen=True, kw_only=True)
class Sampling(Work):
    title = "sampling"
    batch: int
    grid: int
    layers: int
    p: int
    k: int

    @classmethod
    def sizes(cls, quick: bool, long: bool) -> Iterable[Sizes]:
        if quick:
            return [{"batch": 2, "grid": 3, "layers": 2, "p": 8, "k": 16}]
        sizes = [(batch, grid) for grid in (8, 32, 64) for batch in (1, 64, 512)]
        return [{"batch": batch, "grid": grid, "layers": 15, "p": 64, "k": 512} for batch, grid in sizes
                if (batch, grid) != (512, 64) or long]

    def label(self) -> str:
        grids = "grids" if self.batch > 1 else "grid"
        return f"{self.batch} {grids} of {self.grid}x{self.grid}, {self.layers} layers x {self.p}, K = {self.k}"

    def prior(self, kind: type[GatedPixelCNN] = GatedPixelCNN) -> GatedPixelCNN:
        torch.manual_seed(0)
        prior = kind(self.k, channels=self.p, num_layers=self.layers)
        sharpened(head[3] for head in prior.heads)
        return prior.to(self.device).eval()

    def uniforms(self, batch: int, grid: int) -> Tensor:
        return torch.rand(batch, grid, grid, dtype=torch.float64, device=self.device)

    def contenders(self) -> list[Contender | Estimate]:
        def cached(kind: type[GatedPixelCNN]) -> Run:
            prior, uniforms = self.prior(kind), self.uniforms(self.batch, self.grid)
            return lambda: sample(prior, uniforms)

        def forward(layout: torch.memory_format) -> Run:
            prior = self.prior().to(memory_format=layout)
            codes = torch.randint(self.k, (self.batch, self.grid, self.grid), device=self.device)
            return forward_passes(prior, codes, PART)

        def plain_forward() -> Run:
            pixelcnn.ready = lambda device, dtype: False  # type: ignore[assignment]  # in this contender's own process
            return forward(torch.contiguous_format)

        one, last = "one forward pass", "one forward pass, channels last"
        found = [
            Contender("sample", lambda: cached(GatedPixelCNN)),
            Contender(one, lambda: forward(torch.contiguous_format)),
            Contender(last, lambda: forward(torch.channels_last)),
            Contender("one forward pass, PyTorch's own layers", plain_forward),
        ]
        if self.batch <= 64 and self.grid <= 8 and self.batch > 1:
            found.append(Contender("sample, stepper in PyTorch", lambda: cached(SteppedPixelCNN)))
        return [*found, Estimate("sample_naive: a forward pass per code", one, self.grid**2)]

    def floor(self) -> Floor:
        # Each position passes every layer once, in float32. A column of the horizontal stacks and of the head waits for
        # the one before: where few grids are drawn, each column reads their weights anew, (4 + 1) p^2 a layer, from the
        # cache.
        weights = 4.0 * (self.layers * 5 * self.p**2 + self.p * HEAD + HEAD * self.k)
        macs = self.batch * self.grid**2 * drawn_macs(self.k, self.p, self.layers)
        return Floor(flops=2.0 * macs, bytes=self.grid**2 * weights, cached=True)

    def check(self) -> dict[str, float]:
        uniforms = self.uniforms(8, min(self.grid, 8))
        return compared(self.prior(), lambda dtype: {"uniforms": uniforms})
