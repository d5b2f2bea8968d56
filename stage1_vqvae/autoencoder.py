"""The first stage: encoder, bottleneck, decoder and likelihood, from data units to data units.

van den Oord, Vinyals, Kavukcuoglu, "Neural Discrete Representation Learning" (arXiv 1711.00937), equation 3, with the
rate of a variational bound in addition: constant (log K per code) where the prior of the codes is uniform, as in the
paper.

Axes: b batch, c channels, *grid positions.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stage1_vqvae.autoregressive import AutoregressiveDecoder
from stage1_vqvae.bottlenecks.base import Bottleneck, Latent, Quantizer
from stage1_vqvae.guided import GuidedDecoder, Prediction
from stage1_vqvae.likelihoods.base import Likelihood
from stage1_vqvae.likelihoods.categorical import Categorical
from stage1_vqvae.precision import full_float32
from stage1_vqvae.schedules import progress


@dataclass(frozen=True)
class Output:
    """The result of a forward pass in training."""

    loss: Tensor  # () the training loss: mean of bound, plus auxiliary
    objective: Tensor  # (b,) of the likelihood, per data dimension: with a Gaussian of given variance the NMSE
    bound: Tensor  # (b,) objective + beta rate / data dimensions; for several samples their multi-sample bound
    auxiliary: Tensor  # () losses of the latent and of a decoder's guide
    z_e: Tensor  # (b, in_dim, *grid) the bottleneck's input
    latent: Latent
    params: Tensor  # (rows of z_q, c * params_per_value, *grid) the decoder's output


@dataclass(frozen=True)
class Evaluation:
    """The result of an exact evaluation."""

    nll_nats: Tensor  # (b,) float64, -log p(x | z_q): the distortion of the bound nll + rate
    value_nats: Tensor  # (b, c, *grid) float64, the same of each value, padding included
    rate_nats: Tensor  # (b,) float64
    z_e: Tensor  # (b, in_dim, *grid) the bottleneck's input
    latent: Latent
    reconstruction: Tensor | None  # (b, c, *grid) in data units; None if drawn, without uniforms


class Autoencoder(nn.Module):
    """Data are given and returned in data units (uint8 images, waves in [-1, 1]): scaling lives in the likelihood.

    `beta` is the weight of the rate; it grows linearly from 0 over the first `beta_warmup_steps`.
    `labels` (b, L) int64 condition the decoder; None for an unconditional decoder.
    `lengths` (b,) int64 say how much of the first grid axis is data where items are padded. Padding is excluded from
    loss and metrics, but still updates the codebook: it is silence.
    """

    def __init__(
        self,
        encoder: nn.Module,
        bottleneck: Bottleneck,
        decoder: nn.Module,
        likelihood: Likelihood,
        beta: float = 1.0,
        beta_warmup_steps: int = 0,
    ):
        super().__init__()
        if isinstance(decoder, AutoregressiveDecoder) and not isinstance(likelihood, Categorical):
            raise ValueError(
                "likelihood: expected one that reads logits of its levels (Categorical, MuLaw, Codes) with an "
                f"autoregressive decoder, found {type(likelihood).__name__}"
            )
        self.encoder = encoder
        self.bottleneck = bottleneck
        self.decoder = decoder
        self.likelihood = likelihood
        self.beta = beta
        self.beta_warmup_steps = beta_warmup_steps

    def forward(
        self,
        x: Tensor,
        labels: Tensor | None = None,
        step: Tensor | int | None = None,
        uniforms: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Output:
        """x (b, c, *grid) in data units -> the loss and its terms. uniforms: the noise of the bottleneck."""
        z_e = self.embed(x)
        latent = self.bottleneck(z_e, step, uniforms)
        samples = len(latent.z_q) // len(x)
        if samples > 1:
            x = x.repeat_interleave(samples, 0)
            labels = None if labels is None else labels.repeat_interleave(samples, 0)
        prediction = self._predict(latent.z_q, x, labels)
        dimensions = x[0].numel() if lengths is None else lengths * x[0, :, 0].numel()
        objective = self.likelihood.objective(prediction.params, x, lengths) / dimensions
        costs = objective + self._beta(step) / dimensions * self._counted_rate(latent, x, lengths)
        bound = latent.bound(costs, dimensions)
        auxiliary = latent.loss + prediction.loss
        objective = objective.view(-1, samples).mean(1)
        return Output(bound.mean() + auxiliary, objective, bound, auxiliary, z_e, latent, prediction.params)

    def _beta(self, step: Tensor | int | None) -> Tensor | float:
        return self.beta * progress(step, self.beta_warmup_steps)

    def embed(self, x: Tensor) -> Tensor:
        """x in data units -> z_e (b, in_dim, *grid), the bottleneck's input."""
        return self.encoder(self.likelihood.to_network(x))

    @torch.no_grad()
    def evaluate(
        self,
        x: Tensor,
        labels: Tensor | None = None,
        uniforms: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Evaluation:
        """Exact figures per example, in eval mode: nothing is learned. uniforms: as for `decode`."""
        with self._evaluating():
            z_e = self.embed(x)
            latent = self.bottleneck(z_e)
            params = self._predict(latent.z_q, x, labels).params
            drawn = isinstance(self.decoder, AutoregressiveDecoder)
            value_nats = self.likelihood.value_nats(params, x)
            return Evaluation(
                nll_nats=self.likelihood.counted(value_nats, lengths),
                value_nats=value_nats,
                rate_nats=self._counted_rate(latent, x, lengths).double(),
                z_e=z_e,
                latent=latent,
                reconstruction=None if drawn and uniforms is None else self._reconstruct(latent.z_q, labels, uniforms),
            )

    @torch.no_grad()
    def nll_nats(
        self, x: Tensor, z_q: Tensor, labels: Tensor | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """Exact -log p(x | z_q) (b,) float64, in eval mode, for any z_q (b, dim, *grid)."""
        with self._evaluating():
            return self.likelihood.nll_nats(self._predict(z_q, x, labels).params, x, lengths)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """x in data units -> codes (b, *grid[, g]) int64, in eval mode."""
        with self._evaluating():
            codes = self.bottleneck(self.embed(x)).codes
        if codes is None:
            raise ValueError(f"expected a bottleneck with codes, found {type(self.bottleneck).__name__}")
        return codes

    @torch.no_grad()
    def embedded(self, x: Tensor) -> Tensor:
        """`embed` in eval mode."""
        with self._evaluating():
            return self.embed(x)

    @torch.no_grad()
    def latents(self, x: Tensor) -> Tensor:
        """x in data units -> z_q (b, dim, *grid) of any bottleneck, in eval mode."""
        with self._evaluating():
            return self.bottleneck(self.embed(x)).z_q

    @torch.no_grad()
    def features(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """codes -> what an autoregressive decoder conditions its data on (b, c, *grid of the data), in eval mode."""
        assert isinstance(self.decoder, AutoregressiveDecoder), type(self.decoder)
        assert isinstance(self.bottleneck, Quantizer), type(self.bottleneck)
        with self._evaluating():
            return self.decoder.features(self.bottleneck.lookup(codes), labels)

    @torch.no_grad()
    def decode(
        self,
        codes: Tensor,
        labels: Tensor | None = None,
        uniforms: Tensor | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """codes (b, *grid[, g]) int64 -> x in data units, in eval mode: the likelihood's mean.

        With an autoregressive decoder its ancestral sample, from uniforms (b, *data grid) float64 in [0, 1), which may
        be shorter in the first axis. progress: called with (positions done, positions in total)."""
        if not isinstance(self.bottleneck, Quantizer):
            raise ValueError(f"expected a bottleneck with codes, found {type(self.bottleneck).__name__}")
        with self._evaluating():
            return self._reconstruct(self.bottleneck.lookup(codes), labels, uniforms, progress)

    @torch.no_grad()
    def decode_latent(self, z_q: Tensor, labels: Tensor | None = None, uniforms: Tensor | None = None) -> Tensor:
        """z_q (b, dim, *grid) of any bottleneck -> x in data units, as `decode`."""
        with self._evaluating():
            return self._reconstruct(z_q, labels, uniforms)

    @torch.no_grad()
    def latent_grid(self, shape: tuple[int, ...], batch: int = 1) -> tuple[int, ...]:
        """The grid of the latents of an example (c, *grid). A batch of 0 computes nothing, if all layers take one."""
        levels = torch.zeros(batch, *shape, dtype=torch.int64, device=self.likelihood.scale.device)
        return self.embed(self.likelihood.from_levels(levels)).shape[2:]

    def _predict(self, z_q: Tensor, x: Tensor, labels: Tensor | None) -> Prediction:
        if isinstance(self.decoder, GuidedDecoder):
            return self.decoder.predict(z_q, labels, self.likelihood.levels(x))
        return Prediction(self.decoder(z_q) if labels is None else self.decoder(z_q, labels), 0.0)

    def _reconstruct(
        self,
        z_q: Tensor,
        labels: Tensor | None,
        uniforms: Tensor | None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        if isinstance(self.decoder, AutoregressiveDecoder):
            if uniforms is None:
                raise ValueError("uniforms: expected some for an autoregressive decoder, found none")
            return self.likelihood.from_levels(self.decoder.sample(z_q, labels, uniforms, progress))
        return self.likelihood.mean(self.decoder(z_q) if labels is None else self.decoder(z_q, labels))

    def _counted_rate(self, latent: Latent, x: Tensor, lengths: Tensor | None) -> Tensor:
        """(b,) the rate of the latents that are not padding: their number is the share of the lengths, rounded up."""
        if lengths is None:
            return latent.rate_nats
        if not self.bottleneck.rate_is_constant:
            name = type(self.bottleneck).__name__
            raise ValueError(f"lengths: expected a bottleneck with the same rate at each position, found {name}")
        positions = latent.z_q.shape[2]
        return latent.rate_nats * (lengths * positions / x.shape[2]).ceil() / positions

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Eval mode and float32 without TF32 within; afterwards each module is in its own mode again."""
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            with full_float32():
                yield
        finally:
            for module in training:
                module.training = True
