"""Which prior: each trained for as many processor minutes on the codes of one run, by held-out bits and sampling time.

    python -m benchmarks.priors --run runs/mnist --experiment mnist --minutes 5
    python -m benchmarks.priors --run runs/fsdd --experiment fsdd --minutes 5 --priors wavenet transformer

The run has a trained stage 1 and extracted codes; both are copied, and each prior is a run of its own below --out, made
by the ordinary commands. The experiment's prior keeps the experiment's settings; a transformer's are those of
`TRANSFORMER`, by the number of positions. Steps follow from the measured time of one, as in `make study`. The best
checkpoint counts. A training that was interrupted goes on, and what is finished is not repeated.

Prints for each prior its parameters, steps, bits per code of the validation split, and the seconds that the codes of 64
samples take; with --samples also figures of evaluate.py on samples.
"""

import argparse
import json
import math
import shutil
import time
from pathlib import Path

import torch

from pipelines.api import load
from pipelines.commands.flags import VerbParser, folder
from pipelines.commands.processes import run_verb
from pipelines.data.codes import CodeData
from pipelines.evaluation.budget import FILE, describe_budget, steps_within
from pipelines.files.atomic import write_atomically
from pipelines.files.errors import InputError, one_line_errors
from pipelines.files.places import config_names, configs
from pipelines.runs.config import composed, read_config
from pipelines.runs.store import run_of
from pipelines.training.checkpoint import find_checkpoint, read_state
from stage2_prior.prior import Prior
from stage2_prior.sampling import sample

SAMPLES = 64
# up to so many positions: what suits a few minutes on a CPU
TRANSFORMER = {
    64: ["prior.channels=128", "prior.num_layers=4", "prior.dropout=0.1", "stage2.lr=2e-3", "stage2.warmup_steps=200"],
    128: ["prior.channels=128", "prior.num_layers=4", "prior.dropout=0.2", "stage2.lr=2e-3", "stage2.warmup_steps=200"],
    441: ["prior.channels=128", "prior.num_layers=6", "prior.dropout=0", "stage2.lr=1.5e-3", "stage2.warmup_steps=200"],
    1024: ["prior.channels=128", "prior.num_layers=6", "prior.dropout=0", "stage2.lr=1e-3", "stage2.warmup_steps=200"],
}


def parse_arguments() -> argparse.Namespace:
    parser = VerbParser(__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of a run with stage 1 and codes")
    parser.add_argument("--experiment", required=True, help="the run's experiment")
    parser.add_argument("--minutes", type=float, default=5.0, help="of processor time for each prior (default: 5)")
    parser.add_argument("--priors", nargs="+", default=["gated_pixelcnn", "transformer"],
                        choices=config_names("prior"))
    parser.add_argument("--samples", action="store_true", help="also evaluate samples; needs the run's data")
    parser.add_argument("--out", type=folder, help="default: runs/priors_EXPERIMENT")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of all, such as data.root=FOLDER")
    return parser.parse_intermixed_args()


def main(arguments: argparse.Namespace) -> None:
    out = arguments.out or Path("runs") / f"priors_{arguments.experiment}"
    rows = []
    for name in arguments.priors:
        settings = settings_of(name, arguments, out)
        train(name, settings, arguments)
        rows.append({"prior": name} | figures(settings, arguments.samples))
    write_atomically(out / "priors.json", (json.dumps(rows, indent=1) + "\n").encode())
    keys = list(rows[0])
    print("| " + " | ".join(keys) + " |\n" + "| --- " * len(keys) + "|")
    for row in rows:
        print("| " + " | ".join(shown(row[key]) for key in keys) + " |")


def settings_of(name: str, arguments: argparse.Namespace, out: Path) -> list[str]:
    chosen = [f"experiment={arguments.experiment}", f"runs_dir={out}", f"run={name}", *arguments.overrides]
    if read_config(configs() / "prior" / f"{name}.yaml")["_target_"] == composed(chosen).prior._target_:
        return chosen
    own: list[str] = []
    if name == "transformer":
        positions = math.prod(CodeData(arguments.run / "codes").grid)
        own = [*next(own for most, own in TRANSFORMER.items() if positions <= most), "prior.num_heads=8"]
    return [*chosen, f"prior={name}", *own]


def train(name: str, settings: list[str], arguments: argparse.Namespace) -> None:
    run = run_of(composed(settings))
    for part in ("stage1", "codes"):
        if not (arguments.run / part).is_dir():
            raise InputError(f"--run: expected a folder {part} in {arguments.run}, found none")
        if not (run.root / part).exists():
            shutil.copytree(arguments.run / part, run.root / part)
    steps = steps_within(arguments.minutes, "stage2", settings, lambda: None)
    print(f"{name}: {describe_budget(run, 'stage2')}", flush=True)
    often = max(1, steps // 4)  # long splits take longer to validate than to train on
    verbs = {"train_stage2": [f"stage2.steps={steps}", f"stage2.validate_every={often}",
                              f"stage2.checkpoint_every={often}"]}
    if arguments.samples:
        verbs["evaluate"] = ["evaluate.classifier=false", "evaluate.copies=0", "evaluate.bound_samples=0"]
    for verb, own in verbs.items():
        if verb == "evaluate" and (run.root / "metrics.json").exists():
            continue
        if status := run_verb(verb, [*settings, *own]):
            raise InputError(f"{name}: expected {verb} to succeed, found exit status {status}; its message is above")


def figures(settings: list[str], samples: bool) -> dict[str, float | int]:
    """Of the best checkpoint."""
    run = run_of(composed(settings))
    folder = find_checkpoint(run.stage2, "best")
    assert folder is not None
    best = read_state(folder)
    assert best.best_score is not None
    loaded = load(str(run.root), "cpu")
    codes = CodeData(run.codes)
    found: dict[str, float | int] = {
        "parameters": sum(parameter.numel() for parameter in loaded.stage2.parameters()),
        "steps": read_config(run.root / FILE)["stage2"]["steps"],
        "best step": best.step,
        "held-out bits per code": best.best_score,
        f"{SAMPLES} samples, s": sampling_seconds(loaded.stage2, codes.grid),
    }
    if samples:
        networks = json.loads((run.root / "metrics.json").read_text())["quality"]["networks"]
        found |= next(iter(networks.values()))["samples"]
    return found


def sampling_seconds(prior: Prior, grid: tuple[int, ...]) -> float:
    """The fastest of three, after one that compiles."""
    g = (prior.num_codebooks,) if prior.num_codebooks > 1 else ()
    uniforms = torch.rand(SAMPLES, *grid, *g, dtype=torch.float64)
    labels = torch.zeros(SAMPLES, len(prior.num_classes), dtype=torch.int64)
    local = torch.zeros(SAMPLES, prior.local_channels, *grid) if prior.local_channels else None
    seconds = []
    for _ in range(4):
        start = time.monotonic()
        sample(prior, uniforms, labels, local)
        seconds.append(time.monotonic() - start)
    return min(seconds[1:])


def shown(value: str | float) -> str:
    return f"{value:,d}" if isinstance(value, int) else value if isinstance(value, str) else f"{value:.4g}"


if __name__ == "__main__":
    with one_line_errors():
        main(parse_arguments())
