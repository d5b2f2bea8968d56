"""A training step of the image prior: a gated PixelCNN of 15 layers of 64 features, against a plain public one."""

from collections.abc import Iterable

from benchmarks.plain.pixelcnn import PlainGatedPixelCNN, cross_entropy
from benchmarks.training import code_split, plain_steps, prior_steps, product_dtype
from benchmarks.work import Contender, Floor, Run, Sizes, Work
from stage2_prior.pixelcnn import GatedPixelCNN

HEAD = 256


def pixelcnn_macs(k: int, p: int, layers: int) -> float:
    """Multiply-accumulates per position. In a 3x3 layer the vertical stack sees 2 rows of 3, p -> 2p, the horizontal
    one 2 columns, p -> 2p, and 1x1 convolutions of 2p -> 2p and p -> p: (12 + 4 + 4 + 1) p^2. In the first, 7x7, 3 rows
    of 7 and 3 columns: (42 + 6 + 4 + 1) p^2. The head: p -> HEAD -> K."""
    return (21 * (layers - 1) + 53) * p**2 + p * HEAD + HEAD * k


class Stage2Step(Work):
    title = "stage-2 training step"

    def sizes(self) -> Iterable[Sizes]:
        if self.quick:
            return [{"batch": 2, "grid": 4, "k": 16, "layers": 2, "p": 8}]
        return [{"batch": batch, "grid": grid, "k": 512, "layers": 15, "p": 64}
                for grid in (16, 32) for batch in (16, 64)]

    def label(self, batch: int, grid: int, k: int, layers: int, p: int) -> str:
        return f"{batch} grids of {grid}x{grid}, {layers} layers x {p}, K = {k}"

    def contenders(self, batch: int, grid: int, k: int, layers: int, p: int) -> list[Contender]:
        def own(precision: str) -> Run:
            prior = GatedPixelCNN(k, channels=p, num_layers=layers, head_channels=HEAD)
            return prior_steps(prior, code_split(k, (4 * batch, grid, grid)), batch, precision, self.device)

        def plain() -> Run:
            codes = code_split(k, (4 * batch, grid, grid)).x.long().to(self.device)
            model = PlainGatedPixelCNN(k, p, layers, HEAD).to(self.device)
            return plain_steps(model, cross_entropy, codes, batch, 1e-3)

        return [
            Contender("the loop, precision auto", lambda: own("auto")),
            Contender("the loop, float32", lambda: own("float32")),
            Contender("plain public one: masked convolutions", plain, rival=True),
        ]

    def floor(self, batch: int, grid: int, k: int, layers: int, p: int) -> Floor:
        # forward, and backward to features and to weights: three times the forward pass
        return Floor(flops=6.0 * batch * grid**2 * pixelcnn_macs(k, p, layers), dtype=product_dtype(self.device))
