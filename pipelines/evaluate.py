"""Measures a run: exact bounds, use of the codebook, errors, the prior's bits, and a judge's verdict on its samples.

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
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure as ssim
from tqdm import tqdm

from pipelines import media
from pipelines.baselines import bigram_bits, unigram_bits
from pipelines.config import build, hydra_main, plain
from pipelines.data.base import Data, Split
from pipelines.data.codes import CodeData
from pipelines.generate import generate, load_chain
from pipelines.judge import judge, train_judge
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

    figures, codes, reconstructions = measure_stage1(stage1, split, data, options.batch_size)
    if stage2 is not None:
        add_prior(figures, run, stage2, codes, split, data, options.batch_size, device)
    verdict = None
    if options.judge and data.label_names:
        verdict = call_judge(stage1, stage2, data, split, reconstructions, options, cfg.seed, device)
    result = {"run": cfg.run, "data": data.name, "split": name, "items": len(split),
              "stage1_step": stage1.state["step"], "stage2_step": stage2 and stage2.state["step"],
              "training_seconds": {"stage1": stage1.state["seconds"], "stage2": stage2 and stage2.state["seconds"]},
              **figures, "judge": verdict}
    write_atomically(run.root / "metrics.json", (json.dumps(rounded(result), indent=1) + "\n").encode())
    pictures = draw(run, split, reconstructions, codes, stage1)
    print(table(result))
    print("\n".join(f"{title:<34}{path}" for title, path in pictures.items()))
    print(f"measured in {time.monotonic() - start:.0f} s -> {run.root / 'metrics.json'}")


@torch.no_grad()
def measure_stage1(stage1: TrainedStage, split: Split, data: Data, batch_size: int) -> tuple[dict, Tensor, Tensor]:
    """Figures of the autoencoder over a whole split; its codes (n, t, g) and reconstructions (n, c, h, w), on the CPU.

    NMSE and PSNR are of the reconstruction as it is written out, rounded to whole levels."""
    model, quantizer = stage1.module, stage1.module.bottleneck
    nll, rate, errors, similarities, codes, reconstructions = [], [], [], [], [], []
    for batch in batches(split, batch_size, "stage 1"):
        result = model.evaluate(batch.x)
        nll.append(result.nll_nats.cpu())
        rate.append(result.latent.rate_nats.double().cpu())
        errors.append((result.reconstruction.double() - batch.x).square().flatten(1).mean(1).cpu())
        if min(batch.x.shape[-2:]) > 10:  # the usual window of SSIM is 11 pixels wide
            similarities.append(ssim(result.reconstruction.float(), batch.x.float(), data_range=255.0,
                                     reduction="none").double().cpu())
        codes.append(result.latent.codes.reshape(len(batch.x), -1, quantizer.num_codebooks).cpu())
        reconstructions.append(result.reconstruction.cpu())
    nll, rate, errors = torch.cat(nll), torch.cat(rate), torch.cat(errors)
    codes, reconstructions = torch.cat(codes), torch.cat(reconstructions)
    bits = math.prod(data.shape) * math.log(2)
    distortion, uniform = float(nll.mean() / bits), float(rate.mean() / bits)
    counts = uses(codes, quantizer.num_codes)
    return {
        "bits_per_dim": {"distortion": distortion, "rate_uniform": uniform, "rate_prior": None,
                         "total_uniform": distortion + uniform, "total_prior": None},
        "codes": {"perplexity": each(perplexity(counts)), "used": each((counts > 0).sum(1)),
                  "num_codes": quantizer.num_codes, "codes_an_example": codes[0].numel(),
                  "unigram_bits": None, "bigram_bits": None, "prior_bits": None, "prior_bits_train": None},
        "nmse": float(errors.mean() / data.variance),
        "psnr_db": float((10 * torch.log10(255**2 / errors.clamp(min=1e-12))).mean()),
        "ssim": float(torch.cat(similarities).mean()) if similarities else None,
    }, codes, reconstructions


def add_prior(figures: dict, run: Run, stage2: TrainedStage, codes: Tensor, split: Split, data: Data, batch_size: int,
              device: torch.device) -> None:
    """The prior's bits a code on the split and on training codes, unigram and bigram beside them, and the rate."""
    trained = CodeData(run.codes).split("train")
    shape = (-1, *codes.shape[1:])
    train_codes = torch.cat([batch.x.reshape(shape).cpu() for batch in trained.evaluation_batches()])
    num_codes = figures["codes"]["num_codes"]
    columns = [stage2.config["codes"]["label_names"].index(name) for name in stage2.config["condition_on"]]
    grid = stage2.config["codes"]["grid"]

    def bits(grids: Tensor, labels: Tensor, title: str) -> Tensor:
        own = [*grid, codes.shape[-1]] if codes.shape[-1] > 1 else list(grid)
        total = 0
        for part in tqdm(torch.arange(len(grids)).split(batch_size), desc=title, leave=False, dynamic_ncols=True):
            x = grids[part].reshape(-1, *own).to(device)
            chosen = labels[part.to(labels.device)][:, columns].to(device) if columns else None
            total = total + code_nats(stage2.module, x, chosen).reshape(-1, codes.shape[-1]).sum(0).cpu()
        return total / (len(grids) * codes.shape[1] * math.log(2))

    held_out = bits(codes, split.labels, "prior")
    figures["codes"] |= {
        "unigram_bits": each(unigram_bits(train_codes, codes, num_codes)),
        "bigram_bits": each(bigram_bits(train_codes, codes, num_codes)),
        "prior_bits": each(held_out),
        "prior_bits_train": each(bits(train_codes, trained.labels, "prior, training codes")),
    }
    rate = float(held_out.sum()) * codes.shape[1] / math.prod(data.shape)
    distortion = figures["bits_per_dim"]["distortion"]
    figures["bits_per_dim"] |= {"rate_prior": rate, "total_prior": distortion + rate}


