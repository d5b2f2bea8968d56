"""Codes to audio in one pass: the decoder of `fsdd_fast`, against the WaveNet decoder of `fsdd`."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.work import Contender, Floor, Run, Sizes, Work
from pipelines.runs.config import build, composed
from pipelines.runs.facts import complete
from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.tiles import Tiled
from stage1_vqvae.wave_decoder import WaveDecoder

RATE, HOP, SPEAKERS = 8000, 64, 6


class Example:
    """What an autoencoder's configuration asks of the data."""

    label_names, classes, facts = ("speaker",), (tuple("abcdef"),), {"sample_rate_hz": RATE}
    shape = (1, 128 * HOP)


def autoencoder(experiment: str, device: torch.device) -> Autoencoder:
    torch.manual_seed(0)
    model = build(complete(composed([f"experiment={experiment}"]), Example()))  # type: ignore[arg-type]
    with torch.no_grad():
        model.bottleneck.initialised.fill_(True)
    return model.to(device).eval()


def decoder_macs(decoder: WaveDecoder) -> float:
    """Multiply-accumulates per sample, biases and sums left out."""
    z, hidden = decoder.input.in_channels, decoder.input.out_channels
    rate = 1 / HOP  # positions per sample
    macs = rate * (3 * z * hidden + len(decoder.blocks) * 4 * hidden**2)  # a block: a convolution of 3, then of 1
    for factor, stage, up in zip(decoder.factors, decoder.stages, decoder.transposed):
        macs += rate * 2 * factor * up.in_channels * up.out_channels  # type: ignore[operator]  # a window of 2 f
        rate *= factor
        macs += rate * len(stage) * 4 * up.out_channels**2  # type: ignore[arg-type,operator]
    return macs + 7 * decoder.out.in_channels * decoder.out.out_channels


@dataclass(frozen=True, kw_only=True)
class WaveDecoding(Work):
    title = "audio decoding"
    unit = "position"  # a sample of a clip: n clips of t samples are n t
    batch: int
    length: int

    @classmethod
    def sizes(cls, quick: bool, long: bool) -> Iterable[Sizes]:
        if quick:
            return [{"batch": 1, "length": 4}]
        return [{"batch": batch, "length": 64} for batch in (1, 16)]  # codes: half a second, a spoken digit

    def label(self) -> str:
        clips = "clips" if self.batch > 1 else "clip"
        return f"{self.batch} {clips} of {self.length * HOP / RATE:.3g} s at {RATE:,} Hz"

    def contenders(self) -> list[Contender]:
        codes = torch.randint(64, (self.batch, self.length), generator=torch.Generator().manual_seed(0))
        labels, samples = torch.arange(self.batch)[:, None] % SPEAKERS, self.batch * self.length * HOP

        def decoding(experiment: str, first: bool = False) -> Run:
            model, (own, who) = autoencoder(experiment, self.device), (part.to(self.device) for part in (codes, labels))
            drawn = torch.rand(self.batch, self.length * HOP, dtype=torch.float64, device=self.device)
            wave: Tensor = drawn[:, None].float() - 0.5
            uniforms = drawn if experiment == "fsdd" else None
            return lambda: model.decode(model.encode(wave) if first else own, who, uniforms)

        return [
            Contender("codes to a wave, one pass", lambda: decoding("fsdd_fast"), count=samples),
            Contender("encoder and decoder", lambda: decoding("fsdd_fast", True), count=samples),
            Contender("WaveNet decoder, compiled loop", lambda: decoding("fsdd"), rival=True, count=samples),
        ]

    def floor(self) -> Floor:
        # Per sample: the multiply-accumulates of all stages, in float32. Weights (2 MB) and features stay in the cache.
        decoder = autoencoder("fsdd_fast", torch.device("cpu")).decoder
        assert isinstance(decoder, WaveDecoder)
        return Floor(flops=2.0 * decoder_macs(decoder))

    def check(self) -> dict[str, float]:
        model, codes = autoencoder("fsdd_fast", self.device), torch.arange(40, device=self.device)[None] % 64
        labels = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
        whole = model.double().decode(codes, labels).cpu()
        parts = Tiled(model, (1, HOP), at_once=7 * HOP).chunks(codes, labels, whole.shape[-1], torch.rand)
        again = torch.cat(list(parts), -1)
        return {"largest difference between chunks and one piece, float64": (whole - again).abs().max().item()}
