"""Measures a run: exact bounds, use of the codebook, errors, the prior's bits, and what classifiers of real data make
of its reconstructions and samples.

    python pipelines/evaluate.py experiment=mnist evaluate.split=test

Writes metrics.json and figures/*.png in the run's folder, and prints the table. Needs stage 1; what stage 2 adds is null
where it was not trained.

The bound is log p(x) >= log p(x | z_q(x)) + log p(z_q(x)) (arXiv 1711.00937, section 3.2), its two terms in bits per
data dimension: `distortion`, and `rate` under the uniform prior of training or under the learned one.
"""

import json
import math
import time
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure as ssim
from tqdm import tqdm

from pipelines import media, sound_evaluation
from pipelines.baselines import bigram_bits, unigram_bits
from pipelines.config import build, hydra_main, plain
from pipelines.data.base import Data, Split, code_lengths
from pipelines.data.codes import CodeData, CodeSplit
from pipelines.generate import decode, generate, generator, load_chain
from pipelines.judge import judge, train_judge
from pipelines.lengths import conditioning
from pipelines.measured import Measured
from pipelines.runs import Run, TrainedStage, check_same_data, load_stage1, run_of
from pipelines.training.checkpoint import write_atomically
from pipelines.training.distributed import choose_device
from pipelines.training.log import read_metrics
from stage1_vqvae.codebook import perplexity, usage

SHOWN = 32  # images beside their reconstructions in the picture


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

    measured = measure(stage1, split, options.batch_size, cfg.seed)
    figures = bounds(measured, stage1)
    if stage2 is not None:
        add_prior(figures, run, stage2, measured, name, options.batch_size, device)
    own = {"image": image_figures, "audio": sound_evaluation.figures}[data.kind]
    figures |= own(measured, stage1, stage2, data, name, options, cfg.seed, device)
    if "sound" in figures and stage2 is not None:
        bits_a_sample = figures["bits_per_dim"]["rate_prior"]
        figures["sound"]["code_bits_a_second_prior"] = bits_a_sample * data.sample_rate_hz
    result = {"run": cfg.run, "data": data.name, "split": name, "items": len(split),
              "stage1_step": stage1.state["step"], "stage2_step": stage2 and stage2.state["step"],
              "training_seconds": {"stage1": stage1.state["seconds"], "stage2": stage2 and stage2.state["seconds"]},
              **figures}
    write_atomically(run.root / "metrics.json", (json.dumps(rounded(result), indent=1) + "\n").encode())
    pictures = {"image": draw_images, "audio": sound_evaluation.draw}[data.kind](run, split, measured, stage1)
    pictures |= draw_training(run, measured, stage1)
    print(table(result))
    print("\n".join(f"{title:<34}{path}" for title, path in pictures.items()))
    print(f"measured in {time.monotonic() - start:.0f} s -> {run.root / 'metrics.json'}")


@torch.no_grad()
def measure(stage1: TrainedStage, split: Split, batch_size: int, seed: int) -> Measured:
    """The autoencoder's figures, codes and reconstructions over a whole split.

    A decoder that draws its reconstructions does so from generators made from (seed, item)."""
    model, columns = stage1.module, stage1.decoder_columns
    nll, rate, codes, real, reconstructions, sizes = [], [], [], [], [], []
    for start, batch in batches(split, batch_size, "stage 1"):
        labels = batch.labels[:, columns] if columns else None
        result = model.evaluate(batch.x, labels, lengths=batch.lengths)
        nll.append(result.nll_nats.cpu())
        rate.append(result.rate_nats.cpu())
        found = result.latent.codes
        lengths = code_lengths(batch, found.shape[1])
        codes.append(found.reshape(len(batch.x), -1, model.bottleneck.num_codebooks).cpu())
        whole = torch.full((len(found),), codes[-1].shape[1]) if lengths is None else lengths.cpu()
        real.append(torch.arange(codes[-1].shape[1]) < whole[:, None])
        made = result.reconstruction
        if made is None:
            own = [generator(seed, start + place) for place in range(len(batch.x))]
            made = decode(stage1, found, labels, batch.lengths.cpu(), own)
        reconstructions.append(made.cpu())
        sizes.append(torch.full((len(found),), batch.x[0].numel()) if lengths is None else batch.lengths.cpu())
    return Measured(*(torch.cat(parts) for parts in (nll, rate, codes, real, reconstructions, sizes)))


