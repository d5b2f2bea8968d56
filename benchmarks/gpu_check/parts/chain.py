"""Codes of codes: an autoencoder on the codes of another run, its prior, and samples decoded down to frames."""

from benchmarks.gpu_check.recorder import Recorder, expect
from benchmarks.gpu_check.verbs import figures, on_device, run_verb, settings

NEEDS = ("hydra", "omegaconf", "einops", "safetensors", "tensorboard", "torchmetrics", "matplotlib", "tqdm")
BOTTOM = ["autoencoder.encoder.hidden=8", "autoencoder.encoder.outer_hidden=8", "autoencoder.encoder.residual_hidden=4",
          "autoencoder.bottleneck.num_codes=32", "autoencoder.bottleneck.dim=4"]
TOP = ["autoencoder.encoder.encoder.encoder.hidden=8", "autoencoder.encoder.encoder.encoder.outer_hidden=8",
       "autoencoder.encoder.encoder.encoder.residual_hidden=4", "autoencoder.encoder.encoder.channels=8",
       "autoencoder.encoder.features=4", "autoencoder.bottleneck.dim=6", "autoencoder.decoder.network.channels=8",
       "autoencoder.decoder.network.num_layers=2", "autoencoder.decoder.network.head_channels=8",
       "autoencoder.decoder.upsampler.decoder.decoder.out_channels=4"]
PRIOR = ["prior.channels=8", "prior.num_layers=2", "prior.head_channels=8"]


def main(recorder: Recorder) -> None:
    runs, steps = recorder.work, 3 if recorder.small else 60
    common = [f"runs_dir={runs}", *on_device(recorder), *settings(
        steps=steps, batch_size=8, validate_every=steps, checkpoint_every=steps, log_every=3)]
    bottom = ["experiment=doom", "data=room", "data.episodes=8", "data.frames=12", "data.size=24", "run=bottom",
              *common, *BOTTOM, *PRIOR]
    top = ["experiment=doom_3codes", f"data.run={runs}/bottom", "autoencoder.bottleneck.num_codes=8", *common, *TOP,
           *PRIOR, f"evaluate.unconditional={runs}/unconditional", "evaluate.batch_size=10"]
    for name, verb, arguments in (
            ("level 1: train_stage1", "train_stage1", bottom), ("level 1: extract_codes", "extract_codes", bottom),
            ("level 2: train_stage1", "train_stage1", [*top, "run=top"]),
            ("level 2: extract_codes", "extract_codes", [*top, "run=top"]),
            ("level 2: train_stage2", "train_stage2", [*top, "run=top"]),
            ("unconditional decoder: train_stage1", "train_stage1",
             [*top, "run=unconditional", "autoencoder.bottleneck.num_codes=1"]),
            ("level 2: evaluate", "evaluate", [*top, "run=top"])):
        with recorder.check(name):
            run_verb(recorder, verb, *arguments)
    with recorder.check("nats per frame are measured"):
        expect("frame_nats" in figures(runs / "top"), "expected frame_nats in metrics.json")
    flags = ["--run", runs / "top", "--device", recorder.device]
    with recorder.check("sample, decoded through both levels"):
        run_verb(recorder, "sample", *flags, "--n", 3, "--out", recorder.work / "samples")
    with recorder.check("reconstruct through both levels"):
        run_verb(recorder, "reconstruct", *flags, "--input", recorder.work / "samples", "--out",
                 recorder.work / "reconstructions")
