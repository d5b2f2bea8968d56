"""Sampling, alone on the card: PixelCNN grids of 32x32, WaveNet positions. Medians, the first call apart.

Floor of a PixelCNN: one forward pass of all positions at once, float32. Floor of a WaveNet: its weights read once per
position, from the 50 MB of cache that they fit in; what is stated is the time of a position, whatever the batch.
"""

import time

import torch

from benchmarks.gpu_check import timing
from benchmarks.gpu_check.precision import tf32
from benchmarks.gpu_check.recorder import Recorder

NEEDS = ("einops",)
TARGET_S = 0.15  # 64 grids


def main(recorder: Recorder) -> None:
    torch.manual_seed(0)
    for run, n in ((pixelcnn, 64), (pixelcnn, 1), (wavenet, 1), (wavenet, 64), (wavenet, 256), (pixelcnn, 512)):
        with recorder.check(f"{run.__name__}, {n} samples"):
            run(recorder, n)


def pixelcnn(recorder: Recorder, n: int) -> None:
    from stage2_prior.pixelcnn import GatedPixelCNN
    from stage2_prior.sampling import sample

    device, (channels, layers, side, n) = recorder.device, (8, 3, 6, min(n, 8)) if recorder.small else (64, 15, 32, n)
    prior = GatedPixelCNN(512, channels=channels, num_layers=layers)
    with torch.no_grad():
        for head in prior.heads:
            head[3].weight.mul_(20)  # logits as wide as a trained prior's
    prior = prior.to(device).eval()
    u = torch.rand(n, side, side, dtype=torch.float64, device=device)
    start = time.perf_counter()
    codes = sample(prior, u)
    timing.synchronise(device)
    first = time.perf_counter() - start
    seconds = timing.median_s(lambda: sample(prior, u), device, 2 if recorder.small else 3, warm_up=1)
    with torch.inference_mode(), tf32(False):
        forward = timing.median_s(lambda: prior(codes), device, 5)
    name = f"{n} grids of {side}x{side}, {layers} layers of {channels}"
    recorder.measure(name, seconds, "s", f"{seconds / forward:.1f} forward passes; first call {first:.2f} s",
                     at_most=TARGET_S if n == 64 else None)


def wavenet(recorder: Recorder, n: int) -> None:
    from stage2_prior.sampling import sample
    from stage2_prior.wavenet import WaveNet

    device, (layers, length) = recorder.device, (3, 16) if recorder.small else (40, 1024)
    prior = WaveNet(num_layers=layers).to(device).eval()
    u = torch.rand(n, length, dtype=torch.float64, device=device)
    sample(prior, u[:, :16])
    seconds = timing.median_s(lambda: sample(prior, u), device, 2, warm_up=0)
    recorder.measure(f"WaveNet, {layers} layers, {n} x {length} positions", 1e6 * seconds / length, "us a position",
                     f"{n * length / seconds:,.0f} positions/s")
