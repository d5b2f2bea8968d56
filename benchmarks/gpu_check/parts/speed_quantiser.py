"""The quantiser's training step against the bytes that it has to move and the products it has to make.

Bytes: z read, z_q and codes written; backward the upstream gradient, z and codes read, the gradient of z written: 5
passes over n x d float32 and two over n int64. Codebook and statistics are small beside these. Operations: 2 n K d for
the distances, in float32, which the quantiser never leaves. The larger of the two times is the floor.
"""

import torch

from benchmarks.gpu_check import timing
from benchmarks.gpu_check.recorder import Recorder

NEEDS = ("einops",)
SIZES = ((32_768, 64, 512), (1_048_576, 64, 512), (32_768, 64, 8192), (32_768, 64, 65_536))  # n, d, K


def main(recorder: Recorder) -> None:
    torch.manual_seed(0)
    for n, d, k in ((512, 64, 32), (512, 64, 64)) if recorder.small else SIZES:
        with recorder.check(f"quantiser, {n} vectors, K = {k}"):
            one(recorder, n, d, k)


def one(recorder: Recorder, n: int, d: int, k: int) -> None:
    from stage1_vqvae.bottlenecks.vq import EMAQuantizer

    device, card = recorder.device, timing.card()
    maps = torch.randn(n // 64, d, 8, 8, device=device).to(memory_format=torch.channels_last)
    upstream, z = torch.randn_like(maps), maps.clone(memory_format=torch.preserve_format).requires_grad_()
    quantizer = EMAQuantizer(k, d, initialise_from_data=False).to(device).train()
    optimizer = torch.optim.SGD([z], lr=0.0)

    def step() -> None:
        z.grad = None
        latent = quantizer(z)
        torch.autograd.backward([latent.z_q, latent.loss], [upstream, torch.ones_like(latent.loss)])
        quantizer.after_step(optimizer)

    seconds = timing.median_s(step, device, 3 if recorder.small else 15)
    moved, operations = 5 * 4 * n * d + 2 * 8 * n, 2 * n * k * d
    note = f"{moved / 1e6:.0f} MB, {operations / 1e9:.1f} GFLOP"
    if card is not None:
        floor = max(moved / card.bandwidth, operations / card.float32)
        note += f": floor {1e3 * floor:.3f} ms, {seconds / floor:.1f} times that"
    recorder.measure(f"quantiser step, {n} x {d}, K = {k}", 1e3 * seconds, "ms", note)