def bounds(measured: Measured, stage1: TrainedStage) -> dict:
    """Distortion and rate in bits per data dimension, and the use of the codebooks; the prior's part is still null."""
    bits, num_codes = float(measured.sizes.sum()) * math.log(2), stage1.module.bottleneck.num_codes
    distortion, uniform = float(measured.nll_nats.sum()) / bits, float(measured.rate_nats.sum()) / bits
    counts = uses(measured, num_codes)
    return {
        "bits_per_dim": {"distortion": distortion, "rate_uniform": uniform, "rate_prior": None,
                         "total_uniform": distortion + uniform, "total_prior": None},
        "codes": {"perplexity": each(perplexity(counts)), "used": each((counts > 0).sum(1)), "num_codes": num_codes,
                  "codes_an_example": float(measured.real.sum()) * measured.codes.shape[-1] / len(measured.codes),
                  "unigram_bits": None, "bigram_bits": None, "prior_bits": None, "prior_bits_train": None},
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
    rate = float(held_out.sum()) * float(measured.real.sum()) / float(measured.sizes.sum())
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


def image_figures(measured: Measured, stage1: TrainedStage, stage2: TrainedStage | None, data: Data, split_name: str,
                  options, seed: int, device: torch.device) -> dict:
    """NMSE, PSNR and SSIM of the reconstructions as they are written out, rounded to whole levels; the judge's word."""
    errors, similarities, split = [], [], data.split(split_name).to(device)
    for start, batch in batches(split, options.batch_size, "errors"):
        x, made = batch.x.cpu(), measured.reconstructions[start : start + len(batch.x)]
        errors.append((made.double() - x).square().flatten(1).mean(1))
        if min(x.shape[-2:]) > 10:  # the usual window of SSIM is 11 pixels wide
            similarities.append(ssim(made.float(), x.float(), data_range=255.0, reduction="none").double())
    errors = torch.cat(errors)
    verdict = None
    if options.judge and data.label_names:
        verdict = call_judge(stage1, stage2, data, split, measured.reconstructions, options, seed, device)
    return {
        "nmse": float(errors.mean() / data.variance),
        "psnr_db": float((10 * torch.log10(255**2 / errors.clamp(min=1e-12))).mean()),
        "ssim": float(torch.cat(similarities).mean()) if similarities else None,
        "judge": verdict,
    }


def call_judge(stage1, stage2, data: Data, split: Split, reconstructions: Tensor, options, seed: int, device) -> dict:
    """Accuracy of a classifier on real held-out images, on their reconstructions and on class-conditional samples."""
    column, classes = 0, data.classes[0]
    name = data.label_names[column]
    model = train_judge(data.split("train").to(device), column, len(classes), data.shape, device)
    labels = split.labels[:, column].cpu()
    real = torch.cat([judge(model, batch.x) for batch in split.evaluation_batches()])
    verdict = {"label": name, "real": accuracy(real, labels), "reconstructions": accuracy(judge(model, reconstructions),
                                                                                          labels), "samples": None}
    if stage2 is not None and name in stage2.config["condition_on"] and options.samples:
        made = generate(stage1, stage2, options.samples, seed, options.batch_size, device)
        verdict |= {"samples": accuracy(judge(model, made.x), made.label(name)), "samples_judged": options.samples}
    return verdict


def draw_images(run: Run, split: Split, measured: Measured, stage1: TrainedStage) -> dict[str, Path]:
    """Originals above reconstructions, and where samples lie; returns what each picture shows and its path."""
    run.figures.mkdir(parents=True, exist_ok=True)
    shown = min(SHOWN, len(split))
    originals = split.batch(torch.arange(shown)).x.cpu()
    paths = {"originals above reconstructions": run.figures / "reconstructions.png"}
    pairs = media.comparison(originals, measured.reconstructions[:shown])
    media.write_picture(run.figures / "reconstructions.png", pairs)
    return paths | ({"samples": run.samples / "grid.png"} if (run.samples / "grid.png").exists() else {})


def draw_training(run: Run, measured: Measured, stage1: TrainedStage) -> dict[str, Path]:
    """Loss curves and the codebook's use."""
    paths = {"loss curves": run.figures / "loss_curves.png", "use of the codebook": run.figures / "codebook_use.png"}
    media.plot_curves(paths["loss curves"], {"stage 1": read_metrics(run.stage1 / "metrics.jsonl"),
                                             "stage 2": read_metrics(run.stage2 / "metrics.jsonl")})
    media.plot_codebook_use(paths["use of the codebook"], uses(measured, stage1.module.bottleneck.num_codes))
    return paths


def table(result: dict) -> str:
    """The figures as a table of two columns, those that do not apply left out."""
    bits, codes, verdict = result["bits_per_dim"], result["codes"], result.get("judge") or {}
    rows = [
        ("distortion, bits/dim", bits["distortion"], ".4f"),
        ("rate, uniform prior, bits/dim", bits["rate_uniform"], ".4f"),
        ("rate, learned prior, bits/dim", bits["rate_prior"], ".4f"),
        ("bound, uniform prior, bits/dim", bits["total_uniform"], ".4f"),
        ("bound, learned prior, bits/dim", bits["total_prior"], ".4f"),
        ("NMSE", result.get("nmse"), ".4f"),
        ("PSNR, dB", result.get("psnr_db"), ".2f"),
        ("SSIM", result.get("ssim"), ".4f"),
        (f"codes used, of {codes['num_codes']}", mean(codes["used"]), ".1f"),
        ("perplexity", mean(codes["perplexity"]), ".1f"),
        ("bits a code: unigram", mean(codes["unigram_bits"]), ".3f"),
        ("bits a code: bigram", mean(codes["bigram_bits"]), ".3f"),
        ("bits a code: prior", mean(codes["prior_bits"]), ".3f"),
        ("bits a code: prior, training codes", mean(codes["prior_bits_train"]), ".3f"),
        ("bits an example: prior", codes["prior_bits"] and mean(codes["prior_bits"]) * codes["codes_an_example"], ".1f"),
        ("judge: real images right", verdict.get("real"), ".1%"),
        ("judge: reconstructions right", verdict.get("reconstructions"), ".1%"),
        ("judge: samples right", verdict.get("samples"), ".1%"),
        *(sound_evaluation.rows(result["sound"]) if "sound" in result else []),
    ]
    title = f"{result['run']}: {result['items']} items of {result['data']} ({result['split']})"
    lines = [f"{name:<38}{value:>12{form}}" for name, value, form in rows if value is not None]
    return "\n".join([title, "-" * 50, *lines, "-" * 50])


def uses(measured: Measured, num_codes: int) -> Tensor:
    """How often each code of each codebook occurs (g, k), padding apart."""
    return torch.stack([usage(own, num_codes) for own in measured.codes[measured.real].unbind(-1)])


def batches(split: Split, batch_size: int, title: str):
    """(number of the first item, batch) over a whole split, with a progress bar."""
    parts = torch.arange(len(split)).split(batch_size)
    for part in tqdm(parts, desc=title, leave=False, dynamic_ncols=True, disable=None):
        yield int(part[0]), split.batch(part)


def accuracy(seen: Tensor, true: Tensor) -> float:
    return float((seen == true).double().mean())


def each(values: Tensor) -> float | dict:
    """One codebook: its figure. Several: each, and their mean."""
    values = values.double()
    return float(values[0]) if len(values) == 1 else {"each": values.tolist(), "mean": float(values.mean())}


def mean(figure: float | dict | None) -> float | None:
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
