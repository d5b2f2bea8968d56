"""Time of cached PixelCNN sampling; the floor is one forward pass over all positions.

    python benchmarks/sampling.py               # in full: 64 grids of 32 x 32, 15 layers of 64 channels, K = 512
    python benchmarks/sampling.py --grid 8 8 --steps

Prints seconds, the best of --repeats, an estimate for naive sampling (one forward pass per code), and how many codes of
a small float32 check differ from naive sampling.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from stage2_prior.pixelcnn import GatedPixelCNN
from stage2_prior.sampling import sample, sample_naive


class SteppedPixelCNN(GatedPixelCNN):
    """Without the compiled loop, as on a GPU."""

    def compiled_loop(self) -> None:
        return None


def main() -> None:
    """Times one forward pass and cached sampling, and compares codes with naive sampling."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--grid", type=int, nargs=2, default=(32, 32))
    parser.add_argument("--layers", type=int, default=15)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--num-codes", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", action="store_true", help="also time the stepper in PyTorch")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    prior = GatedPixelCNN(arguments.num_codes, channels=arguments.channels, num_layers=arguments.layers)
    prior = _sharpened(prior).to(arguments.device).eval()
    codes = torch.randint(arguments.num_codes, (arguments.n, *arguments.grid), device=arguments.device)
    uniforms = torch.rand(arguments.n, *arguments.grid, dtype=torch.float64, device=arguments.device)
    sample(prior, uniforms[:, :1, :1])  # compiles

    with torch.inference_mode():
        layouts = (torch.contiguous_format, torch.channels_last)
        forward = min(_seconds(lambda: prior.to(memory_format=x)(codes), arguments.repeats) for x in layouts)
    sampled = _seconds(lambda: sample(prior, uniforms), arguments.repeats)
    grid = "x".join(map(str, arguments.grid))
    print(f"{arguments.n} grids of {grid}, {arguments.layers} layers x {arguments.channels}, K={arguments.num_codes}, "
          f"float32, {arguments.device}, {torch.get_num_threads()} threads, best of {arguments.repeats}")
    print(f"{'one forward pass':<44}{forward:>10.3f} s")
    print(f"{'sample':<44}{sampled:>10.3f} s{sampled / forward:>10.2f} forward passes")
    if arguments.steps:
        prior.__class__ = SteppedPixelCNN
        stepped = _seconds(lambda: sample(prior, uniforms), 1)
        prior.__class__ = GatedPixelCNN
        print(f"{'sample, stepper in PyTorch':<44}{stepped:>10.3f} s{stepped / forward:>10.2f} forward passes")
    naive = forward * codes[0].numel()
    print(f"{'sample_naive, estimated':<44}{naive:>10.0f} s{naive / sampled:>10.0f} times sample")
    check = uniforms[:8, :8, :8]
    differing = (sample(prior, check) != sample_naive(prior, check)).float().mean()
    print(f"{'codes that differ from sample_naive, 8 of 8x8':<44}{differing:>10.4%}")


def _sharpened(prior: GatedPixelCNN) -> GatedPixelCNN:
    """Logits with a standard deviation near 2, as in a trained prior; an untrained one is close to uniform."""
    with torch.no_grad():
        for head in prior.heads:
            head[3].weight *= 20
    return prior


def _seconds(run: Callable[[], Tensor], repeats: int) -> float:
    run()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run().sum().item()  # waits for a GPU
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    main()
