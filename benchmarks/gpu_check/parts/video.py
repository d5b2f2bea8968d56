"""Video: walks in the simulated room, through every command; then an autoencoder that compresses time too."""

from benchmarks.gpu_check.recorder import Recorder
from benchmarks.gpu_check.verbs import on_device, run_verb, settings

NEEDS = ("hydra", "omegaconf", "einops", "safetensors", "tensorboard", "torchmetrics", "matplotlib", "tqdm")
WIDTHS = ("hidden=8", "outer_hidden=8", "residual_hidden=4", "num_downsamplings=1")
TINY = ["autoencoder.bottleneck.num_codes=16", "autoencoder.bottleneck.dim=4", "prior.channels=8", "prior.num_layers=1",
        "prior.num_temporal_layers=1", "prior.first_kernel_size=3", "prior.head_channels=16"]
ROOM = ["data.episodes=8", "data.frames=16", "data.size=12", "data.clip_length=8", "data.validation_fraction=0.25"]


def main(recorder: Recorder) -> None:
    steps = 6 if recorder.small else 150
    common = [f"runs_dir={recorder.work}", *on_device(recorder), *settings(
        steps=steps, batch_size=2 if recorder.small else 8, validate_every=steps // 2, checkpoint_every=steps // 2,
        log_every=2), "evaluate.predictions=3", "evaluate.context=4"]
    small = [*ROOM, *TINY]
    frames = ["experiment=room_video", "run=frames", *common, "data.episodes=64"]
    if recorder.small:
        frames += [*small, *(f"autoencoder.encoder.network.{width}" for width in WIDTHS)]
    for verb in ("train_stage1", "extract_codes", "train_stage2", "evaluate"):
        with recorder.check(verb):
            run_verb(recorder, verb, *frames)
    flags = ["--run", recorder.work / "frames", "--device", recorder.device]
    with recorder.check("sample"):
        run_verb(recorder, "sample", *flags, "--n", 2, "--out", recorder.work / "samples")
    with recorder.check("predict_video"):
        run_verb(recorder, "predict_video", *flags, "--n", 2, "--context", 4, "--frames", 4, "--actions", "recorded",
                 "forward", "--out", recorder.work / "predictions")
    halved = ["experiment=digits", "data=room", "autoencoder=video", "prior=gated_pixelcnn3d", "run=halved", *common,
              *small, *(f"autoencoder.encoder.{width}" for width in (*WIDTHS, "temporal_stride=2"))]
    for verb in ("train_stage1", "extract_codes", "train_stage2"):
        with recorder.check(f"{verb}, 3-D convolutions"):
            run_verb(recorder, verb, *halved)
