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
from functools import partial
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
from pipelines.measured import Measured, batches, measure, uses
from pipelines.runs import Run, TrainedStage, check_same_data, load_stage1, run_of
from pipelines.training.checkpoint import write_atomically
from pipelines.training.distributed import choose_device
from pipelines.training.log import read_metrics
from stage1_vqvae.bottlenecks.base import Bottleneck, Quantizer
from stage1_vqvae.bottlenecks.gaussian import Gaussian
from stage1_vqvae.codebook import perplexity


@hydra_main("stage1")
def main(cfg: DictConfig) -> None:
    start = time.monotonic()
    run, device, options = run_of(cfg), choose_device(cfg.evaluate.device), cfg.evaluate
    trained_prior = (run.stage2 / "checkpoints").is_dir()
    stage1, stage2 = load_chain(run, device) if trained_prior else (load_stage1(run, device), None)
    data = build(cfg.data)
    check_same_data(run, stage1, data, plain(cfg.data))
    name = options.split or ("test" if "test" in data.splits else "validation")
    split = data.split(name).to(device)

    bottleneck = stage1.module.bottleneck
    if data.kind == "audio" and not isinstance(bottleneck, Quantizer):
        raise InputError(f"{run.stage1}: expected codes of sound, found {type(bottleneck).__name__}")
    if options.bound_samples < 0:
        raise InputError(f"evaluate.bound_samples: expected 0 or more, found {options.bound_samples}")
    if data.kind == "video":
        video_evaluation.check(options, data)
    measured, gaussian = measure(stage1, split, options.batch_size, cfg.seed), isinstance(bottleneck, Gaussian)
    samples = max(options.bound_samples, 1) if gaussian else options.bound_samples
    sampled = sample_posterior(stage1, split, samples, options.batch_size, cfg.seed)
    if gaussian:  # the distortion of the mean is no part of a bound
        measured = replace(measured, nll_nats=sampled.nll_nats)
    figures = own_figures(measured, bottleneck)
    figures["bounds"] = bounds(sampled, measured.sizes, samples) if sampled and options.bound_samples else None
    others = others_nats(stage1, split, options.batch_size, cfg.seed)
    figures["latents"]["shuffled"] = shuffled(measured, others)
    if stage2 is not None:
        add_prior(figures, run, stage2, measured, name, options.batch_size, device)
    kinds = {"image": image_evaluation, "audio": sound_evaluation, "video": video_evaluation, "codes": code_evaluation}
    figures |= kinds[data.kind].figures(measured, stage1, stage2, data, name, options, cfg.seed, device)
    if data.kind == "codes":
        figures["frame_nats"] = code_evaluation.frame_nats(measured, others, stage1, split, options, device)
    if "sound" in figures and stage2 is not None:
        bits_a_sample = figures["bits_per_dim"]["rate_prior"]
        figures["sound"]["code_bits_a_second_prior"] = bits_a_sample * data.sample_rate_hz
    result = {"run": cfg.run, "data": data.name, "split": name, "items": len(split),
              "stage1_step": stage1.state["step"], "stage2_step": stage2 and stage2.state["step"],
              "training_seconds": {"stage1": stage1.state["seconds"], "stage2": stage2 and stage2.state["seconds"]},
              **figures}
    write_atomically(run.root / "metrics.json", (json.dumps(rounded(result), indent=1) + "\n").encode())
    draw = partial(code_evaluation.draw, data, name, cfg.seed) if data.kind == "codes" else kinds[data.kind].draw
    pictures = draw(run, split, measured, stage1) | draw_training(run, measured, stage1)
    print(table(result))
    if figures.get("video"):
        pictures |= video_evaluation.draw_predictions(run, figures["video"])
        print(video_evaluation.step_table(figures["video"]))
    print("\n".join(f"{title:<34}{path}" for title, path in pictures.items()))
    print(f"measured in {time.monotonic() - start:.0f} s -> {run.root / 'metrics.json'}")


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


