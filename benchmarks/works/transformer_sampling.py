"""Cached sampling of a transformer: 8 blocks of 256 channels, 4 heads, float32, K = 512."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from benchmarks.work import Contender, Estimate, Floor, Run, Sizes, Work
from benchmarks.works.sampling import compared, forward_passes, sharpened
from stage2_prior.sampling import sample
from stage2_prior.transformer import Transformer

PART = 8  # grids of one forward pass at once: its queries, keys, values and hidden units stay near the caches


class SteppedTransformer(Transformer):
    """Without the compiled loop, as where numba is missing."""

    def compiled_loop(self) -> None:
        return None


def block_macs(d: int) -> int:
    """Multiply-accumulates per position of a block, without attention: queries, keys and values 3 d^2, the output d^2,
    a hidden layer of 4 d units 8 d^2."""
    return 12 * d**2


@dataclass(frozen=True, kw_only=True)
class TransformerSampling(Work):
    title = "transformer sampling"
    batch: int
    grid: int
    layers: int
    d: int
    heads: int
    k: int

    @classmethod
    def sizes(cls, quick: bool, long: bool) -> Iterable[Sizes]:
        if quick:
            return [{"batch": 2, "grid": 3, "layers": 2, "d": 16, "heads": 2, "k": 16}]
        return [{"batch": batch, "grid": grid, "layers": 8, "d": 256, "heads": 4, "k": 512}
                for batch, grid in ((64, 8), (1, 32), (64, 32))]

    def label(self) -> str:
        grids = "grids" if self.batch > 1 else "grid"
        return f"{self.batch} {grids} of {self.grid}x{self.grid}, {self.layers} layers x {self.d}, K = {self.k}"

    def prior(self, kind: type[Transformer] = Transformer) -> Transformer:
        torch.manual_seed(0)
        prior = kind(self.k, grid=(self.grid, self.grid), channels=self.d, num_layers=self.layers,
                     num_heads=self.heads)
        sharpened(prior.heads)
        return prior.to(self.device).eval()

    def contenders(self) -> list[Contender | Estimate]:
        def cached(kind: type[Transformer]) -> Run:
            prior = self.prior(kind)
            uniforms = torch.rand(self.batch, self.grid, self.grid, dtype=torch.float64, device=self.device)
            return lambda: sample(prior, uniforms)

        def forward() -> Run:
            prior = self.prior()
            codes = torch.randint(self.k, (self.batch, self.grid, self.grid), device=self.device)
            return forward_passes(prior, codes, PART)

        one = "one forward pass"
        found = [Contender("sample", lambda: cached(Transformer)), Contender(one, forward)]
        if self.grid <= 8:
            found.append(Contender("sample, stepper in PyTorch", lambda: cached(SteppedTransformer)))
        return [*found, Estimate("sample_naive: a forward pass per code", one, self.grid**2)]

    def floor(self) -> Floor:
        # Arithmetic: each position passes every block once and reads the keys and values of all n positions up to it,
        # 2 n d multiply-accumulates a block, n = N / 2 on average: 4 L n d operations a position. Memory: those keys
        # and values, 4 bytes each, 2 n d a block; a grid's (16 MiB for 32x32) do not stay in a cache until the next
        # position. All weights (25 MB) are read for every position too, once for all grids.
        positions, weights = self.grid**2, self.layers * block_macs(self.d) + self.d * self.k
        seen = self.batch * positions**2 * self.d * self.layers  # 2 n d, summed over positions
        return Floor(flops=2.0 * (self.batch * positions * weights + seen), bytes=4.0 * (positions * weights + seen))

    def check(self) -> dict[str, float]:
        uniforms = torch.rand(4, min(self.grid, 6), min(self.grid, 6), dtype=torch.float64, device=self.device)
        return compared(self.prior(), lambda dtype: {"uniforms": uniforms})
