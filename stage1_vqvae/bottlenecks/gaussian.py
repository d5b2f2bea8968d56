"""The variational autoencoder: Gaussian latents.

Kingma and Welling, "Auto-Encoding Variational Bayes" (arXiv 1312.6114): q(z | x) = N(mean, variance), independent
dimensions, p(z) = N(0, I).
"""

import torch
from torch import Tensor
from torch.distributions import Normal

from stage1_vqvae.bottlenecks.base import Bottleneck, Latent
from stage1_vqvae.bottlenecks.posterior import Posterior
from stage1_vqvae.collectives import global_uniforms

LOG_VARIANCES = -30.0, 20.0  # clamped to this range: neither a log-variance nor its exp overflows float32


class Gaussian(Bottleneck):
    """The encoder's 2 dim channels are the means, then the log-variances.

    Without noise, in eval mode, z_q is the mean. The rate is the KL of q in either case: distortion + rate is a bound
    in expectation over the noise, but not at the mean.

    `free_nats` (Kingma et al., arXiv 1606.04934, "free bits", here per example): in training the rate of a latent
    counts as at least this much, so that no latent is pushed below it.
    """

    def __init__(self, dim: int = 64, free_nats: float = 0.0):
        super().__init__(dim, in_dim=2 * dim)
        self.free_nats = free_nats

    def moments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z (b, 2 dim, *grid) -> mean and log-variance (b, dim, *grid), at least float32."""
        self._check(z)
        mean, log_variance = z.to(torch.promote_types(z.dtype, torch.float32)).chunk(2, 1)
        return mean, log_variance.clamp(*LOG_VARIANCES)

    def forward(self, z: Tensor, step: Tensor | int | None = None, uniforms: Tensor | None = None) -> Latent:
        """uniforms (b, dim, *grid)."""
        mean, log_variance = self.moments(z)
        if uniforms is None and self.training:
            uniforms = global_uniforms(*mean.shape, device=z.device)
        z_q = mean if uniforms is None else mean + (log_variance / 2).exp() * normal(uniforms).to(mean.dtype)
        kl = kl_nats(mean, log_variance)
        if self.training and self.free_nats:
            kl = kl.clamp(min=self.free_nats)
        return Latent(z_q=z_q, codes=None, rate_nats=kl.flatten(1).sum(1), loss=mean.new_zeros(()))

    @property
    def validation_draws(self) -> int:
        """The distortion at the mean is no bound: one draw per latent."""
        return self.dim

    @property
    def prior_draws(self) -> int:
        return self.dim

    def from_prior(self, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
        """N(0, temperature^2), float64."""
        return temperature * normal(uniforms)

    def posterior(self, z: Tensor) -> "GaussianPosterior":
        return GaussianPosterior(*self.moments(z))


class GaussianPosterior(Posterior):
    """Samples are z_q itself."""

    def __init__(self, mean: Tensor, log_variance: Tensor):
        """Both (b, dim, *grid)."""
        self.mean, self.deviation = mean.double(), (log_variance.double() / 2).exp()
        self.noise, self.dtype = tuple(mean.shape[1:]), mean.dtype
        self.prior = Normal(self.mean.new_zeros(()), 1.0)

    def icdf(self, value: Tensor) -> Tensor:
        return self.mean + self.deviation * normal(value)

    def log_prob(self, value: Tensor) -> Tensor:
        return Normal(self.mean, self.deviation).log_prob(value)  # type: ignore[no-untyped-call]

    def z_q(self, value: Tensor) -> Tensor:
        return value.to(self.dtype)


def kl_nats(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)), elementwise: appendix B of arXiv 1312.6114."""
    return (mean.square() + torch.expm1(log_variance) - log_variance) / 2


def normal(uniforms: Tensor) -> Tensor:
    """Uniforms float64 in [0, 1) -> standard normal draws; 0, which has no quantile, counts as half the next number."""
    return torch.special.ndtri(uniforms.clamp(min=2.0**-54))
