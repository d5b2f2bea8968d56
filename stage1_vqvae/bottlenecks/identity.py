"""No bottleneck: an autoencoder."""

from torch import Tensor

from stage1_vqvae.bottlenecks.base import Bottleneck, Latent


class Identity(Bottleneck):
    """z_q is z. Without a prior there is no bound and nothing to sample from: the rate is 0."""

    rate_is_constant = True

    def __init__(self, dim: int = 64):
        super().__init__(dim)

    def forward(self, z: Tensor, step: Tensor | int | None = None, uniforms: Tensor | None = None) -> Latent:
        self._check(z)
        return Latent(z_q=z, codes=None, rate_nats=z.new_zeros(len(z)), loss=z.new_zeros(()))
