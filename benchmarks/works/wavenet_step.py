"""A training step of the WaveNet: 40 layers of the speech decoder's sizes, against a plain public one."""

from collections.abc import Iterable

from benchmarks.plain.pixelcnn import cross_entropy
from benchmarks.plain.wavenet import PlainWaveNet
from benchmarks.training import code_split, plain_steps, prior_steps, product_dtype
from benchmarks.work import Contender, Floor, Run, Sizes, Work
from stage2_prior.wavenet import WaveNet

RESIDUAL, GATE, SKIP = 32, 64, 256


def wavenet_macs(k: int, layers: int) -> float:
    """Multiply-accumulates per position: a layer's two taps, its residual and skip 1x1; the head's two 1x1."""
    return layers * (2 * RESIDUAL * GATE + GATE // 2 * RESIDUAL + GATE // 2 * SKIP) + SKIP * SKIP + SKIP * k


class WaveNetStep(Work):
    title = "WaveNet training step"

    def sizes(self) -> Iterable[Sizes]:
        if self.quick:
            return [{"batch": 2, "length": 16, "layers": 3, "k": 16}]
        return [{"batch": 8, "length": 2048, "layers": 40, "k": 256}]

    def label(self, batch: int, length: int, layers: int, k: int) -> str:
        return f"{batch} clips of {length:,}, {layers} layers, K = {k}"

    def contenders(self, batch: int, length: int, layers: int, k: int) -> list[Contender]:
        def own(precision: str) -> Run:
            prior = WaveNet(k, residual_channels=RESIDUAL, gate_channels=GATE, skip_channels=SKIP, num_layers=layers)
            return prior_steps(prior, code_split(k, (4 * batch, length)), batch, precision, self.device)

        def plain() -> Run:
            model = PlainWaveNet(k, RESIDUAL, GATE, SKIP, layers, 10).to(self.device)
            return plain_steps(model, cross_entropy, code_split(k, (4 * batch, length)).x.long().to(self.device), batch,
                               1e-3)

        return [
            Contender("the loop, precision auto", lambda: own("auto")),
            Contender("the loop, float32", lambda: own("float32")),
            Contender("plain public one: padded convolutions", plain, rival=True),
        ]

    def floor(self, batch: int, length: int, layers: int, k: int) -> Floor:
        # forward, and backward to features and to weights: three times the forward pass
        return Floor(flops=6.0 * batch * length * wavenet_macs(k, layers), dtype=product_dtype(self.device))
