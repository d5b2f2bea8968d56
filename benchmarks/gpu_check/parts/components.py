"""Every bottleneck and every likelihood of images: stage 1 on the bundled digits for a few steps, in one process; then
`compare`, which runs the commands itself."""

import math

from benchmarks.gpu_check.driver import ROOT
from benchmarks.gpu_check.parts.digits import NEEDS, SHORT
from benchmarks.gpu_check.recorder import Recorder, expect
from benchmarks.gpu_check.verbs import call_verb, metric_rows, on_device, run_verb, settings

__all__ = ["NEEDS", "main"]
CONFIGS = ROOT / "configs" / "autoencoder"
BOTTLENECKS = sorted(path.stem for path in (CONFIGS / "bottleneck").glob("*.yaml"))
NOT_OF_IMAGES = {"codes", "mu_law", "mu_law_wave"}
LIKELIHOODS = sorted({path.stem for path in (CONFIGS / "likelihood").glob("*.yaml")} - NOT_OF_IMAGES)


def main(recorder: Recorder) -> None:
    for group, names in (("bottleneck", BOTTLENECKS), ("likelihood", LIKELIHOODS)):
        for name in names:
            with recorder.check(f"{group} {name}"):
                few_steps(recorder, f"{group}_{name}", f"autoencoder/{group}={name}")
    with recorder.check("autoencoder pixelcnn_decoder"):
        few_steps(recorder, "pixelcnn_decoder", "autoencoder=pixelcnn_decoder")
    with recorder.check("compare"):
        run_verb(recorder, "compare", "mnist", "--only", "VQ-VAE", "data=digits", "--out", recorder.work / "compared",
                 "autoencoder.encoder.num_downsamplings=1", *settings(**SHORT), "evaluate.samples=20",
                 *on_device(recorder))


def few_steps(recorder: Recorder, name: str, choice: str) -> None:
    """Six steps with validation and a checkpoint; the losses are finite numbers."""
    call_verb("train_stage1", ["experiment=digits", choice, f"runs_dir={recorder.work}", f"run={name}",
                               *on_device(recorder), *settings(("stage1",), **SHORT | {
                                   "steps": 6, "validate_every": 3, "checkpoint_every": 6, "log_every": 3})])
    losses = [row["loss"] for row in metric_rows(recorder.work / name / "stage1", "train")]
    expect(len(losses) == 2 and all(loss is not None and math.isfinite(loss) for loss in losses),
           f"expected two finite losses, found {losses}")
