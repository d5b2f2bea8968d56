"""Bounds of log p(x) from samples of q(latents | x), and whether the decoder uses its latents.

The noise of an item is a function of (seed, its number): its sample j is the same among 5 as among 50, in any batch.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipelines.evaluation.measured import Measured, shared_batches
from pipelines.metrics.squares import squared_errors
from pipelines.runs.store import TrainedStage
from pipelines.splits.base import Batch, Split, columns_of
from pipelines.splits.counters import permutation
from pipelines.splits.noise import draws, generator
from stage1_vqvae.autoencoder import Autoencoder
from stage1_vqvae.autoregressive import AutoregressiveDecoder
from stage1_vqvae.bounds import iwae, log_weights, mean_and_standard_error
from stage1_vqvae.precision import full_float32

SHOWN = 32  # items whose reconstructions from drawn latents are kept


@dataclass(frozen=True)
class Sampled:
    """Figures of k posterior samples of each of n items, (n,) float64, in nats but for the last."""

    nll_nats: Tensor  # the mean of -log p(x | z)
    elbo: Tensor
    multi_sample: Tensor  # of all k
    squares: Tensor | None  # mean squared error of the first sample's reconstruction; None with autoregressive decoders
    drawn: Tensor | None  # (m, *shape) these reconstructions of the first items, in data units


@torch.no_grad()
@full_float32()
def sample_posterior(stage1: TrainedStage, split: Split, samples: int, batch_size: int, seed: int) -> Sampled | None:
    """None where the posterior is a single point, or without samples."""
    model, columns = stage1.module, stage1.decoder_columns
    if not samples or model.bottleneck.posterior(model.embed(split.batch(torch.arange(1)).x)) is None:
        return None

    @torch.no_grad()
    def of_batch(start: int, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor | None]:
        labels = columns_of(batch.labels, columns)
        posterior = model.bottleneck.posterior(model.embed(batch.x))
        nll: list[Tensor] = []
        squares: Tensor | None = None
        drawn: Tensor | None = None

        def log_likelihood(z: Tensor) -> Tensor:
            nonlocal squares, drawn
            if not nll and not isinstance(model.decoder, AutoregressiveDecoder):
                made = model.decode_latent(posterior.z_q(z), labels)
                squares = squared_errors(made, batch.x).cpu()
                drawn = made[: max(0, SHOWN - start)].cpu()
            nll.append(model.nll_nats(batch.x, posterior.z_q(z), labels))
            return -nll[-1]

        own = [generator(seed, start + place) for place in range(len(batch.x))]
        noise = (draws(own, *posterior.noise).to(batch.x.device) for _ in range(samples))
        log_w = log_weights(log_likelihood, posterior, posterior.prior, noise)
        return torch.stack([torch.stack(nll).mean(0), log_w.mean(0), iwae(log_w)]).cpu(), squares, drawn

    bounds, *shown = zip(*shared_batches(split, batch_size, "posterior", of_batch), strict=True)
    squares, drawn = (None if part[0] is None else torch.cat(part) for part in shown)
    nll_nats, elbo, multi_sample = torch.cat(bounds, 1)
    return Sampled(nll_nats, elbo, multi_sample, squares, drawn)


def bounds(sampled: Sampled, sizes: Tensor, samples: int, variance: float | None) -> dict:
    """Upper bounds of -log2 p(x) per data dimension, and the KL of q to the training prior in bits per example, which
    is the rate that the ELBO pays; the NMSE of reconstructions from drawn latents, which `metrics/nmse.py` has for
    reconstructions without noise. sizes (n,): data dimensions of each item; variance: of the training data, None if
    none is known."""
    figures: dict = {"kl_bits": float((-sampled.nll_nats - sampled.elbo).mean()) / math.log(2), "nmse_drawn": None}
    if sampled.squares is not None and variance is not None:
        figures["nmse_drawn"] = float(sampled.squares.mean()) / variance
    for name in ("elbo", "multi_sample"):
        value, error = mean_and_error(-getattr(sampled, name) / (sizes * math.log(2)))
        figures[name] = {"bits_per_dim": value, "standard_error": error}
    return {"samples": samples, **figures}


@torch.no_grad()
def others_nats(stage1: TrainedStage, split: Split, batch_size: int, seed: int) -> Tensor | None:
    """-log p(x | z_q) (n,) with each item's latents replaced by those of another item; None unless the decoder is
    autoregressive: such a decoder could ignore its latents, whatever their rate."""
    if not isinstance(stage1.module.decoder, AutoregressiveDecoder):
        return None
    model, columns = stage1.module, stage1.decoder_columns
    order = permutation(len(split), seed)
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)

    def of_batch(start: int, batch: Batch) -> Tensor:
        numbers = other[start : start + len(batch.x)]
        z_q = latents_of(model, split.batch(torch.from_numpy(numbers)).x, numbers, seed)
        labels = columns_of(batch.labels, columns)
        return model.nll_nats(batch.x, z_q, labels, batch.lengths).cpu()

    return torch.cat(list(shared_batches(split, batch_size, "others' latents", of_batch)))


def shuffled(measured: Measured) -> dict | None:
    """The distortion with shuffled latents, and how many nats per example the right ones save."""
    others = measured.others_nats
    if others is None:
        return None
    return {"distortion_shuffled": float(others.sum() / measured.sizes.sum()) / math.log(2),
            **saved(others, measured.nll_nats)}


def saved(without: Tensor, given: Tensor) -> dict:
    """Nats of each item (n,) without and with some information -> the mean number of nats that it saves, and the
    standard error of the paired difference."""
    nats, error = mean_and_error(without - given)
    return {"nats_saved": nats, "standard_error": error}


def mean_and_error(values: Tensor) -> tuple[float, float | None]:
    """The mean of values (n,) and its standard error; None for a single value."""
    if len(values) < 2:
        return float(values.double().mean()), None
    value, error = mean_and_standard_error(values)
    return float(value), float(error)


@full_float32()
def latents_of(model: Autoencoder, x: Tensor, numbers: np.ndarray, seed: int) -> Tensor:
    """z_q (b, dim, *grid) as in the distortion: for Gaussian latents each item's first sample, else without noise."""
    z_e = model.embed(x)
    if not model.bottleneck.validation_draws:
        return model.bottleneck(z_e).z_q
    posterior = model.bottleneck.posterior(z_e)
    noise = draws([generator(seed, int(number)) for number in numbers], *posterior.noise)
    return posterior.z_q(posterior.icdf(noise.to(x.device)))
