"""The paper's CIFAR-10 at its sizes, for the time that is left, from the last checkpoint if there is one.

With --cifar10-root on its images; without, on frames of the simulated room at the same size, which the results name:
their bounds say nothing of CIFAR-10. At the end the checkpoint is packed into OUT/cifar10.part*, see pack.py, from
which --cifar10-from goes on.
"""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu_check import pack, report
from benchmarks.gpu_check.driver import ROOT
from benchmarks.gpu_check.recorder import Recorder, expect
from benchmarks.gpu_check.verbs import figures, metric_rows, on_device, run_verb, settings

NEEDS = ("hydra", "omegaconf", "einops", "safetensors", "tensorboard", "torchmetrics", "matplotlib", "tqdm")
EVALUATION_S = 30.0  # kept for packing and measuring
PUBLISHED = "published after 250,000 updates: 4.67 bits/dim"
TINY = ["autoencoder.encoder.hidden=16", "autoencoder.encoder.outer_hidden=16", "autoencoder.encoder.residual_hidden=8",
        "autoencoder.bottleneck.dim=20", "autoencoder.bottleneck.num_codes=16"]


def main(recorder: Recorder) -> None:
    run, stage = recorder.work / "cifar10", recorder.work / "cifar10" / "stage1"
    root = recorder.options.get("cifar10_root")
    name = "CIFAR-10" if root else "synthetic images (data=room, 32x32), not CIFAR-10"
    data = [f"data.root={root}"] if root else ["data=room", "data.size=32", "data.frames=64", "data.seed=0",
                                               f"data.episodes={8 if recorder.small else 512}"]
    common = ["experiment=cifar10", *data, f"runs_dir={recorder.work}", "run=cifar10", *on_device(recorder),
              "evaluate.classifier=false", "evaluate.samples=0", *settings(
                  ("stage1",), validate_every=1000, checkpoint_every=500, log_every=100),
              *([*TINY, *settings(("stage1",), batch_size=4, log_every=5)] if recorder.small else [])]
    before = 0
    if "cifar10_from" in recorder.options:
        with recorder.check("checkpoint taken up") as found:
            before = take_up(Path(recorder.options["cifar10_from"]), run)
            found.note(f"step {before}")
    with recorder.check("train_stage1 until the time is over") as found:
        seconds = train_for(recorder, common)
        rows = metric_rows(stage, "train")
        expect(bool(rows), "expected a row of training figures, found none")
        step = rows[-1]["step"]
        found.note(f"{name}: step {step} of 250000, {(step - before) / seconds:.1f} steps/s, start-up included; "
                   f"objective {rows[-1]['objective']:.4f}")
    with recorder.check("checkpoint packed") as found:
        found.note(pack.pack(stage, recorder.out))
    with recorder.check("bounds"):
        run_verb(recorder, "evaluate", *common)
        measured = figures(run)
        recorder.measure("bound, uniform prior", measured["bits_per_dim"]["total_uniform"], "bits/dim",
                         f"{name}, {measured['split']} split, step {measured['stage1_step']}; {PUBLISHED}")
        recorder.measure("NMSE", measured["nmse"], "", name)


def take_up(source: Path, run: Path) -> int:
    """Copies or unpacks a checkpoint into the run's folder; returns its step."""
    if (source / "stage1").is_dir():
        shutil.copytree(source, run)
    else:
        pack.unpack(source, run / "stage1")
    return int((run / "stage1/checkpoints/latest").read_text().strip().removeprefix("step-"))


def train_for(recorder: Recorder, arguments: list[str]) -> float:
    """Trains, then sends SIGTERM, after which the present step is saved. Returns the seconds it had."""
    command = [sys.executable, "-m", "pipelines.train_stage1", *arguments]
    seconds = 30.0 if recorder.small else recorder.left_s() - EVALUATION_S
    expect(seconds > 5, f"expected 5 s for training, found {seconds:.0f}")
    start = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
        status = process.wait(max(5.0, recorder.left_s()))
    recorder.record("training ended", report.MEASURED, note=f"exit status {status}")
    expect(status in (0, 128 + signal.SIGTERM), f"expected exit status 0 or 143, found {status}")
    return time.monotonic() - start
