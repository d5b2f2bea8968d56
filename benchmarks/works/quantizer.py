"""A vector quantiser's training step: forward and backward, statistics, the codebook's update, revival of codes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.plain.vqvae import pythae_quantizer
from benchmarks.work import Contender, Floor, Run, Sizes, Work
from stage1_vqvae.bottlenecks.nearest import nearest_codes
from stage1_vqvae.bottlenecks.vq import EMAQuantizer, GradientQuantizer, VectorQuantizer

POSITIONS = 64  # 8x8 latents
ROWS, COLUMNS = 1024, 512  # of a block of scores, 2 MiB: the fastest of those tried on a CPU
# Copies of the float32 scores (n, K) that a rival's peak memory amounts to, measured at K = 512 and 8,192
SCORES = {"pythae": 4.2, "vector-quantize-pytorch": 7.4}


@dataclass(frozen=True, kw_only=True)
class QuantizerStep(Work):
    title = "quantiser, training step"
    n: int
    k: int
    d: int

    @classmethod
    def sizes(cls, quick: bool, long: bool) -> Iterable[Sizes]:
        if quick:
            return [{"n": 256, "k": 16, "d": 8}]
        sizes = [{"n": n, "k": k, "d": 64} for n, ks in ((32_768, (512, 8192, 65_536)), (2**20, (512, 8192)))
                 for k in ks]
        return sizes + [{"n": 2**20, "k": 65_536, "d": 64}] * long

    def label(self) -> str:
        return f"{self.n:,} vectors, D = {self.d}, K = {self.k:,}"

    def contenders(self) -> list[Contender]:
        def inputs(channels_last: bool) -> tuple[Tensor, Tensor]:
            generator = torch.Generator().manual_seed(0)
            layout = torch.channels_last if channels_last else torch.contiguous_format
            shape = self.n // POSITIONS, self.d, 8, 8
            maps, upstream = (torch.randn(shape, generator=generator).to(self.device, memory_format=layout)
                              for _ in range(2))
            return maps, upstream

        def own(kind: Callable[..., VectorQuantizer], channels_last: bool) -> Callable[[], Run]:
            return lambda: own_step(kind(self.k, self.d).to(self.device), *inputs(channels_last))

        def vectors() -> tuple[Tensor, Tensor]:
            z, upstream = (maps.flatten(2).mT.contiguous() for maps in inputs(False))
            return z, upstream

        def lucidrains() -> Run:
            from vector_quantize_pytorch import VectorQuantize

            module = VectorQuantize(self.d, self.k, decay=0.99, commitment_weight=0.25, kmeans_init=self.k <= 512,
                                    threshold_ema_dead_code=2)
            return rival_step(module.to(self.device), *vectors(), lambda output: (output[0], output[2].sum()))

        def pythae() -> Run:
            z, upstream = (x.unflatten(1, (8, 8)) for x in vectors())
            return rival_step(pythae_quantizer(self.k, self.d).to(self.device), z, upstream.movedim(-1, 1),
                              lambda output: (output.quantized_vector, output.loss))

        def product(reused: bool) -> Run:
            z, e = vectors()[0].flatten(0, 1), torch.randn(self.k, self.d, device=self.device)
            if not reused:
                return lambda: z @ e.T
            scores = torch.empty(self.n, self.k, device=self.device)
            return lambda: torch.mm(z, e.T, out=scores)

        def products_in_blocks() -> Run:
            z, e = vectors()[0].flatten(0, 1), torch.randn(self.k, self.d, device=self.device)
            scores = torch.empty(ROWS * COLUMNS, device=self.device)

            def run() -> None:
                for rows in z.split(ROWS):
                    for columns in e.split(COLUMNS):
                        out = scores[: len(rows) * len(columns)].view(len(rows), len(columns))
                        torch.mm(rows, columns.T, out=out)

            return run

        def search() -> Run:
            z, e = vectors()[0].flatten(0, 1), torch.randn(self.k, self.d, device=self.device)
            return lambda: nearest_codes(z[:, None], e[None])

        scores = 4.0 * self.n * self.k
        found = [Contender("EMAQuantizer, channels last", own(EMAQuantizer, True))]
        if self.k <= 512 and self.n <= 32_768:
            found += [
                Contender("EMAQuantizer, channels first", own(EMAQuantizer, False)),
                Contender("GradientQuantizer, channels last", own(GradientQuantizer, True)),
                Contender("GradientQuantizer, channels first", own(GradientQuantizer, False)),
                Contender("scores z @ e.T alone, new memory", lambda: product(False)),
                Contender("scores z @ e.T alone, reused memory", lambda: product(True)),
            ]
        else:
            found += [
                Contender("nearest codes alone", search),
                Contender("scores z @ e.T alone, in blocks that stay in the cache", products_in_blocks),
            ]
        return found + [
            Contender("vector-quantize-pytorch", lucidrains, rival=True, needs="vector_quantize_pytorch",
                      memory=SCORES["vector-quantize-pytorch"] * scores, long=self.n > 32_768),
            Contender("pythae, QuantizerEMA", pythae, rival=True, needs="pythae", memory=SCORES["pythae"] * scores),
        ]

    def floor(self) -> Floor:
        # The n K products of length d are 2 n K d operations, in float32, so that the nearest code is found exactly.
        # Read: z and its upstream gradient; written: z_q and the gradient of z; 4 bytes each. Scores need no memory.
        return Floor(flops=2.0 * self.n * self.k * self.d, bytes=4 * 4.0 * self.n * self.d)


def own_step(quantizer: VectorQuantizer, maps: Tensor, upstream: Tensor) -> Run:
    """One training step of the bottleneck alone, on maps (b, d, h, w), the output of a convolution."""
    if quantizer.num_codes <= 512:
        quantizer.initialise(maps.movedim(1, -1).flatten(0, -2)[: 8 * quantizer.num_codes])
    else:  # k-means of many codes takes minutes: any encodings will do
        with torch.no_grad():
            vectors = maps.movedim(1, -1).flatten(0, -2)
            rows = torch.arange(quantizer.num_codes, device=maps.device) % len(vectors)
            quantizer.codebook.copy_(vectors[rows] + 0.1 * torch.randn_like(quantizer.codebook[0]))
            quantizer.initialised.fill_(True)
    maps = maps.clone(memory_format=torch.preserve_format).requires_grad_()
    optimizer = torch.optim.SGD([maps], lr=0.0)

    def step() -> None:
        maps.grad = None
        quantizer.zero_grad()
        latent = quantizer(maps)
        torch.autograd.backward([latent.z_q, latent.loss], [upstream, torch.ones_like(latent.loss)])
        quantizer.after_step(optimizer)

    return step


def rival_step(module: nn.Module, z: Tensor, upstream: Tensor, read: Callable[[Any], tuple[Tensor, Tensor]]) -> Run:
    """The same with another's module, on its fastest layout; `read` gives z_q and the loss of its output."""
    z = z.clone().requires_grad_()

    def step() -> None:
        z.grad = None
        z_q, loss = read(module(z))
        torch.autograd.backward([z_q, loss], [upstream, torch.ones_like(loss)])

    return step
