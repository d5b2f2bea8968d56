"""Measures a run: exact bounds, use of the latents, errors, the prior's bits, and what classifiers of real data make of
its reconstructions and samples.

    python pipelines/evaluate.py experiment=mnist evaluate.split=test

Writes metrics.json and figures/*.png in the run's folder, and prints the table. Needs stage 1; what stage 2 adds is null
where it was not trained.

The bound of codes is log p(x) >= log p(x | z_q(x)) + log p(z_q(x)) (arXiv 1711.00937, section 3.2), its two terms in
bits per data dimension: `distortion`, and `rate` under the uniform prior of training or under the learned one. That of
a VAE is the ELBO: the distortion of samples of its posterior, and `rate_normal`, its KL to N(0, I). An AE has none.
Where the posterior is spread, over codes too, `bounds` has the ELBO and the bound of several samples beside it.
Of codes of another run (data=codes) `frame_nats` says what latents are worth to the decoder, `probe` what they know.
"""

import json
import math
import time
from dataclasses import replace
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from pipelines import code_evaluation, image_evaluation, media, sound_evaluation, video_evaluation
from pipelines.baselines import bigram_bits, unigram_bits
from pipelines.bounds_evaluation import bounds, others_nats, sample_posterior, shuffled
from pipelines.config import build, hydra_main, plain
from pipelines.data.codes import CodeData, CodeSplit
from pipelines.errors import InputError
from pipelines.generate import load_chain
from pipelines.lengths import conditioning
from pipelines.measured import Measured, Subject, batches, measure, spread, uses
from pipelines.runs import TrainedStage, check_same_data, load_stage1, run_of
from pipelines.training.checkpoint import write_atomically
from pipelines.training.distributed import choose_device
from pipelines.training.log import read_metrics
from stage1_vqvae.bottlenecks.base import Bottleneck
from stage1_vqvae.bottlenecks.gaussian import Gaussian
from stage1_vqvae.codebook import perplexity


# What each kind of data has of its own: check(subject), figures(measured, subject, figures so far), rows(result) of the
# table, and draw(measured, subject, result).
KINDS = {"image": image_evaluation, "audio": sound_evaluation, "video": video_evaluation, "codes": code_evaluation}


@hydra_main("stage1")
def main(cfg: DictConfig) -> None:
    start = time.monotonic()
    subject = load_subject(cfg)
    run, stage1, stage2, kind = subject.run, subject.stage1, subject.stage2, KINDS[subject.data.kind]
    for name, least in {"batch_size": 1, "bound_samples": 0, "samples": 0}.items():
        if (found := subject.options[name]) < least:
            raise InputError(f"evaluate.{name}: expected {least} or more, found {found}")
    kind.check(subject)
    measured, figures = measure_shared(subject)
    figures |= kind.figures(measured, subject, figures)
    result = {"run": cfg.run, "data": subject.data.name, "split": subject.split_name, "items": len(subject.split),
              "stage1_step": stage1.state["step"], "stage2_step": stage2 and stage2.state["step"],
              "training_seconds": {"stage1": stage1.state["seconds"], "stage2": stage2 and stage2.state["seconds"]},
              **figures}
    write_atomically(run.root / "metrics.json", (json.dumps(rounded(result), indent=1) + "\n").encode())
    pictures = kind.draw(measured, subject, result) | draw_training(measured, subject)
    print(table(result, kind.rows(result)))
    print("\n".join(f"{title:<34}{path}" for title, path in pictures.items()))
    print(f"measured in {time.monotonic() - start:.0f} s -> {run.root / 'metrics.json'}")


def load_subject(cfg: DictConfig) -> Subject:
    """The run that the configuration names; the test split where the data have one, if none is asked for."""
    run, device, options = run_of(cfg), choose_device(cfg.evaluate.device), cfg.evaluate
    trained_prior = (run.stage2 / "checkpoints").is_dir()
    stage1, stage2 = load_chain(run, device) if trained_prior else (load_stage1(run, device), None)
    data = build(cfg.data)
    check_same_data(run, stage1, data, plain(cfg.data))
    name = options.split or ("test" if "test" in data.splits else "validation")
    return Subject(run, stage1, stage2, data, name, data.split(name).to(device), options, cfg.seed, device)


