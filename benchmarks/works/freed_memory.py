"""Training steps with tensors of hundreds of MiB on a CPU: freed memory kept, as training does, or given back.

The sizes are those of `cifar10_dvae` and `cifar10_vqvae_softmax`: 8x8 positions of 10 codebooks of 512 codes, 32x32
pixels of 3 values of 256 levels.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from benchmarks.work import Contender, Floor, Run, Sizes, Work
from pipelines.training.memory import keep_freed_memory
from stage1_vqvae.bottlenecks.gumbel import Gumbel
from stage1_vqvae.likelihoods.categorical import Categorical


@dataclass(frozen=True, kw_only=True)
class FreedMemory(Work):
    title = "freed memory kept"
    devices = ("cpu",)
    part: str
    batch: int
    k: int

    @classmethod
    def sizes(cls, quick: bool, long: bool) -> Iterable[Sizes]:
        return [{"part": part, "batch": 1 if quick else 32, "k": 8 if quick else 512}
                for part in ("dVAE bottleneck", "softmax over 256 levels")]

    def label(self) -> str:
        return f"{self.part}, {self.batch} items"

    def contenders(self) -> list[Contender]:
        steps = {"dVAE bottleneck": lambda: dvae(self.batch, self.k),
                 "softmax over 256 levels": lambda: softmax(self.batch)}

        def kept() -> Run:
            if not keep_freed_memory():
                raise RuntimeError("this C library has no such setting")
            return steps[self.part]()

        return [Contender("kept", kept), Contender("given back", steps[self.part], rival=True)]

    def floor(self) -> Floor:
        # Forward reads the logits and writes their softmax, backward reads it and writes the logits' gradient; 4 bytes.
        logits = self.batch * (64 * 10 * self.k if self.part == "dVAE bottleneck" else 32 * 32 * 3 * 256)
        return Floor(bytes=4 * 4.0 * logits)


def dvae(batch: int, k: int) -> Callable[[], None]:
    """Forward and backward through the bottleneck."""
    bottleneck = Gumbel(num_codes=k, dim=160, num_codebooks=10)
    z = torch.randn(batch, bottleneck.in_dim, 8, 8, requires_grad=True)

    def step() -> None:
        latent = bottleneck(z, step=0)
        (latent.z_q.square().sum() + latent.rate_nats.sum()).backward()

    return step


def softmax(batch: int) -> Callable[[], None]:
    """Forward and backward through the likelihood."""
    likelihood = Categorical()
    params = torch.randn(batch, 3 * 256, 32, 32).to(memory_format=torch.channels_last).requires_grad_()
    x = torch.randint(256, (batch, 3, 32, 32), dtype=torch.uint8)
    return lambda: likelihood.objective(params, x).sum().backward()
