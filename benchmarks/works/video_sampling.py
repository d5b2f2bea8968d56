"""Cached sampling of the video prior: frames after a given context, as predict_video.py asks for them."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.work import Contender, Estimate, Floor, Run, Sizes, Work
from benchmarks.works.sampling import compared, drawn_macs, sharpened
from benchmarks.works.stage2_step import pixelcnn_macs
from benchmarks.works.video_step import ACTIONS, video_macs
from stage2_prior.sampling import sample
from stage2_prior.video import GatedPixelCNN3d


@dataclass(frozen=True, kw_only=True)
class VideoSampling(Work):
    title = "video sampling"
    batch: int
    context: int
    frames: int
    grid: int
    layers: int
    temporal: int
    p: int
    k: int

    @classmethod
    def sizes(cls, quick: bool, long: bool) -> Iterable[Sizes]:
        if quick:
            return [{"batch": 2, "context": 1, "frames": 1, "grid": 3, "layers": 2, "temporal": 1, "p": 8, "k": 16}]
        return [{"batch": batch, "context": 6, "frames": 10, "grid": 21, "layers": 12, "temporal": 6, "p": 64, "k": 512}
                for batch in (1, 8)]

    def label(self) -> str:
        return (f"{self.batch} clip{'s' * (self.batch > 1)}, {self.frames} frames of {self.grid}x{self.grid} after "
                f"{self.context}, {self.layers} + {self.temporal} layers x {self.p}, K = {self.k}")

    def prior(self) -> GatedPixelCNN3d:
        torch.manual_seed(0)
        prior = GatedPixelCNN3d(self.k, channels=self.p, num_layers=self.layers, num_temporal_layers=self.temporal,
                                local_channels=ACTIONS)
        sharpened(head[3] for head in prior.frame.heads)
        return prior.to(self.device).eval()

    def inputs(self, *shape: int) -> tuple[Tensor, Tensor]:
        """Uniforms (b, t, h, w) and actions (b, c, t, h, w)."""
        return (torch.rand(shape, dtype=torch.float64, device=self.device),
                torch.randn(shape[0], ACTIONS, *shape[1:], device=self.device))

    def contenders(self) -> list[Contender | Estimate]:
        shape = (self.batch, self.context + self.frames, self.grid, self.grid)

        def cached(given: bool) -> Run:
            prior, (uniforms, local) = self.prior(), self.inputs(*shape)
            known = torch.randint(self.k, shape, device=self.device)
            known[:, self.context if given else 0 :] = -1
            return lambda: sample(prior, uniforms, None, local, known=known)

        def forward() -> Run:
            prior, (_, local) = self.prior(), self.inputs(*shape)
            codes = torch.randint(self.k, shape, device=self.device)

            def run() -> None:
                with torch.inference_mode():
                    prior(codes, local=local)

            return run

        one = "one forward pass, all frames"
        return [
            Contender("sample, context given", lambda: cached(True)),
            Contender("sample, no context", lambda: cached(False)),
            Contender(one, forward),
            Estimate("sample_naive: a forward pass per code", one, self.frames * self.grid**2),
        ]

    def floor(self) -> Floor:
        # Each drawn position passes every layer once; of the context the temporal stack alone is needed. Pairs of
        # columns save a third of that stack's 36 p^2 as well.
        layers, temporal = self.layers, self.temporal
        frame = video_macs(self.k, self.p, layers, 0)
        stack = video_macs(self.k, self.p, layers, temporal) - frame - temporal * 12 * self.p**2
        saved = pixelcnn_macs(self.k, self.p, layers) - drawn_macs(self.k, self.p, layers)
        macs = self.frames * (frame - saved) + (self.frames + self.context) * stack
        return Floor(flops=2.0 * self.batch * self.grid**2 * macs)

    def check(self) -> dict[str, float]:
        uniforms, local = self.inputs(2, 3, 4, 5)
        return compared(self.prior(), lambda dtype: {"uniforms": uniforms, "local": local.to(dtype)})