@torch.no_grad()
def code_nats(prior: nn.Module, codes: Tensor, labels: Tensor | None) -> Tensor:
    """-log p of each single code given those before it: float64, of the codes' shape."""
    logits = prior(codes, labels).double()
    return -logits.log_softmax(1).gather(1, codes[:, None])[:, 0]


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
        images, _, chosen = generate(stage1, stage2, options.samples, seed, options.batch_size, device)
        asked = chosen[:, stage2.config["condition_on"].index(name)]
        verdict |= {"samples": accuracy(judge(model, images), asked), "samples_judged": options.samples}
    return verdict


def draw(run: Run, split: Split, reconstructions: Tensor, codes: Tensor, stage1: TrainedStage) -> dict[str, Path]:
    """The pictures of a run; returns what each shows and where it lies."""
    run.figures.mkdir(parents=True, exist_ok=True)
    shown = min(SHOWN, len(split))
    originals = split.batch(torch.arange(shown)).x.cpu()
    paths = {"originals above reconstructions": run.figures / "reconstructions.png",
             "loss curves": run.figures / "loss_curves.png", "use of the codebook": run.figures / "codebook_use.png"}
    media.write_picture(paths["originals above reconstructions"], media.comparison(originals, reconstructions[:shown]))
    media.plot_curves(paths["loss curves"], {"stage 1": read_metrics(run.stage1 / "metrics.jsonl"),
                                             "stage 2": read_metrics(run.stage2 / "metrics.jsonl")})
    media.plot_codebook_use(paths["use of the codebook"], 
                              uses(codes, stage1.module.bottleneck.num_codes))
    if (run.samples / "grid.png").exists():
        paths["samples"] = run.samples / "grid.png"
    return paths


def table(result: dict) -> str:
    """The figures as a table of two columns, those that do not apply left out."""
    bits, codes, verdict = result["bits_per_dim"], result["codes"], result["judge"] or {}
    rows = [
        ("distortion, bits/dim", bits["distortion"], ".4f"),
        ("rate, uniform prior, bits/dim", bits["rate_uniform"], ".4f"),
        ("rate, learned prior, bits/dim", bits["rate_prior"], ".4f"),
        ("bound, uniform prior, bits/dim", bits["total_uniform"], ".4f"),
        ("bound, learned prior, bits/dim", bits["total_prior"], ".4f"),
        ("NMSE", result["nmse"], ".4f"),
        ("PSNR, dB", result["psnr_db"], ".2f"),
        ("SSIM", result["ssim"], ".4f"),
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
    ]
    title = f"{result['run']}: {result['items']} images of {result['data']} ({result['split']})"
    lines = [f"{name:<38}{value:>12{form}}" for name, value, form in rows if value is not None]
    return "\n".join([title, "-" * 50, *lines, "-" * 50])


def uses(codes: Tensor, num_codes: int) -> Tensor:
    """Codes (n, t, g) -> how often each code of each codebook occurs (g, k)."""
    return torch.stack([usage(own, num_codes) for own in codes.unbind(-1)])


def batches(split: Split, batch_size: int, title: str):
    for part in tqdm(torch.arange(len(split)).split(batch_size), desc=title, leave=False, dynamic_ncols=True):
        yield split.batch(part)


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
