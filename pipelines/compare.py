"""Trains a set of systems, each within the same budget, and lays what they reach side by side.

    python pipelines/compare.py mnist                       # configs/compare/mnist.yaml says what a set is
    python pipelines/compare.py cifar10 --only VAE --only VQ-VAE data=cifar10_jpeg stage1.steps=500
    python pipelines/compare.py beta                        # a study: one system, one or two settings varied

`key=value` changes all systems. Each is a run below runs/compare_SET, made by the project's own commands in processes
of their own; a comparison that was killed goes on where it was, and what was measured is not measured again. The
systems' metrics.json become runs/compare_SET/{table.md, table.json, reconstructions.png, plot.png}.
"""

import argparse
import itertools
import json
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from pipelines.evaluation import file_rates
from pipelines.files.atomic import write_atomically
from pipelines.files.errors import InputError, one_line_errors
from pipelines.media import plots
from pipelines.media.images import image_rows, write_image
from pipelines.runs.config import CONFIGS, build, composed, find_target, read_config, resolved
from pipelines.runs.store import Run, load_stage1
from pipelines.splits.base import Data
from pipelines.training.log import read_metrics
from stage1_vqvae.bottlenecks.base import Quantizer

SETS = Path(CONFIGS) / "compare"
SHOWN = 12  # pictures and their reconstructions
COLUMNS = {  # of table.json: how table.md calls them, and what it makes of a row of them
    "bound": ("bound, bits/dim", "{bound:.4f}"),
    "bound_prior": ("learned prior", "{bound_prior:.4f}"),
    "elbo": ("one sample", "{elbo:.4f}"),
    "multi_sample": ("several samples", "{multi_sample:.4f} ± {multi_sample_error:.4f} ({samples})"),
    "published": ("published", "{published:.2f}"),
    "latent_bits": ("bits", "{latent_bits:.1f}"),
    "kl_bits": ("KL", "{kl_bits:.1f}"),
    "latent_bits_unigram": ("by frequency", "{latent_bits_unigram:.1f}"),
    "latent_bits_prior": ("by prior", "{latent_bits_prior:.1f}"),
    "distortion": ("distortion, bits/dim", "{distortion:.4f}"),
    "perplexity": ("perplexity", "{perplexity:.1f}"),
    "used": ("codes used", "{used:.1f} of {num_codes}"),
    "mean_norm": ("norm of z_e", "{mean_norm:.3g}"),
    "nmse": ("NMSE", "{nmse:.4f}"),
    "psnr_db": ("PSNR, dB", "{psnr_db:.2f}"),
    "updates": ("updates", "{updates:,d}"),
    "decoder_evaluations": ("evaluations", "{decoder_evaluations:,d}"),
    "seconds_a_step": ("s a step", "{seconds_a_step:.3f}"),
}
LEGEND = (
    "Bounds in bits/dim: under the prior of training (a discrete system's with its likeliest codes), under\n"
    "the learned prior, with latents drawn once or several times (their number). Bits of an example's latents under the\n"
    "prior of training; where they are drawn the KL, which is what those bounds charge; by the frequency of the codes; by\n"
    "the learned prior. Evaluations are the decoder's in training."
)


@dataclass(frozen=True)
class System:
    """One row of the table."""

    name: str  # its choices, one after another
    choices: dict[str, str | float]  # on each axis
    run: Run
    overrides: list[str]  # what its commands are given
    config: dict  # what they compose from it


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trains a set of systems and writes one table and picture of them.")
    parser.add_argument("set", help=f"one of {', '.join(set_names())}")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for all systems, as the commands take them")
    parser.add_argument("--only", action="append", default=[], metavar="SYSTEM", help="this system alone (repeatable)")
    parser.add_argument("--out", type=Path, help="folder of the runs and the table (default: runs/compare_SET)")
    return parser.parse_intermixed_args()


