"""A training step of the image prior: a gated PixelCNN of 15 layers of 64 features, against a plain public one."""

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.plain.pixelcnn import PlainGatedPixelCNN, cross_entropy
from benchmarks.training import TrainingStep, code_split, plain_steps, prior_steps, product_dtype
from benchmarks.work import Contender, Floor, Run, Sizes
from pipelines.data.codes import CodeSplit
from stage2_prior.pixelcnn import GatedPixelCNN

HEAD = 256


def pixelcnn_macs(k: int, p: int, layers: int) -> float:
    """Multiply-accumulates per position. In a 3x3 layer the vertical stack sees 2 rows of 3, p -> 2p, the horizontal
    one 2 columns, p -> 2p, and 1x1 convolutions of 2p -> 2p and p -> p: (12 + 4 + 4 + 1) p^2. In the first, 7x7, 3 rows
    of 7 and 3 columns: (42 + 6 + 4 + 1) p^2. The head: p -> HEAD -> K."""
    return (21 * (layers - 1) + 53) * p**2 + p * HEAD + HEAD * k


@dataclass(frozen=True, kw_only=True)
class Stage2Step(TrainingStep):
    title = "stage-2 training step"
    batch: int
    grid: int
    k: int
    layers: int
    p: int

    @classmethod
    def sizes(cls, quick: bool, long: bool) -> Iterable[Sizes]:
        if quick:
            return [{"batch": 2, "grid": 4, "k": 16, "layers": 2, "p": 8}]
        return [{"batch": batch, "grid": grid, "k": 512, "layers": 15, "p": 64}
                for grid in (16, 32) for batch in (16, 64)]

    def label(self) -> str:
        return f"{self.batch} grids of {self.grid}x{self.grid}, {self.layers} layers x {self.p}, K = {self.k}"

    def contenders(self) -> list[Contender]:
        def codes() -> CodeSplit:
            return code_split(self.k, (4 * self.batch, self.grid, self.grid))

        def own(precision: str) -> Run:
            prior = GatedPixelCNN(self.k, channels=self.p, num_layers=self.layers, head_channels=HEAD)
            return prior_steps(prior, codes(), self.batch, precision, self.device)

        def plain() -> Run:
            model = PlainGatedPixelCNN(self.k, self.p, self.layers, HEAD).to(self.device)
            return plain_steps(model, cross_entropy, codes().x.long().to(self.device), self.batch, 1e-3)

        return [
            Contender("the loop, precision auto", lambda: own("auto")),
            Contender("the loop, float32", lambda: own("float32")),
            Contender("plain public one: masked convolutions", plain, rival=True),
        ]

    def floor(self) -> Floor:
        # forward, and backward to features and to weights: three times the forward pass
        macs = self.batch * self.grid**2 * pixelcnn_macs(self.k, self.p, self.layers)
        return Floor(flops=6.0 * macs, dtype=product_dtype(self.device))
