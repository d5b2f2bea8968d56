"""Cached sampling of the video prior: frames after a given context, as predict_video.py asks for them."""

from collections.abc import Iterable

import torch
from torch import Tensor

from benchmarks.work import Contender, Estimate, Floor, Run, Sizes, Work
from benchmarks.works.sampling import sharpened
from benchmarks.works.video_step import ACTIONS, video_macs
from stage2_prior.sampling import sample, sample_naive
from stage2_prior.video import GatedPixelCNN3d


class VideoSampling(Work):
    title = "video sampling"

    def sizes(self) -> Iterable[Sizes]:
        if self.quick:
            return [{"batch": 2, "context": 1, "frames": 1, "grid": 3, "layers": 2, "temporal": 1, "p": 8, "k": 16}]
        return [{"batch": batch, "context": 6, "frames": 10, "grid": 21, "layers": 12, "temporal": 6, "p": 64, "k": 512}
                for batch in (1, 8)]

    def label(self, batch: int, context: int, frames: int, grid: int, layers: int, temporal: int, p: int, k: int
              ) -> str:
        return (f"{batch} clip{'s' * (batch > 1)}, {frames} frames of {grid}x{grid} after {context}, "
                f"{layers} + {temporal} layers x {p}, K = {k}")

    def prior(self, layers: int, temporal: int, p: int, k: int) -> GatedPixelCNN3d:
        torch.manual_seed(0)
        prior = GatedPixelCNN3d(k, channels=p, num_layers=layers, num_temporal_layers=temporal, local_channels=ACTIONS)
        sharpened(prior.frame.heads)
        return prior.to(self.device).eval()

    def inputs(self, *shape: int) -> tuple[Tensor, Tensor]:
        """Uniforms (b, t, h, w) and actions (b, c, t, h, w)."""
        return (torch.rand(shape, dtype=torch.float64, device=self.device),
                torch.randn(shape[0], ACTIONS, *shape[1:], device=self.device))

    def contenders(self, batch: int, context: int, frames: int, grid: int, layers: int, temporal: int, p: int, k: int
                   ) -> list[Contender | Estimate]:
        shape = (batch, context + frames, grid, grid)

        def cached(given: bool) -> Run:
            prior, (uniforms, local) = self.prior(layers, temporal, p, k), self.inputs(*shape)
            known = torch.randint(k, shape, device=self.device)
            known[:, context if given else 0 :] = -1
            return lambda: sample(prior, uniforms, None, local, known=known)

        def forward() -> Run:
            prior, (_, local) = self.prior(layers, temporal, p, k), self.inputs(*shape)
            codes = torch.randint(k, shape, device=self.device)

            def run() -> None:
                with torch.inference_mode():
                    prior(codes, local=local)

            return run

        one = "one forward pass, all frames"
        return [
            Contender("sample, context given", lambda: cached(True)),
            Contender("sample, no context", lambda: cached(False)),
            Contender(one, forward),
            Estimate("sample_naive: a forward pass per code", one, frames * grid**2),
        ]

    def floor(self, batch: int, context: int, frames: int, grid: int, layers: int, temporal: int, p: int, k: int
              ) -> Floor:
        # Each drawn position passes every layer once; of the context the temporal stack alone is needed.
        whole, frame_only = video_macs(k, p, layers, temporal), video_macs(k, p, layers, 0)
        macs = frames * whole + context * (whole - frame_only)
        return Floor(flops=2.0 * batch * grid**2 * macs)

    def check(self, batch: int, context: int, frames: int, grid: int, layers: int, temporal: int, p: int, k: int
              ) -> dict[str, float]:
        prior, (uniforms, local) = self.prior(layers, temporal, p, k), self.inputs(4, 3, 5, 6)
        differing = sample(prior, uniforms, local=local) != sample_naive(prior, uniforms, local=local)
        return {"share of codes that differ from sample_naive, 4 of 3x5x6": differing.float().mean().item()}
