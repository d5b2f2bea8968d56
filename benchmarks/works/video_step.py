"""A training step of the video prior with the sizes of configs/prior/gated_pixelcnn3d.yaml, actions given."""

from collections.abc import Iterable

import torch

from benchmarks.training import code_split, plain_steps, prior_steps, product_dtype
from benchmarks.work import Contender, Floor, Run, Sizes, Work
from benchmarks.works.stage2_step import pixelcnn_macs
from stage2_prior.video import GatedPixelCNN3d

ACTIONS = 4  # channels of local


def video_macs(k: int, p: int, layers: int, temporal: int) -> float:
    """Multiply-accumulates per position: the frame's model, whose layers also read the temporal stack by a 1x1 p -> 4p;
    the temporal layers' 2x3x3 p -> 2p and 1x1 p -> p."""
    return pixelcnn_macs(k, p, layers) + layers * 4 * p**2 + temporal * (18 * 2 * p**2 + p**2 + ACTIONS * 2 * p)


class VideoStep(Work):
    title = "video prior, training step"

    def sizes(self) -> Iterable[Sizes]:
        if self.quick:
            return [{"batch": 2, "frames": 2, "grid": 4, "layers": 2, "temporal": 1, "p": 8, "k": 16}]
        return [{"batch": 4, "frames": 16, "grid": 21, "layers": 12, "temporal": 6, "p": 64, "k": 512}]

    def label(self, batch: int, frames: int, grid: int, layers: int, temporal: int, p: int, k: int) -> str:
        return f"{batch} clips of {frames} x {grid}x{grid}, {layers} + {temporal} layers x {p}, K = {k}"

    def contenders(self, batch: int, frames: int, grid: int, layers: int, temporal: int, p: int, k: int
                   ) -> list[Contender]:
        shape = (2 * batch, frames, grid, grid)

        def model() -> GatedPixelCNN3d:
            return GatedPixelCNN3d(k, channels=p, num_layers=layers, num_temporal_layers=temporal,
                                   local_channels=ACTIONS)

        def own(precision: str) -> Run:
            actions = torch.randn(shape[0], ACTIONS, frames, 1, 1).expand(-1, -1, *shape[1:])
            return prior_steps(model(), code_split(k, shape, local=actions), batch, precision, self.device)

        def plain() -> Run:
            local = torch.randn(batch, ACTIONS, *shape[1:], device=self.device)

            def loss(prior: torch.nn.Module, codes: torch.Tensor) -> torch.Tensor:
                return torch.nn.functional.cross_entropy(prior(codes, local=local), codes)

            codes = code_split(k, shape).x.long().to(self.device)
            return plain_steps(model().to(self.device), loss, codes, batch, 1e-3)

        return [
            Contender("the loop, precision auto", lambda: own("auto")),
            Contender("the loop, float32", lambda: own("float32")),
            # no package of the index has a PixelCNN of video
            Contender("the same model, plain loop in float32", plain, rival=True),
        ]

    def floor(self, batch: int, frames: int, grid: int, layers: int, temporal: int, p: int, k: int) -> Floor:
        # forward, and backward to features and to weights: three times the forward pass
        positions = batch * frames * grid**2
        return Floor(flops=6.0 * positions * video_macs(k, p, layers, temporal), dtype=product_dtype(self.device))