def measure_shared(subject: Subject) -> tuple[Measured, dict]:
    """What there is to say of a run on whatever data, as `metrics.json` has it."""
    stage1, split, options, seed = subject.stage1, subject.split, subject.options, subject.seed
    bottleneck, batch_size = stage1.module.bottleneck, options.batch_size
    measured = replace(measure(stage1, split, batch_size, seed), others_nats=others_nats(stage1, split, batch_size, seed))
    gaussian = isinstance(bottleneck, Gaussian)
    samples = max(options.bound_samples, 1) if gaussian else options.bound_samples
    sampled = sample_posterior(stage1, split, samples, batch_size, seed)
    if gaussian:  # the distortion of the mean is no part of a bound
        measured = replace(measured, nll_nats=sampled.nll_nats)
    figures = own_figures(measured, bottleneck)
    figures["bounds"] = bounds(sampled, measured.sizes, samples) if sampled and options.bound_samples else None
    figures["latents"]["shuffled"] = shuffled(measured)
    if subject.stage2 is not None:
        add_prior(figures, measured, subject)
    return measured, figures


def own_figures(measured: Measured, bottleneck: Bottleneck) -> dict:
    """Distortion and rate in bits per data dimension, use of latents and codebooks; the prior's part is still null."""
    bits, normal = float(measured.sizes.sum()) * math.log(2), isinstance(bottleneck, Gaussian)
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
                 "codes_an_example": latents["dims"],
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


def add_prior(figures: dict, measured: Measured, subject: Subject) -> None:
    """The prior's bits a code on the split and on as many training items, unigram and bigram beside them, and the rate."""
    data, num_codes = CodeData(subject.run.codes), figures["codes"]["num_codes"]
    splits = [data.split(own) for own in ("train", subject.split_name)]
    codes, real = zip(*(all_codes(split) for split in splits))
    trained, held_out = (prior_bits(subject.stage2, split.to(subject.device), spread(len(splits[1]), len(split)),
                                    subject.options.batch_size) for split in splits)
    figures["codes"] |= {
        "unigram_bits": each(unigram_bits(*codes, num_codes, real)),
        "bigram_bits": each(bigram_bits(*codes, num_codes, real)),
        "prior_bits": each(held_out),
        "prior_bits_train": each(trained),
    }
    figures["latents"]["bits_prior"] = float(held_out.sum()) * measured.positions
    rate = figures["latents"]["bits_prior"] * len(measured.sizes) / float(measured.sizes.sum())
    distortion = figures["bits_per_dim"]["distortion"]
    figures["bits_per_dim"] |= {"rate_prior": rate, "total_prior": distortion + rate}


def all_codes(split: CodeSplit) -> tuple[Tensor, Tensor]:
    """Codes (n, t, g) of a split, and which positions (n, t) are no padding."""
    codes = torch.cat([batch.x.flatten(1).cpu() for batch in split.evaluation_batches()])
    codes = codes.reshape(len(codes), -1, split.num_codebooks)
    whole = torch.full((len(codes),), codes.shape[1]) if split.lengths is None else split.lengths
    return codes, torch.arange(codes.shape[1]) < whole[:, None]


@torch.no_grad()
def prior_bits(stage2: TrainedStage, split: CodeSplit, items: Tensor, batch_size: int) -> Tensor:
    """Bits a code of each codebook (g,) float64, over what is no padding of these items."""
    columns = [stage2.config["codes"]["label_names"].index(name) for name in stage2.config["condition_on"]]
    total, count = 0, 0
    for _, batch in batches(split, batch_size, "prior", items):
        labels = batch.labels[:, columns] if columns else None
        told = batch.lengths if stage2.config.get("condition_on_length") else None
        nats = stage2.module.code_nats(batch.x, labels, conditioning(batch.local, told, batch.x.shape[1])).double()
        nats = nats.reshape(len(nats), -1, split.num_codebooks)
        if batch.lengths is not None:
            nats = nats * (torch.arange(nats.shape[1], device=nats.device) < batch.lengths[:, None])[..., None]
        total = total + nats.sum((0, 1)).cpu()
        count += nats.shape[0] * nats.shape[1] if batch.lengths is None else int(batch.lengths.sum())
    return total / (count * math.log(2))


