"""The first stage: encoder, bottleneck, decoder and likelihood, from data units to data units.

van den Oord, Vinyals, Kavukcuoglu, "Neural Discrete Representation Learning" (arXiv 1711.00937), equation 3, with the
rate term of a variational bound beside it: constant (log K a code) where the codes' prior is uniform, as in the paper.

Axes: b batch, c channels, *grid positions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stage1_vqvae.bottlenecks.base import Bottleneck, Latent, Quantizer
from stage1_vqvae.likelihoods import Likelihood


@dataclass(frozen=True)
class Output:
    """One training forward."""

    loss: Tensor  # () what is minimised: mean of (objective + beta rate / data dimensions), + latent.loss
    objective: Tensor  # (b,) the likelihood's, per data dimension: with a Gaussian of given variance the NMSE
    latent: Latent
    params: Tensor  # the decoder's output: the likelihood's parameters, (b, c * params_per_value, *grid)


@dataclass(frozen=True)
class Evaluation:
    """One exact evaluation."""

    nll_nats: Tensor  # (b,) float64, -log p(x | z_q): the distortion of the bound nll + rate
    latent: Latent
    reconstruction: Tensor  # (b, c, *grid) in data units


class Autoencoder(nn.Module):
    """Data are given and returned in data units (images: uint8): scaling lives in the likelihood.

    `beta` weighs the rate. `labels` and `uniforms` are for conditional and for autoregressive decoders: a feed-forward
    decoder reads neither.
    """

    def __init__(
        self, encoder: nn.Module, bottleneck: Bottleneck, decoder: nn.Module, likelihood: Likelihood, beta: float = 1.0
    ):
        super().__init__()
        self.encoder = encoder
        self.bottleneck = bottleneck
        self.decoder = decoder
        self.likelihood = likelihood
        self.beta = beta

    def forward(
        self,
        x: Tensor,
        labels: Tensor | None = None,
        step: Tensor | int | None = None,
        uniforms: Tensor | None = None,
    ) -> Output:
        """x (b, c, *grid) in data units -> the loss and what it is made of."""
        latent = self.bottleneck(self.embed(x), step, uniforms)
        params = self.decoder(latent.z_q)
        dimensions = x[0].numel()
        objective = self.likelihood.objective(params, x) / dimensions
        loss = (objective + self.beta / dimensions * latent.rate_nats).mean() + latent.loss
        return Output(loss=loss, objective=objective, latent=latent, params=params)

    def embed(self, x: Tensor) -> Tensor:
        """x in data units -> z_e (b, dim, *grid), what the bottleneck reads."""
        return self.encoder(self.likelihood.to_network(x))

    @torch.no_grad()
    def evaluate(self, x: Tensor, labels: Tensor | None = None, uniforms: Tensor | None = None) -> Evaluation:
        """Exact figures of each example, in eval mode: nothing is learned from it."""
        with self._evaluating():
            latent = self.bottleneck(self.embed(x), uniforms=uniforms)
            params = self.decoder(latent.z_q)
            return Evaluation(
                nll_nats=self.likelihood.nll_nats(params, x),
                latent=latent,
                reconstruction=self.likelihood.mean(params),
            )

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """x in data units -> codes (b, *grid[, g]) int64, in eval mode."""
        with self._evaluating():
            codes = self.bottleneck(self.embed(x)).codes
        if codes is None:
            raise ValueError(f"expected a bottleneck with codes, found {type(self.bottleneck).__name__}")
        return codes

    @torch.no_grad()
    def decode(self, codes: Tensor, labels: Tensor | None = None, uniforms: Tensor | None = None) -> Tensor:
        """codes (b, *grid[, g]) int64 -> x in data units: the likelihood's mean, in eval mode."""
        if not isinstance(self.bottleneck, Quantizer):
            raise ValueError(f"expected a bottleneck with codes, found {type(self.bottleneck).__name__}")
        with self._evaluating():
            return self.likelihood.mean(self.decoder(self.bottleneck.lookup(codes)))

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Eval mode within; each module's own mode again after."""
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True
