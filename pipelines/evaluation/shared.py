"""Figures of a run on any kind of data: bits per dimension, use of the codebook, the prior's bits, loss curves."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pipelines.data.codes import CodeSplit
from pipelines.evaluation.bounds import bounds, others_nats, sample_posterior, shuffled
from pipelines.evaluation.file_bytes import file_bytes
from pipelines.evaluation.measured import Measured, Subject, measure, shared_batches, uses
from pipelines.evaluation.table import each
from pipelines.media import plots
from pipelines.metrics.ngrams import Pieces, ngram_bits
from pipelines.runs.store import TrainedStage
from pipelines.splits.base import Batch, columns_of
from pipelines.splits.lengths import conditioning
from pipelines.splits.order import spread
from pipelines.training.log import read_metrics
from stage1_vqvae.bottlenecks.base import Bottleneck
from stage1_vqvae.codebook import perplexity


def measure_shared(subject: Subject) -> tuple[Measured, dict]:
    """The figures that every kind of data has, under the keys of metrics.json."""
    stage1, split, options, seed = subject.loaded.stage1, subject.split, subject.options, subject.seed
    bottleneck, batch_size = stage1.module.bottleneck, options.batch_size
    codes = None if subject.loaded.stage2 is None else subject.codes  # refused before anything is measured
    shuffled_nats = others_nats(stage1, split, batch_size, seed)
    measured = replace(measure(stage1, split, batch_size, seed), others_nats=shuffled_nats)
    noisy = bottleneck.validation_draws > 0  # the distortion without noise is not part of a bound
    samples = max(options.bound_samples, 1) if noisy else options.bound_samples
    sampled = sample_posterior(stage1, split, samples, batch_size, seed)
    if noisy:
        measured = replace(measured, nll_nats=sampled.nll_nats)
    figures = own_figures(measured, bottleneck)
    if sampled:
        measured = replace(measured, drawn=sampled.drawn)
    bounded = sampled and options.bound_samples
    figures["bounds"] = bounds(sampled, measured.sizes, samples, subject.data.variance) if bounded else None
    figures["latents"]["shuffled"] = shuffled(measured)
    if codes is not None:
        add_prior(figures, measured, subject, codes)
    figures["files"] = None if codes is None else file_bytes(subject)
    return measured, figures


def own_figures(measured: Measured, bottleneck: Bottleneck) -> dict:
    """Distortion and rate in bits per data dimension, use of latents and codebooks; the prior's figures are still
    None."""
    bits, normal = float(measured.sizes.sum()) * math.log(2), bottleneck.validation_draws > 0
    distortion, rate = float(measured.nll_nats.sum()) / bits, float(measured.rate_nats.sum()) / bits
    uniform, codes = measured.codes is not None, None
    latents = {"dims": measured.positions * bottleneck.dim, "bits": None, "bits_unigram": None, "bits_prior": None,
               "mean_norm": float(measured.norms[measured.real].mean())}
    if uniform or normal:
        latents["bits"] = float(measured.rate_nats.mean()) / math.log(2)
    if uniform:
        counts = uses(measured, bottleneck.num_codes)
        effective = perplexity(counts)
        latents |= {"dims": measured.positions * bottleneck.num_codebooks,
                    "bits_unigram": measured.positions * float(effective.log2().sum())}
        codes = {"perplexity": each(effective), "used": each((counts > 0).sum(1)), "num_codes": bottleneck.num_codes,
                 "codes_per_example": latents["dims"],
                 "unigram_bits": None, "bigram_bits": None, "prior_bits": None, "prior_bits_train": None}
    return {
        "bits_per_dim": {"distortion": distortion,
                         "rate_uniform": rate if uniform else None, "rate_prior": None,
                         "total_uniform": distortion + rate if uniform else None, "total_prior": None,
                         "rate_normal": rate if normal else None,
                         "total_normal": distortion + rate if normal else None},
        "codes": codes,
        "latents": latents,
    }


def add_prior(figures: dict, measured: Measured, subject: Subject, splits: dict[str, CodeSplit]) -> None:
    """The prior's bits per code on the split and on as many training items, beside unigram and bigram bits, and the
    rate."""
    num_codes, parts = figures["codes"]["num_codes"], [splits["train"], splits[subject.split_name]]
    unigram, bigram = ngram_bits(code_pieces(parts[0]), len(parts[0]), code_pieces(parts[1]), num_codes)
    trained, held_out = (prior_bits(subject.loaded.stage2, split.to(subject.device), spread(len(parts[1]), len(split)),
                                    subject.options.batch_size) for split in parts)
    figures["codes"] |= {
        "unigram_bits": each(unigram),
        "bigram_bits": each(bigram),
        "prior_bits": each(held_out),
        "prior_bits_train": each(trained),
    }
    figures["latents"]["bits_prior"] = float(held_out.sum()) * measured.positions
    rate = figures["latents"]["bits_prior"] * len(measured.sizes) / float(measured.sizes.sum())
    distortion = figures["bits_per_dim"]["distortion"]
    figures["bits_per_dim"] |= {"rate_prior": rate, "total_prior": distortion + rate}


def code_pieces(split: CodeSplit) -> Pieces:
    """Codes (n, t, g) of a split, and which positions (n, t) are not padding, some items at a time."""
    def pieces() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in split.evaluation_batches():
            codes = batch.x.cpu().reshape(len(batch.x), -1, split.num_codebooks)
            whole = torch.full((len(codes),), codes.shape[1]) if batch.lengths is None else batch.lengths.cpu()
            yield codes, torch.arange(codes.shape[1]) < whole[:, None]
    return pieces


@torch.no_grad()
def prior_bits(stage2: TrainedStage, split: CodeSplit, items: Tensor, batch_size: int) -> Tensor:
    """Bits per code of each codebook (g,) float64 over these items, padding excluded."""
    columns = stage2.prior_columns

    def of_batch(_: int, batch: Batch) -> tuple[Tensor, int]:
        labels = columns_of(batch.labels, columns)
        lengths = batch.lengths if stage2.condition_on_length else None
        nats = stage2.module.code_nats(batch.x, labels, conditioning(batch.local, lengths, batch.x.shape[1])).double()
        nats = nats.reshape(len(nats), -1, split.num_codebooks)
        if batch.lengths is not None:
            nats = nats * (torch.arange(nats.shape[1], device=nats.device) < batch.lengths[:, None])[..., None]
        count = nats.shape[0] * nats.shape[1] if batch.lengths is None else int(batch.lengths.sum())
        return nats.sum((0, 1)).cpu(), count

    totals, counts = zip(*shared_batches(split, batch_size, "prior", of_batch, items), strict=True)
    return sum(totals) / (sum(counts) * math.log(2))


def draw_training(measured: Measured, subject: Subject) -> dict[str, Path]:
    """Loss curves and, where there are codes, a plot of the codebook's use."""
    run, stage1 = subject.run, subject.loaded.stage1
    paths = {"loss curves": run.figures / "loss_curves.png"}
    plots.plot_curves(paths["loss curves"], {"stage 1": read_metrics(run.stage1 / "metrics.jsonl"),
                                             "stage 2": read_metrics(run.stage2 / "metrics.jsonl")})
    if measured.codes is not None:
        paths["use of the codebook"] = run.figures / "codebook_use.png"
        plots.plot_codebook_use(paths["use of the codebook"], uses(measured, stage1.module.bottleneck.num_codes))
    return paths
