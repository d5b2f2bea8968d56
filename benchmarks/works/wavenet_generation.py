"""Cached sampling of a WaveNet: 40 layers of 32 / 64 / 256 channels, K = 256, float32."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from benchmarks.work import Contender, Estimate, Floor, Run, Sizes, Work
from benchmarks.works.sampling import compared, sharpened
from benchmarks.works.wavenet_step import GATE, RESIDUAL, SKIP, wavenet_macs
from stage2_prior.sampling import sample
from stage2_prior.wavenet import WaveNet

STEPPED = 256  # positions that the step in PyTorch is timed on


class SteppedWaveNet(WaveNet):
    """Without the compiled loop: a few hundred PyTorch operations per position."""

    def compiled_loop(self) -> None:
        return None


@dataclass(frozen=True, kw_only=True)
class WaveNetGeneration(Work):
    title = "WaveNet generation"
    unit = "position"  # of each clip: n clips of t positions are n t
    batch: int
    length: int
    layers: int
    k: int
    local: int

    @classmethod
    def sizes(cls, quick: bool, long: bool) -> Iterable[Sizes]:
        if quick:
            return [{"batch": 2, "length": 8, "layers": 3, "k": 16, "local": 0}]
        return [{"batch": batch, "length": length, "layers": 40, "k": 256, "local": 0}
                for batch, length in ((1, 4096), (16, 4096), (64, 2048))]

    def label(self) -> str:
        conditioned = f", {self.local} local channels" * bool(self.local)
        clips = "clips" if self.batch > 1 else "clip"
        return f"{self.batch} {clips} of {self.length:,}, {self.layers} layers, K = {self.k}{conditioned}"

    def prior(self, kind: type[WaveNet] = WaveNet) -> WaveNet:
        torch.manual_seed(0)
        prior = kind(self.k, residual_channels=RESIDUAL, gate_channels=GATE, skip_channels=SKIP,
                     num_layers=self.layers, local_channels=self.local)
        sharpened(head[3] for head in prior.heads)
        return prior.to(self.device).eval()

    def contenders(self) -> list[Contender | Estimate]:
        stepped = min(self.length, STEPPED)
        threads = 1 if self.batch == 1 else None

        def cached(kind: type[WaveNet], positions: int) -> Run:
            prior = self.prior(kind)
            uniforms = torch.rand(self.batch, positions, dtype=torch.float64, device=self.device)
            features = torch.randn(self.batch, self.local, positions, device=self.device) if self.local else None
            return lambda: sample(prior, uniforms, local=features)

        def forward() -> Run:
            prior = self.prior()
            codes = torch.randint(self.k, (self.batch, self.length), device=self.device)
            features = torch.randn(self.batch, self.local, self.length, device=self.device) if self.local else None

            def run() -> None:
                with torch.inference_mode():
                    prior(codes, local=features)

            return run

        one = "one forward pass"
        return [
            Contender("sample", lambda: cached(WaveNet, self.length), count=self.batch * self.length, threads=threads),
            Contender("cached step in PyTorch", lambda: cached(SteppedWaveNet, stepped), rival=True,
                      count=self.batch * stepped, threads=threads),
            Contender(one, forward, count=self.batch * self.length, threads=threads),
            Estimate("sample_naive: a forward pass per position", one, self.length),
        ]

    def floor(self) -> Floor:
        # Per position: the multiply-accumulates of all layers, in float32; for every one in turn, all weights are read
        # once for all clips, from the cache where they fit into it (2.4 MB for 40 layers), 4 bytes each.
        macs = wavenet_macs(self.k, self.layers) + self.layers * self.local * GATE
        return Floor(flops=2.0 * macs, bytes=4.0 * macs / self.batch, cached=True)

    def check(self) -> dict[str, float]:
        uniforms = torch.rand(4, min(self.length, 64), dtype=torch.float64, device=self.device)
        local = torch.randn(4, self.local, uniforms.shape[1], device=self.device) if self.local else None
        return compared(self.prior(), lambda dtype: {
            "uniforms": uniforms, "local": None if local is None else local.to(dtype)})
