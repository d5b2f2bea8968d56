"""Audio: recordings of tones by two speakers, through every command, speaker conversion among them."""

from benchmarks.gpu_check.recorder import Recorder, expect
from benchmarks.gpu_check.verbs import figures, on_device, run_verb, settings

NEEDS = ("hydra", "omegaconf", "einops", "safetensors", "soundfile", "torchaudio", "pystoi", "torchmetrics",
         "tensorboard", "matplotlib", "tqdm")
TINY = ["autoencoder.encoder.hidden=8", "autoencoder.bottleneck.num_codes=16", "autoencoder.bottleneck.dim=4",
        "autoencoder.decoder.upsampler.hidden=8", "autoencoder.decoder.upsampler.channels=8",
        "autoencoder.decoder.upsampler.out_channels=4", "autoencoder.decoder.network.num_layers=3",
        "autoencoder.decoder.network.residual_channels=8", "autoencoder.decoder.network.gate_channels=8",
        "autoencoder.decoder.network.skip_channels=8", "prior.num_layers=2", "prior.residual_channels=8",
        "prior.gate_channels=8", "prior.skip_channels=8"]


def main(recorder: Recorder) -> None:
    run, recordings = recorder.work / "tones", recorder.inputs / "fsdd"
    steps = 20 if recorder.small else 200
    common = ["experiment=fsdd", f"runs_dir={recorder.work}", "run=tones", f"data.root={recordings}",
              f"data.cache={recorder.work / 'cache'}", "data.crop=512", "data.length=1024", "data.workers=1",
              "data.validation_fraction=0.2", "evaluate.samples=6", *on_device(recorder), *settings(
                  steps=steps, batch_size=8, validate_every=steps // 2, checkpoint_every=steps // 2, log_every=5),
              *(TINY if recorder.small else [])]
    for verb in ("train_stage1", "extract_codes", "train_stage2", "evaluate"):
        with recorder.check(verb):
            run_verb(recorder, verb, *common)
    with recorder.check("figures") as found:
        bits = figures(run)["audio"]["bits_per_symbol"]
        found.note(f"{bits:.3f} bits per mu-law symbol")
        expect(0 < bits < 8.5, f"expected fewer bits than about 8, those of uniform symbols, found {bits}")
    flags = ["--run", run, "--device", recorder.device]
    with recorder.check("sample"):
        run_verb(recorder, "sample", *flags, "--n", 4, "--out", recorder.work / "samples", "--label", "digit=7",
                 "--seconds", 0.064)
    with recorder.check("reconstruct"):
        run_verb(recorder, "reconstruct", *flags, "--input", recordings / "7_ann_0.wav", "--out",
                 recorder.work / "reconstructions", "--label", "speaker=ann")
    with recorder.check("convert_speaker"):
        run_verb(recorder, "convert_speaker", *flags, "--input", recordings / "7_ann_0.wav", "--speaker", "bob",
                 "--out", recorder.work / "conversions")
