"""Lower bounds of log p(x) in nats, example by example, in float64.

They bound a probability mass where p(x | z) is a mass, as every likelihood's nll_nats is. The caller divides by the
dimensions and log 2. With codes that are a function of x, as in VQ-VAE, q is 1 and the bound log p(x | z) + log p(z).

Axes: b examples, k samples of the posterior of each, *latent axes of one example's latents.
"""

import math
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor


class Density(Protocol):
    """The interface of a prior."""

    def log_prob(self, value: Tensor) -> Tensor:
        """z (b, *latent) -> (b, ...), terms to be summed: one per element, or the total (b,)."""


class Distribution(Density, Protocol):
    """The interface of a posterior, e.g. torch.distributions.Normal."""

    def icdf(self, value: Tensor) -> Tensor:
        """Uniforms (b, *latent) -> a sample z of the same shape."""


def elbo(log_px_z: Tensor, log_pz: Tensor, log_qz: Tensor) -> Tensor:
    """log p(x | z) + log p(z) - log q(z | x), all of one shape.

    With z drawn from q an unbiased estimate of the evidence lower bound (Kingma and Welling, arXiv 1312.6114, equation
    2), and the logarithm of an importance weight."""
    return log_px_z.double() + log_pz.double() - log_qz.double()


def iwae(log_w: Tensor) -> Tensor:
    """Log weights (k, b) -> (b,) log of the mean weight (Burda et al., arXiv 1509.00519, equation 8).

    In expectation it rises with k from the ELBO towards log p(x). VIMCO's multi-sample bound (Mnih and
    Rezende, arXiv 1602.06725, equation 4) is the same number."""
    return torch.logsumexp(log_w.double(), dim=0) - math.log(len(log_w))


@torch.no_grad()
def log_weights(
    log_likelihood: Callable[[Tensor], Tensor], posterior: Distribution, prior: Density, uniforms: Iterable[Tensor]
) -> Tensor:
    """(k, b) float64: `elbo` of k samples of the posterior, one per element of `uniforms`, each (b, *latent) float64 in
    [0, 1).

    log_likelihood: z (b, *latent) float64 -> log p(x | z) (b,). The posterior's parameters should be float64 too.
    The mean over k estimates the ELBO, `iwae` of the first j rows the bound with j samples. Samples are decoded one
    after another: with a generator of uniforms, memory does not grow with k. With an autoencoder:

        log_likelihood = lambda z: -likelihood.nll_nats(decoder(z.float()), x)
    """
    rows = []
    for u in uniforms:
        if u.dtype != torch.float64:
            raise ValueError(f"uniforms: expected dtype torch.float64, found {u.dtype}")
        z = posterior.icdf(u.clamp(min=2**-54))  # a Normal gives -inf at 0: half the smallest other draw instead
        rows.append(elbo(log_likelihood(z), _total(prior.log_prob(z)), _total(posterior.log_prob(z))))
    return torch.stack(rows)


def mean_and_standard_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values (n,), independent -> their mean () and the mean's standard error (), float64."""
    if len(values) < 2:
        raise ValueError(f"expected at least two values for a standard error, found {len(values)}")
    values = values.double()
    return values.mean(), values.std() / math.sqrt(len(values))


def _total(terms: Tensor) -> Tensor:
    """(b, ...) -> (b,)."""
    return terms.reshape(len(terms), -1).sum(1)