def main(arguments: argparse.Namespace) -> None:
    out = arguments.out or Path("runs") / f"compare_{arguments.set}"
    spec = read_set(arguments.set)
    systems = make_systems(spec, arguments.overrides, arguments.only, out)
    for number, system in enumerate(systems, 1):
        print(f"[{number}/{len(systems)}] {system.name}: {system.run.root}", flush=True)
        measure(system, spec["prior"])
    rows = [row(system, spec["published"].get(system.name)) for system in systems]
    data, split = build(systems[0].config["data"]), read_figures(systems[0].run)["split"]
    shown = [*rows, *(file_rows(data, systems[0].config["data"], split) if spec["files"] else [])]
    title = f"{arguments.set}: {data.name}, {split} split"
    write_atomically(out / "table.json", (json.dumps(shown, indent=1) + "\n").encode())
    write_atomically(out / "table.md", (f"{title}\n\n{table(shown)}\n\n{LEGEND}\n").encode())
    draw_reconstructions(out / "reconstructions.png", systems, data, split)
    pictures = [out / "reconstructions.png"]
    if spec["plot"]:
        pictures.append(out / "plot.png")
        plots.plot_lines(out / "plot.png", [panel(systems, rows, **axes) for axes in spec["plot"]])
    print(f"\n{title}\n\n{table(shown)}\n\n{LEGEND}\n")
    print("\n".join(map(str, [out / "table.md", *pictures])))


def set_names() -> list[str]:
    """Of the sets and studies that there are, sorted."""
    return sorted(path.stem for path in SETS.glob("*.yaml"))


def read_set(name: str) -> dict:
    """A set's yaml. Raises InputError for one that there is not."""
    if name not in set_names():
        raise InputError(f"set: expected one of {', '.join(set_names())}, found {name!r}")
    return read_config(SETS / f"{name}.yaml")


def make_systems(spec: dict, overrides: list[str], only: list[str], out: Path) -> list[System]:
    """All combinations of a choice from each axis, or those of them that `only` names, on one data set.

    Raises InputError for a name that is none of theirs, and for what does not compose, before anything is trained."""
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
        systems.append(System(name, choices, run, given, configuration(name, given)))
    for system in systems:
        if system.config["data"] != systems[0].config["data"]:
            raise InputError(f"{system.name}: expected the data of {systems[0].name}, found others; say data=NAME")
    return systems


def in_words(choices: dict[str, str | float]) -> str:
    """{"system": "VAE", "K": 512} -> "VAE, K 512": a number says of what it is one."""
    return ", ".join(choice if isinstance(choice, str) else f"{axis} {choice}" for axis, choice in choices.items())


def configuration(name: str, overrides: list[str]) -> dict:
    """What a command makes of its overrides, but for what only the data know."""
    try:
        return resolved(composed(overrides))
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def measure(system: System, with_prior: bool) -> None:
    """Trains and measures a system, unless that was done with this very configuration."""
    done = system.run.root / "compared.yaml"
    if done.exists() and read_config(done) == system.config:
        return
    coded = issubclass(find_target(system.config["autoencoder"]["bottleneck"]["_target_"], True), Quantizer)
    for command in ("train_stage1", *(("extract_codes", "train_stage2") if with_prior and coded else ()), "evaluate"):
        run_command(system.name, command, system.overrides)
    write_atomically(done, yaml.safe_dump(system.config, sort_keys=False).encode())