def add_prior(figures: dict, run: Run, stage2: TrainedStage, measured: Measured, name: str, batch_size: int,
              device: torch.device) -> None:
    """The prior's bits a code on the split and on training codes, unigram and bigram beside them, and the rate."""
    data, num_codes = CodeData(run.codes), figures["codes"]["num_codes"]
    splits = [data.split(own) for own in ("train", name)]
    codes, real = zip(*(all_codes(split) for split in splits))
    trained, held_out = (prior_bits(stage2, split, batch_size, device) for split in splits)
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
def prior_bits(stage2: TrainedStage, split: CodeSplit, batch_size: int, device: torch.device) -> Tensor:
    """Bits a code of each codebook (g,) float64, over what is no padding."""
    columns = [stage2.config["codes"]["label_names"].index(name) for name in stage2.config["condition_on"]]
    total, count = 0, 0
    for _, batch in batches(split.to(device), batch_size, "prior"):
        labels = batch.labels[:, columns] if columns else None
        told = batch.lengths if stage2.config.get("condition_on_length") else None
        nats = stage2.module.code_nats(batch.x, labels, conditioning(batch.local, told, batch.x.shape[1])).double()
        nats = nats.reshape(len(nats), -1, split.num_codebooks)
        if batch.lengths is not None:
            nats = nats * (torch.arange(nats.shape[1], device=device) < batch.lengths[:, None])[..., None]
        total = total + nats.sum((0, 1)).cpu()
        count += nats.shape[0] * nats.shape[1] if batch.lengths is None else int(batch.lengths.sum())
    return total / (count * math.log(2))


def draw_training(run: Run, measured: Measured, stage1: TrainedStage) -> dict[str, Path]:
    """Loss curves, and where there is a codebook its use."""
    paths = {"loss curves": run.figures / "loss_curves.png"}
    media.plot_curves(paths["loss curves"], {"stage 1": read_metrics(run.stage1 / "metrics.jsonl"),
                                             "stage 2": read_metrics(run.stage2 / "metrics.jsonl")})
    if measured.codes is not None:
        paths["use of the codebook"] = run.figures / "codebook_use.png"
        media.plot_codebook_use(paths["use of the codebook"], uses(measured, stage1.module.bottleneck.num_codes))
    return paths


def table(result: dict) -> str:
    """The figures as a table of two columns, those that do not apply left out."""
    bits, latents, verdict = result["bits_per_dim"], result["latents"], result.get("judge") or {}
    rows = [
        ("distortion, bits/dim", bits["distortion"], ".4f"),
        ("rate, uniform prior, bits/dim", bits["rate_uniform"], ".4f"),
        ("rate, learned prior, bits/dim", bits["rate_prior"], ".4f"),
        ("rate, N(0, I), bits/dim", bits["rate_normal"], ".4f"),
        ("bound, uniform prior, bits/dim", bits["total_uniform"], ".4f"),
        ("bound, learned prior, bits/dim", bits["total_prior"], ".4f"),
        ("bound, N(0, I), bits/dim", bits["total_normal"], ".4f"),
        *bound_rows(result["bounds"]),
        ("NMSE", result.get("nmse"), ".4f"),
        ("PSNR, dB", result.get("psnr_db"), ".2f"),
        ("SSIM", result.get("ssim"), ".4f"),
        *code_rows(result["codes"]),
        ("latents an example", latents["dims"], ".1f"),
        ("bits an example: training prior", latents["bits"], ".1f"),
        ("bits an example: unigram", latents["bits_unigram"], ".1f"),
        ("bits an example: prior", latents["bits_prior"], ".1f"),
        ("mean norm of encodings", latents["mean_norm"], ".3f"),
        *shuffled_rows(latents["shuffled"]),
        ("judge: real images right", verdict.get("real"), ".1%"),
        ("judge: reconstructions right", verdict.get("reconstructions"), ".1%"),
        ("judge: samples right", verdict.get("samples"), ".1%"),
        *(sound_evaluation.rows(result["sound"]) if "sound" in result else []),
        *(code_evaluation.rows(result) if "frame_nats" in result else []),
        *(video_evaluation.rows(result["video"]) if result.get("video") else []),
    ]
    title = f"{result['run']}: {result['items']} items of {result['data']} ({result['split']})"
    lines = [f"{name:<38}{value:>12{form}}" for name, value, form in rows if value is not None]
    return "\n".join([title, "-" * 50, *lines, "-" * 50])


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
