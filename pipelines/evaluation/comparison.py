"""Several systems side by side (compare.py): the systems of a set, and one table, one figure and one plot of their
metrics.json."""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from pipelines.evaluation import file_rates
from pipelines.evaluation.budget import planned_minutes
from pipelines.evaluation.quality import SOURCES
from pipelines.evaluation.table import mean
from pipelines.files.errors import InputError
from pipelines.files.places import config_names, configs
from pipelines.media.images import image_rows, write_image
from pipelines.runs.config import composed, find_target, read_config, resolved
from pipelines.runs.figures import read_figures
from pipelines.runs.store import Run, load_stage1
from pipelines.splits.base import Data, columns_of
from pipelines.splits.noise import draws, generator
from pipelines.training.log import read_metrics
from stage1_vqvae.bottlenecks.base import Quantizer

SHOWN = 12  # images and their reconstructions
COLUMNS = {  # keys of table.json: their titles in table.md, and how a row is printed
    "bound": ("bound, bits/dim", "{bound:.4f}"),
    "bound_prior": ("learned prior", "{bound_prior:.4f}"),
    "elbo": ("one sample", "{elbo:.4f}"),
    "multi_sample": ("several samples", "{multi_sample:.4f} ± {multi_sample_error:.4f} ({samples})"),
    "published": ("published", "{published:.2f}"),
    "latent_bits": ("training prior bits", "{latent_bits:.1f}"),
    "kl_bits": ("KL", "{kl_bits:.1f}"),
    "latent_bits_unigram": ("unigram bits", "{latent_bits_unigram:.1f}"),
    "latent_bits_bigram": ("bigram bits", "{latent_bits_bigram:.1f}"),
    "latent_bits_prior": ("learned prior bits", "{latent_bits_prior:.1f}"),
    "distortion": ("distortion, bits/dim", "{distortion:.4f}"),
    "perplexity": ("perplexity", "{perplexity:.1f}"),
    "used": ("codes used", "{used:.1f} of {num_codes}"),
    "mean_norm": ("norm of z_e", "{mean_norm:.3g}"),
    "nmse": ("NMSE", "{nmse:.4f}"),
    "nmse_drawn": ("NMSE, drawn", "{nmse_drawn:.4f}"),
    "psnr_db": ("PSNR, dB", "{psnr_db:.2f}"),
    "minutes": ("processor minutes", "{minutes:.2g}"),
    "frechet_samples": ("Fréchet distance, local features: samples", "{frechet_samples:.4g}"),
    "frechet_reconstructions": ("reconstructions", "{frechet_reconstructions:.4g}"),
    "frechet_real": ("real items", "{frechet_real:.4g}"),
    "precision": ("precision", "{precision:.3f}"),
    "recall": ("recall", "{recall:.3f}"),
    "density": ("density", "{density:.3f}"),
    "coverage": ("coverage", "{coverage:.3f}"),
    "updates": ("updates", "{updates:,d}"),
    "decoder_evaluations": ("decoder evaluations", "{decoder_evaluations:,d}"),
    "seconds_per_step": ("s/step", "{seconds_per_step:.3f}"),
}
LEGEND = (
    "Bounds in bits/dim: under the training prior (for discrete systems with their likeliest codes), under the\n"
    "learned prior, and with one or several posterior samples. Bits per example of the latents: under the training\n"
    "prior (for sampled latents the KL, which is the rate that those bounds pay), by the entropy of the codes' own\n"
    "frequencies (unigram), by pairs of codes counted on the training split (bigram), under the learned prior.\n"
    "Precision to coverage are those of samples. Decoder evaluations are those of training."
)


@dataclass(frozen=True)
class System:
    """One row of the table."""

    name: str  # its choices, one after another
    choices: dict[str, str | float]  # on each axis
    run: Run
    overrides: list[str]  # what its commands are given
    config: dict  # what they compose from it


def read_set(name: str) -> dict:
    """A set's yaml, which is part of the program: choices on an axis may be numbers, unlike keys of a run's files.
    Raises InputError for an unknown one."""
    if name not in config_names("compare"):
        raise InputError(f"set: expected one of {', '.join(config_names('compare'))}, found {name!r}")
    return yaml.safe_load((configs() / "compare" / f"{name}.yaml").read_text())