def run_command(name: str, command: str, overrides: list[str]) -> None:
    """Runs one of the project's commands, handing on to it the signals that ask it to save and stop.

    Raises InputError where it failed, SystemExit with its status where a signal stopped it."""
    script = Path(__file__).with_name(f"{command}.py")
    child = subprocess.Popen([sys.executable, str(script), *overrides], start_new_session=True)
    previous = {number: signal.signal(number, lambda number, _: child.send_signal(number))
                for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if status in {128 + number for number in previous}:
        raise SystemExit(status)
    if status:
        raise InputError(f"{name}: expected {command}.py to succeed, found exit status {status}; its message is above")


def read_figures(run: Run) -> dict:
    """The metrics.json of a run that was measured."""
    return json.loads((run.root / "metrics.json").read_text())


def row(system: System, published: float | None) -> dict[str, Any]:
    """A system's choices and figures, under the names that COLUMNS uses; what does not apply is None."""
    figures, trained = read_figures(system.run), read_config(system.run.stage1 / "config.yaml")
    bits, latents = figures["bits_per_dim"], figures["latents"]
    bounds, codes = figures["bounds"] or {}, figures["codes"] or {}
    elbo, multi_sample = bounds.get("elbo", {}), bounds.get("multi_sample", {})
    settings, samples = trained["train"], trained["autoencoder"]["bottleneck"].get("num_samples", 1)
    return {
        "system": system.name,
        **system.choices,
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
        "latent_bits_prior": latents["bits_prior"],
        "distortion": bits["distortion"],
        "perplexity": mean(codes.get("perplexity")),
        "used": mean(codes.get("used")),
        "num_codes": codes.get("num_codes"),
        "mean_norm": latents["mean_norm"],
        "nmse": figures.get("nmse"),
        "psnr_db": figures.get("psnr_db"),
        "updates": settings["steps"],
        "decoder_evaluations": settings["steps"] * settings["batch_size"] * samples,
        "seconds_a_step": figures["training_seconds"]["stage1"] / figures["stage1_step"],
    }


def mean(figure: float | dict | None) -> float | None:
    """Of several codebooks the mean."""
    return figure["mean"] if isinstance(figure, dict) else figure


def file_rows(data: Data, config: dict, split: str) -> list[dict]:
    """What the split's pictures take as files: lossless codes of the pixels, like a bound a rate in all."""
    rates = {"lossless WebP": file_rates.webp(data, split), "the data's own files": file_rates.own(data, config, split)}
    empty = dict.fromkeys(COLUMNS)
    return [{"system": name, **empty, "bound": bits} for name, bits in rates.items() if bits is not None]


def table(rows: list[dict]) -> str:
    """Markdown in even columns; those in which no row has a figure are left out."""
    columns = [key for key in COLUMNS if any(row[key] is not None for row in rows)]
    lines = [["system", *(COLUMNS[key][0] for key in columns)]]
    for own in rows:
        lines.append([own["system"], *("" if own[key] is None else COLUMNS[key][1].format(**own) for key in columns)])
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines = [[cell.ljust(width) for cell, width in zip(line, widths)] for line in lines]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw_reconstructions(path: Path, systems: list[System], data: Data, split: str) -> None:
    """The split's first pictures, and below them a row of reconstructions for each system."""
    pictures = data.split(split)
    batch = pictures.batch(torch.arange(min(SHOWN, len(pictures))))
    uniforms = np.random.Generator(np.random.Philox(key=[0, 0])).random((len(batch.x), *batch.x.shape[2:]))
    shown = {"original": batch.x}
    for system in systems:
        stage1 = load_stage1(system.run, torch.device("cpu"))
        labels = batch.labels[:, stage1.decoder_columns] if stage1.decoder_columns else None
        # what draws its pictures pixel by pixel does so from the uniforms
        shown[system.name] = stage1.module.evaluate(batch.x, labels, torch.from_numpy(uniforms)).reconstruction
    write_image(path, image_rows(shown))


def panel(systems: list[System], rows: list[dict], x: str, y: str) -> tuple[str, str, dict[str, list[tuple]]]:
    """Labels of both axes, and points: of figure y over each system's steps, or of column y over the axis x, a line for
    each choice on the other axes."""
    lines: dict[str, list[tuple]] = {}
    for system, own in zip(systems, rows, strict=True):
        if x == "step":
            logged = [step for step in read_metrics(system.run.stage1 / "metrics.jsonl") if step["split"] == "train"]
            lines[system.name] = [(step["step"], step[y]) for step in logged]
            continue
        others = in_words({axis: choice for axis, choice in system.choices.items() if axis != x})
        lines.setdefault(others, []).append((str(system.choices[x]), own[y]))
    return x, COLUMNS[y][0] if y in COLUMNS else y, lines


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