def draw_training(measured: Measured, subject: Subject) -> dict[str, Path]:
    """Loss curves, and where there is a codebook its use."""
    run, stage1 = subject.run, subject.stage1
    paths = {"loss curves": run.figures / "loss_curves.png"}
    media.plot_curves(paths["loss curves"], {"stage 1": read_metrics(run.stage1 / "metrics.jsonl"),
                                             "stage 2": read_metrics(run.stage2 / "metrics.jsonl")})
    if measured.codes is not None:
        paths["use of the codebook"] = run.figures / "codebook_use.png"
        media.plot_codebook_use(paths["use of the codebook"], uses(measured, stage1.module.bottleneck.num_codes))
    return paths


def table(result: dict, own_rows: list[tuple[str, float | list[float] | None, str]]) -> str:
    """The figures as a table of two columns, those of the kind of data last, those that do not apply left out."""
    bits, latents = result["bits_per_dim"], result["latents"]
    rows = [
        ("distortion, bits/dim", bits["distortion"], ".4f"),
        ("rate, uniform prior, bits/dim", bits["rate_uniform"], ".4f"),
        ("rate, learned prior, bits/dim", bits["rate_prior"], ".4f"),
        ("rate, N(0, I), bits/dim", bits["rate_normal"], ".4f"),
        ("bound, uniform prior, bits/dim", bits["total_uniform"], ".4f"),
        ("bound, learned prior, bits/dim", bits["total_prior"], ".4f"),
        ("bound, N(0, I), bits/dim", bits["total_normal"], ".4f"),
        *bound_rows(result["bounds"]),
        *code_rows(result["codes"]),
        ("latents an example", latents["dims"], ".1f"),
        ("bits an example: training prior", latents["bits"], ".1f"),
        ("bits an example: unigram", latents["bits_unigram"], ".1f"),
        ("bits an example: prior", latents["bits_prior"], ".1f"),
        ("mean norm of encodings", latents["mean_norm"], ".3f"),
        *shuffled_rows(latents["shuffled"]),
        *own_rows,
    ]
    title = f"{result['run']}: {result['items']} items of {result['data']} ({result['split']})"
    lines = [row_line(*row) for row in rows if row[1] is not None]
    return "\n".join([title, "-" * 50, *lines, "-" * 50])


def row_line(name: str, value: float | list[float], form: str) -> str:
    """A figure in its column; several, such as those of successive frames, behind each other."""
    if isinstance(value, list):
        return f"{name:<38}" + "".join(f"{each:>8{form}}" for each in value)
    return f"{name:<38}{value:>12{form}}"


def bound_rows(found: dict | None) -> list[tuple[str, float | None, str]]:
    """The bounds of a spread posterior, none for codes that are a function of the data."""
    if found is None:
        return []
    titles = {"elbo": "ELBO, sampled", "multi_sample": f"bound of {found['samples']} samples"}
    return [*((f"{title}, bits/dim", found[name]["bits_per_dim"], ".4f") for name, title in titles.items()),
            ("KL to the prior, bits an example", found["kl_bits"], ".1f")]


def code_rows(codes: dict | None) -> list[tuple[str, float | None, str]]:
    """The use of codebooks and the bits of codes, none for latents that are no codes."""
    if codes is None:
        return []
    return [
        (f"codes used, of {codes['num_codes']}", mean(codes["used"]), ".1f"),
        ("perplexity", mean(codes["perplexity"]), ".1f"),
        ("bits a code: unigram", mean(codes["unigram_bits"]), ".3f"),
        ("bits a code: bigram", mean(codes["bigram_bits"]), ".3f"),
        ("bits a code: prior", mean(codes["prior_bits"]), ".3f"),
        ("bits a code: prior, training codes", mean(codes["prior_bits_train"]), ".3f"),
    ]


def shuffled_rows(found: dict | None) -> list[tuple[str, float | None, str]]:
    """What a decoder makes of another example's latents, where that was measured."""
    if found is None:
        return []
    return [("distortion, others' latents, bits/dim", found["distortion_shuffled"], ".4f"),
            ("nats gained by an example's own", found["nats_gained"], ".2f")]


def each(values: Tensor) -> float | dict:
    """One codebook: its figure. Several: each, and their mean."""
    values = values.double()
    return float(values[0]) if len(values) == 1 else {"each": values.tolist(), "mean": float(values.mean())}


def mean(figure: float | dict | None) -> float | None:
    """A figure over all codebooks: the inverse of what `each` tells apart."""
    return figure["mean"] if isinstance(figure, dict) else figure


def rounded(value):
    """Six significant digits throughout: more are not reproducible from machine to machine."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
