"""A training step of stage 1, against public VQ-VAEs of the same layers: of Sonnet's CIFAR-10 example, of the paper."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.plain.vqvae import BLOCKS, COMPACT, PAPER, LucidrainsVQVAE, PlainVQVAE, Widths, pythae_vqvae
from benchmarks.training import OwnSteps, TrainingStep, plain_steps, product_dtype, settings
from benchmarks.work import Contender, Floor, Run, Sizes
from pipelines.data.images import ImageSplit
from pipelines.training.autoencoder import AutoencoderTask
from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.bottlenecks.vq import EMAQuantizer
from stage1_vqvae.image import ImageDecoder, ImageEncoder
from stage1_vqvae.likelihoods.gaussian import Gaussian

CHANNELS, D = 3, 64
NETWORKS = {"compact": COMPACT, "paper": PAPER}  # configs/autoencoder/
ITEMS = 2048


def images(size: int, count: int, device: torch.device) -> Tensor:
    """uint8 (count, 3, size, size): noise about smooth random colours, which keeps many codes in use."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, CHANNELS, 4, 4, generator=generator)
    smooth = F.interpolate(coarse, size=(size, size), mode="bilinear")
    return ((smooth + 0.1 * torch.rand(smooth.shape, generator=generator)) * 231).to(torch.uint8).to(device)


def autoencoder(k: int, widths: Widths) -> Autoencoder:
    """configs/autoencoder/compact.yaml or paper.yaml for images of three channels."""
    layers: dict[str, Any] = dict(
        hidden=widths.hidden, outer_hidden=widths.outer, residual_hidden=widths.residual, num_residual_blocks=BLOCKS,
        num_downsamplings=2, mixing_convolution=widths.mixing)
    return Autoencoder(ImageEncoder(CHANNELS, D, **layers), EMAQuantizer(k, D), ImageDecoder(CHANNELS, D, **layers),
                       Gaussian(variance=2500.0))


def encoder_macs(size: int, widths: Widths) -> float:
    """Multiply-accumulates per image. A strided 4x4 convolution quarters the positions; blocks of 3x3 and 1x1."""
    hidden, outer, residual, mixing = widths
    half, quarter = (size / 2) ** 2, (size / 4) ** 2
    blocks = BLOCKS * 10 * hidden * residual
    return half * 16 * CHANNELS * outer + quarter * (
        16 * outer * hidden + 9 * hidden**2 * mixing + blocks + hidden * D)


def decoder_macs(size: int, widths: Widths) -> float:
    """The mirror image; a transposed 4x4 convolution of stride 2 has 4 taps per output position."""
    hidden, outer, residual, mixing = widths
    half, quarter = (size / 2) ** 2, (size / 4) ** 2
    first = (9 if mixing else 1) * D * hidden
    return quarter * (first + BLOCKS * 10 * hidden * residual) + half * 4 * hidden * outer + size**2 * (
        4 * outer * CHANNELS)


@dataclass(frozen=True, kw_only=True)
class Stage1Step(TrainingStep):
    title = "stage-1 training step"
    batch: int
    size: int
    network: str
    k: int

    @classmethod
    def sizes(cls, quick: bool, long: bool) -> Iterable[Sizes]:
        if quick:
            return [{"batch": 4, "size": 8, "network": "compact", "k": 16}]
        return [{"batch": batch, "size": 32, "network": network, "k": 512}
                for network in NETWORKS for batch in (32, 128)]

    def label(self) -> str:
        return f"{self.batch} images of {self.size}x{self.size}, {self.network} network, K = {self.k}"

    def contenders(self) -> list[Contender]:
        widths = NETWORKS[self.network]
        count = max(self.batch, min(ITEMS, ITEMS * 32**2 // self.size**2))

        def own(precision: str) -> Run:
            x = images(self.size, count, torch.device("cpu"))
            split = ImageSplit(x, torch.zeros(count, 0, dtype=torch.int64), size=(self.size, self.size))
            task = AutoencoderTask(autoencoder(self.k, widths), [], lambda *_, **__: None)
            return OwnSteps(task, {"train": split, "validation": split}, settings("stage1", self.batch, precision),
                            self.device)

        def plain(model: nn.Module) -> Run:
            def loss(model: nn.Module, x: Tensor) -> Tensor:
                x = x.float() / 255 - 0.5
                reconstruction, quantiser_loss = model(x)
                return F.mse_loss(reconstruction, x) / 0.06 + quantiser_loss

            return plain_steps(model.to(self.device), loss, images(self.size, count, self.device), self.batch, 3e-4)

        def pythae() -> Run:
            return plain_steps(pythae_vqvae(CHANNELS, self.size, self.k, D, widths).to(self.device),
                               lambda model, x: model({"data": x.float() / 255 - 0.5}).loss,
                               images(self.size, count, self.device), self.batch, 3e-4)

        return [
            Contender("the loop, precision auto", lambda: own("auto")),
            Contender("the loop, float32", lambda: own("float32")),
            Contender("vector-quantize-pytorch, same layers",
                      lambda: plain(LucidrainsVQVAE(CHANNELS, self.k, D, widths)), rival=True,
                      needs="vector_quantize_pytorch"),
            Contender("pythae VQVAE, same layers", pythae, rival=True, needs="pythae"),
            Contender("plain port, one-hot rows", lambda: plain(PlainVQVAE(CHANNELS, self.k, D, widths)), rival=True),
        ]

    def floor(self) -> Floor:
        # Forward, and backward to inputs and to weights: three times the multiply-accumulates of the convolutions, less
        # the gradient of the images; the search's scores once. All at the rate of the type that the loop multiplies in.
        widths = NETWORKS[self.network]
        first = (self.size / 2) ** 2 * 16 * CHANNELS * widths.outer
        macs = 3 * (encoder_macs(self.size, widths) + decoder_macs(self.size, widths)) - first
        macs += (self.size / 4) ** 2 * self.k * D
        return Floor(flops=2 * self.batch * macs, dtype=product_dtype(self.device))
