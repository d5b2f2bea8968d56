"""A training step of the video prior with the sizes of configs/prior/gated_pixelcnn3d.yaml, actions given."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from benchmarks.training import TrainingStep, code_split, plain_steps, prior_steps, product_dtype
from benchmarks.work import Contender, Floor, Run, Sizes
from benchmarks.works.stage2_step import pixelcnn_macs
from stage2_prior.video import GatedPixelCNN3d

ACTIONS = 4  # channels of local


def video_macs(k: int, p: int, layers: int, temporal: int) -> float:
    """Multiply-accumulates per position: the frame's model, whose layers also read the temporal stack by a 1x1 p -> 4p;
    the temporal layers' 2x3x3 p -> 2p and 1x1 p -> p."""
    return pixelcnn_macs(k, p, layers) + layers * 4 * p**2 + temporal * (18 * 2 * p**2 + p**2 + ACTIONS * 2 * p)


@dataclass(frozen=True, kw_only=True)
class VideoStep(TrainingStep):
    title = "video prior, training step"
    batch: int
    frames: int
    grid: int
    layers: int
    temporal: int
    p: int
    k: int

    @classmethod
    def sizes(cls, quick: bool, long: bool) -> Iterable[Sizes]:
        if quick:
            return [{"batch": 2, "frames": 2, "grid": 4, "layers": 2, "temporal": 1, "p": 8, "k": 16}]
        return [{"batch": 4, "frames": 16, "grid": 21, "layers": 12, "temporal": 6, "p": 64, "k": 512}]

    def label(self) -> str:
        return (f"{self.batch} clips of {self.frames} x {self.grid}x{self.grid}, {self.layers} + {self.temporal} "
                f"layers x {self.p}, K = {self.k}")

    def contenders(self) -> list[Contender]:
        shape = (2 * self.batch, self.frames, self.grid, self.grid)

        def model() -> GatedPixelCNN3d:
            return GatedPixelCNN3d(self.k, channels=self.p, num_layers=self.layers, num_temporal_layers=self.temporal,
                                   local_channels=ACTIONS)

        def own(precision: str) -> Run:
            actions = torch.randn(shape[0], ACTIONS, self.frames, 1, 1).expand(-1, -1, *shape[1:])
            return prior_steps(model(), code_split(self.k, shape, local=actions), self.batch, precision, self.device)

        def plain() -> Run:
            local = torch.randn(self.batch, ACTIONS, *shape[1:], device=self.device)

            def loss(prior: torch.nn.Module, codes: torch.Tensor) -> torch.Tensor:
                return torch.nn.functional.cross_entropy(prior(codes, local=local), codes)

            codes = code_split(self.k, shape).x.long().to(self.device)
            return plain_steps(model().to(self.device), loss, codes, self.batch, 1e-3)

        return [
            Contender("the loop, precision auto", lambda: own("auto")),
            Contender("the loop, float32", lambda: own("float32")),
            # no package of the index has a PixelCNN of video
            Contender("the same model, plain loop in float32", plain, rival=True),
        ]

    def floor(self) -> Floor:
        # forward, and backward to features and to weights: three times the forward pass
        positions = self.batch * self.frames * self.grid**2
        macs = positions * video_macs(self.k, self.p, self.layers, self.temporal)
        return Floor(flops=6.0 * macs, dtype=product_dtype(self.device))