def make_systems(spec: dict, overrides: list[str], only: list[str], out: Path) -> list[System]:
    """All combinations of one choice from each axis, or those that `only` names, on one data set.

    Raises InputError for an unknown name, and for overrides that do not fit, before anything is trained."""
    combinations = {}
    for chosen in itertools.product(*(choices.items() for choices in spec["axes"].values())):
        choices = dict(zip(spec["axes"], (choice for choice, _ in chosen)))
        combinations[in_words(choices)] = choices, [override for _, own in chosen for override in own]
    for name in only:
        if name not in combinations:
            raise InputError(f"--only: expected one of {'; '.join(combinations)}, found {name!r}")
    systems = []
    for name in [name for name in combinations if not only or name in only]:
        choices, own = combinations[name]
        run = Run(out / re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-"))
        given = [*spec["overrides"], *own, *overrides, f"runs_dir={out}", f"run={run.root.name}"]
        try:
            config = resolved(composed(given))
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        systems.append(System(name, choices, run, given, config))
    for system in systems:
        if system.config["data"] != systems[0].config["data"]:
            raise InputError(f"{system.name}: expected the data of {systems[0].name}, found others; say data=NAME")
    return systems


def in_words(choices: dict[str, str | float]) -> str:
    """{"system": "VAE", "K": 512} -> "VAE, K 512": numbers are named."""
    return ", ".join(choice if isinstance(choice, str) else f"{axis} {choice}" for axis, choice in choices.items())


def has_codes(system: System) -> bool:
    """Whether a system's bottleneck has codes, so that a prior can be trained on them."""
    return issubclass(find_target(system.config["autoencoder"]["bottleneck"]["_target_"], True), Quantizer)


def row(system: System, published: float | None) -> dict[str, Any]:
    """A system's choices and figures under the keys of COLUMNS; those that do not apply are None.

    Raises InputError for a metrics.json that evaluate.py did not write."""
    try:
        own = _row(system, published)
        for key, (_, form) in COLUMNS.items():
            if own[key] is not None:
                form.format(**own)
        return own
    except (LookupError, TypeError, AttributeError, ArithmeticError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{system.run.root / 'metrics.json'}: expected the figures that evaluate.py writes, found "
                         f"others ({type(error).__name__}: {error}); evaluate the run again") from None


def _row(system: System, published: float | None) -> dict[str, Any]:
    figures, trained = read_figures(system.run), read_config(system.run.stage1 / "config.yaml")
    bits, latents = figures["bits_per_dim"], figures["latents"]
    bounds, codes = figures["bounds"] or {}, figures["codes"] or {}
    elbo, multi_sample = bounds.get("elbo", {}), bounds.get("multi_sample", {})
    settings, samples = trained["train"], trained["autoencoder"]["bottleneck"].get("num_samples", 1)
    return {
        **system.choices,  # one of the axes may be called `system`, too
        "system": system.name,
        "bound": bits["total_normal"] if bits["total_uniform"] is None else bits["total_uniform"],
        "bound_prior": bits["total_prior"],
        "elbo": elbo.get("bits_per_dim"),
        "multi_sample": multi_sample.get("bits_per_dim"),
        "multi_sample_error": multi_sample.get("standard_error"),
        "samples": bounds.get("samples"),
        "published": published,
        "latent_bits": latents["bits"],
        "kl_bits": bounds.get("kl_bits"),
        "latent_bits_unigram": latents["bits_unigram"],
        "latent_bits_bigram": bigram_bits(codes, latents),
        "latent_bits_prior": latents["bits_prior"],
        "distortion": bits["distortion"],
        "perplexity": mean(codes.get("perplexity")),
        "used": mean(codes.get("used")),
        "num_codes": codes.get("num_codes"),
        "mean_norm": latents["mean_norm"],
        "nmse": figures.get("nmse"),
        "nmse_drawn": bounds.get("nmse_drawn"),
        "psnr_db": figures.get("psnr_db"),
        "minutes": planned_minutes(system.run),
        **quality(figures.get("quality")),
        "updates": settings["steps"],
        "decoder_evaluations": settings["steps"] * settings["batch_size"] * samples,
        "seconds_per_step": figures["training_seconds"]["stage1"] / figures["stage1_step"],
    }


def bigram_bits(codes: dict, latents: dict) -> float | None:
    """Of an example's latents, by counted pairs of codes; None where they were not counted."""
    found = mean(codes.get("bigram_bits"))
    return None if found is None else found * latents["dims"]


def quality(found: dict | None) -> dict[str, Any]:
    """Figures of quality in the features of the first network, and which one that is; None where there are none."""
    task, network = next(iter(((found or {}).get("networks") or {}).items()), (None, {}))
    distances = {f"frechet_{name}": (network.get(name) or {}).get("frechet_local_features") for name in SOURCES}
    samples = network.get("samples") or {}
    return {**distances, **{key: samples.get(key) for key in ("precision", "recall", "density", "coverage")},
            "quality_network": task and f"{task} {network['digest']}", "quality_items": found and found["num_items"]}


def legend(rows: list[dict]) -> str:
    """What the columns are, and whether the figures of quality of these rows can be compared."""
    found = {row["system"]: f"{row['quality_network']}, {row['quality_items']} items of each set" for row in rows
             if row.get("quality_network")}
    if not found:
        return LEGEND
    if len(set(found.values())) == 1:
        return f"{LEGEND}\nLocal features: of the same network for all rows ({next(iter(found.values()))})."
    return (f"{LEGEND}\nLocal features: of different networks or numbers of items, not to be compared ("
            + "; ".join(f"{system}: {own}" for system, own in found.items()) + ").")


def file_rows(data: Data, config: dict, split: str) -> list[dict]:
    """The split's images as lossless files, whose size in bits is comparable with a bound."""
    rates = {"lossless WebP": file_rates.webp(data, split), "the data's own files": file_rates.own(data, config, split)}
    empty = dict.fromkeys(COLUMNS)
    return [{"system": name, **empty, "bound": bits} for name, bits in rates.items() if bits is not None]


def table(rows: list[dict]) -> str:
    """Markdown in aligned columns, without those in which no row has a figure."""
    columns = filled_columns(rows)
    lines = [["system", *(COLUMNS[key][0] for key in columns)]]
    for own in rows:
        lines.append([own["system"], *("" if own[key] is None else COLUMNS[key][1].format(**own) for key in columns)])
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines = [[cell.ljust(width) for cell, width in zip(line, widths)] for line in lines]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def filled_columns(rows: list[dict]) -> list[str]:
    """The columns in which some row has a figure."""
    return [key for key in COLUMNS if any(row[key] is not None for row in rows)]


def draw_reconstructions(path: Path, systems: list[System], data: Data, split: str) -> None:
    """The split's first images, and below them one row of reconstructions for each system; for codes with a posterior a
    second one, from drawn codes."""
    images = data.split(split)
    batch = images.batch(torch.arange(min(SHOWN, len(images))))
    uniforms = draws([generator(0, 0)], len(batch.x), *batch.x.shape[2:])[0]
    shown = {"original": batch.x}
    for system in systems:
        stage1 = load_stage1(system.run, torch.device("cpu"))
        labels = columns_of(batch.labels, stage1.decoder_columns)
        # an autoregressive decoder samples its images from the uniforms
        model = stage1.module
        result = model.evaluate(batch.x, labels, uniforms)
        shown[system.name] = result.reconstruction
        posterior = model.bottleneck.posterior(result.z_e) if isinstance(model.bottleneck, Quantizer) else None
        if posterior is not None:
            noise = draws([generator(0, 1 + item) for item in range(len(batch.x))], *posterior.noise)
            drawn = posterior.z_q(posterior.icdf(noise))
            shown[f"{system.name}, drawn"] = model.decode_latent(drawn, labels, uniforms)
    write_image(path, image_rows(shown))


def panel(systems: list[System], rows: list[dict], x: str, y: str) -> tuple[str, str, dict[str, list[tuple]]]:
    """Labels of both axes, and points: figure y over each system's steps; column y over the axis x with one line for
    each choice on the other axes; or over the column x with one line for each choice on the first axis."""
    lines: dict[str, list[tuple]] = {}
    for system, own in zip(systems, rows, strict=True):
        if x == "step":
            logged = [step for step in read_metrics(system.run.stage1 / "metrics.jsonl") if step["split"] == "train"]
            lines[system.name] = [(step["step"], step[y]) for step in logged if y in step]
            continue
        if x in COLUMNS:
            first = next(iter(system.choices))
            lines.setdefault(in_words({first: system.choices[first]}), []).append((own[x], own[y]))
            continue
        others = in_words({axis: choice for axis, choice in system.choices.items() if axis != x})
        lines.setdefault(others, []).append((str(system.choices[x]), own[y]))
    title = {name: COLUMNS[name][0] if name in COLUMNS else name for name in (x, y)}
    return title[x], title[y], lines
