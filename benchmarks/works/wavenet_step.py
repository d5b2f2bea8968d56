"""A training step of the WaveNet: 40 layers of the speech decoder's sizes, against a plain public one."""

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.plain.pixelcnn import cross_entropy
from benchmarks.plain.wavenet import PlainWaveNet
from benchmarks.training import TrainingStep, code_split, plain_steps, prior_steps, product_dtype
from benchmarks.work import Contender, Floor, Run, Sizes
from pipelines.data.codes import CodeSplit
from stage2_prior.wavenet import WaveNet

RESIDUAL, GATE, SKIP = 32, 64, 256


def wavenet_macs(k: int, layers: int) -> float:
    """Multiply-accumulates per position: a layer's two taps, its residual and skip 1x1; the head's two 1x1."""
    return layers * (2 * RESIDUAL * GATE + GATE // 2 * RESIDUAL + GATE // 2 * SKIP) + SKIP * SKIP + SKIP * k


@dataclass(frozen=True, kw_only=True)
class WaveNetStep(TrainingStep):
    title = "WaveNet training step"
    batch: int
    length: int
    layers: int
    k: int

    @classmethod
    def sizes(cls, quick: bool, long: bool) -> Iterable[Sizes]:
        if quick:
            return [{"batch": 2, "length": 16, "layers": 3, "k": 16}]
        return [{"batch": 8, "length": 2048, "layers": 40, "k": 256}]

    def label(self) -> str:
        return f"{self.batch} clips of {self.length:,}, {self.layers} layers, K = {self.k}"

    def contenders(self) -> list[Contender]:
        def codes() -> CodeSplit:
            return code_split(self.k, (4 * self.batch, self.length))

        def own(precision: str) -> Run:
            prior = WaveNet(self.k, residual_channels=RESIDUAL, gate_channels=GATE, skip_channels=SKIP,
                            num_layers=self.layers)
            return prior_steps(prior, codes(), self.batch, precision, self.device)

        def plain() -> Run:
            model = PlainWaveNet(self.k, RESIDUAL, GATE, SKIP, self.layers, 10).to(self.device)
            return plain_steps(model, cross_entropy, codes().x.long().to(self.device), self.batch, 1e-3)

        return [
            Contender("the loop, precision auto", lambda: own("auto")),
            Contender("the loop, float32", lambda: own("float32")),
            Contender("plain public one: padded convolutions", plain, rival=True),
        ]

    def floor(self) -> Floor:
        # forward, and backward to features and to weights: three times the forward pass
        macs = self.batch * self.length * wavenet_macs(self.k, self.layers)
        return Floor(flops=6.0 * macs, dtype=product_dtype(self.device))
