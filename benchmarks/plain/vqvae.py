"""VQ-VAEs as public code has them, all with the layers that stage 1 has: see `Widths`.

`PlainVQVAE` is the quantiser of most ports of that example: distances to all codes, one-hot rows, a product with the
codebook, moving averages. The others replace it by the package's own. Images are float32 (b, c, h, w) in [-0.5, 0.5].
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Widths(NamedTuple):
    """Units of the layers. `mixing`: a 3x3 convolution before the residual blocks, and as the decoder's first."""

    hidden: int
    outer: int
    residual: int
    mixing: bool


COMPACT = Widths(128, 64, 32, True)  # Sonnet's CIFAR-10 example (vqvae_example.ipynb)
PAPER = Widths(256, 256, 256, False)  # arXiv 1711.00937, section 4.1
BLOCKS = 2


class Residual(nn.Module):
    def __init__(self, hidden: int, residual: int) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.ReLU(), nn.Conv2d(hidden, residual, 3, padding=1), nn.ReLU(),
                                   nn.Conv2d(residual, hidden, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


def encoder(channels: int, dim: int, widths: Widths) -> nn.Sequential:
    hidden, outer, residual, mixing = widths
    return nn.Sequential(
        nn.Conv2d(channels, outer, 4, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(outer, hidden, 4, stride=2, padding=1), nn.ReLU(),
        *[nn.Conv2d(hidden, hidden, 3, padding=1)] * mixing,
        *(Residual(hidden, residual) for _ in range(BLOCKS)), nn.ReLU(), nn.Conv2d(hidden, dim, 1))


def decoder(channels: int, dim: int, widths: Widths) -> nn.Sequential:
    hidden, outer, residual, mixing = widths
    return nn.Sequential(
        nn.Conv2d(dim, hidden, 3, padding=1) if mixing else nn.Conv2d(dim, hidden, 1),
        *(Residual(hidden, residual) for _ in range(BLOCKS)), nn.ReLU(),
        nn.ConvTranspose2d(hidden, outer, 4, stride=2, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(outer, channels, 4, stride=2, padding=1))


class OneHotEMA(nn.Module):
    """(b, h, w, d) -> quantised, the commitment loss."""

    def __init__(self, k: int, d: int, decay: float = 0.99, commitment: float = 0.25, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.decay, self.commitment, self.epsilon = decay, commitment, epsilon
        self.embedding = nn.Embedding(k, d)
        self.embedding.weight.data.normal_()
        self.embedding.weight.requires_grad_(False)
        self.register_buffer("count", torch.zeros(k))
        self.register_buffer("total", self.embedding.weight.data.clone())

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        flat = z.reshape(-1, z.shape[-1])
        weight = self.embedding.weight
        distances = flat.pow(2).sum(1, keepdim=True) + weight.pow(2).sum(1) - 2 * flat @ weight.t()
        indices = distances.argmin(1)
        encodings = torch.zeros(len(flat), len(weight), device=z.device)
        encodings.scatter_(1, indices[:, None], 1)
        quantized = (encodings @ weight).view_as(z)
        if self.training:
            self.count = self.count * self.decay + (1 - self.decay) * encodings.sum(0)
            n = self.count.sum()
            self.count = (self.count + self.epsilon) / (n + len(weight) * self.epsilon) * n
            self.total = self.total * self.decay + (1 - self.decay) * encodings.t() @ flat.detach()
            self.embedding.weight.data = self.total / self.count[:, None]
        loss = self.commitment * F.mse_loss(quantized.detach(), z)
        return z + (quantized - z).detach(), loss


class PlainVQVAE(nn.Module):
    """Images -> (reconstruction, loss of the quantiser)."""

    def __init__(self, channels: int, k: int, d: int, widths: Widths) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder(channels, d, widths), decoder(channels, d, widths)
        self.quantizer = OneHotEMA(k, d)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        quantized, loss = self.quantizer(self.encoder(x).permute(0, 2, 3, 1).contiguous())
        return self.decoder(quantized.permute(0, 3, 1, 2).contiguous()), loss

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Codes int64 (b, h, w)."""
        z = self.encoder(x).permute(0, 2, 3, 1)
        flat, weight = z.reshape(-1, z.shape[-1]), self.quantizer.embedding.weight
        distances = flat.pow(2).sum(1, keepdim=True) + weight.pow(2).sum(1) - 2 * flat @ weight.t()
        return distances.argmin(1).view(z.shape[:3])


class LucidrainsVQVAE(nn.Module):
    """With the quantiser of vector-quantize-pytorch, as its README builds an autoencoder."""

    def __init__(self, channels: int, k: int, d: int, widths: Widths) -> None:
        from vector_quantize_pytorch import VectorQuantize

        super().__init__()
        self.encoder, self.decoder = encoder(channels, d, widths), decoder(channels, d, widths)
        self.quantizer = VectorQuantize(d, k, decay=0.99, commitment_weight=0.25, accept_image_fmap=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        quantized, _, loss = self.quantizer(self.encoder(x))
        return self.decoder(quantized), loss.sum()


def pythae_vqvae(channels: int, size: int, k: int, d: int, widths: Widths) -> nn.Module:
    """pythae's VQVAE with moving averages, around the same layers: {"data": images} -> an output with .loss."""
    from pythae.models import VQVAE, VQVAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = encoder(channels, d, widths)

        def forward(self, x: Tensor) -> Any:
            return ModelOutput(embedding=self.layers(x))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = decoder(channels, d, widths)

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.layers(z))

    config = VQVAEConfig(input_dim=(channels, size, size), latent_dim=d, num_embeddings=k, use_ema=True, decay=0.99)
    return VQVAE(config, Encoder(), Decoder())


def pythae_quantizer(k: int, d: int) -> nn.Module:
    """pythae's QuantizerEMA alone: (b, h, w, d) -> .quantized_vector (b, d, h, w), .loss."""
    from pythae.models import VQVAEConfig
    from pythae.models.vq_vae.vq_vae_utils import QuantizerEMA

    config = VQVAEConfig(input_dim=(1, 1, 1), latent_dim=d, num_embeddings=k, use_ema=True, decay=0.99)
    config.embedding_dim = d
    return QuantizerEMA(config)
