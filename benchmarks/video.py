"""Time of cached video sampling after a given context; the floor is one forward pass over all frames.

    python benchmarks/video.py                       # 10 frames of 21 x 21 after 6, K = 512, the sizes of configs/prior
    python benchmarks/video.py --frames 2 --n 1 --steps
    python benchmarks/video.py --device cuda

Prints seconds, the best of --repeats, for a forward pass and for sampling with and without the context, and how many
codes of a small float32 check differ from naive sampling (one forward pass per code).
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from stage2_prior.sampling import sample, sample_naive
from stage2_prior.video import GatedPixelCNN3d

ACTIONS = 4  # channels of local


class SteppedPixelCNN3d(GatedPixelCNN3d):
    """Without the compiled loop, as on a GPU."""

    def compiled_loop(self) -> None:
        return None


def main() -> None:
    """Times a forward pass and sampling after a context, and prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--context", type=int, default=6)
    parser.add_argument("--frames", type=int, default=10, help="sampled after the context")
    parser.add_argument("--grid", type=int, nargs=2, default=(21, 21))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", action="store_true", help="also time the stepper in PyTorch")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    prior = _sharpened(GatedPixelCNN3d(local_channels=ACTIONS)).to(arguments.device).eval()
    shape = (arguments.n, arguments.context + arguments.frames, *arguments.grid)
    codes = torch.randint(prior.num_codes, shape, device=arguments.device)
    uniforms = torch.rand(shape, dtype=torch.float64, device=arguments.device)
    local = torch.randn(arguments.n, ACTIONS, *shape[1:], device=arguments.device)
    known = codes.clone()
    known[:, arguments.context :] = -1
    sample(prior, uniforms[:, :2, :1, :1], local=local[:, :, :2, :1, :1])  # compiles

    with torch.inference_mode():
        forward = _seconds(lambda: prior(codes, local=local), arguments.repeats)
    print(f"{arguments.n} videos of {arguments.context} + {arguments.frames} frames of "
          f"{'x'.join(map(str, arguments.grid))}, K={prior.num_codes}, float32, {arguments.device}, "
          f"{torch.get_num_threads()} threads, best of {arguments.repeats}")
    _report("one forward pass, all frames", forward, forward)
    _report("sample, context given", _seconds(lambda: sample(prior, uniforms, None, local, known=known),
                                              arguments.repeats), forward)
    _report("sample, no context", _seconds(lambda: sample(prior, uniforms, None, local), arguments.repeats), forward)
    if arguments.steps:
        prior.__class__ = SteppedPixelCNN3d
        stepped = _seconds(lambda: sample(prior, uniforms, None, local, known=known), 1)
        prior.__class__ = GatedPixelCNN3d
        _report("sample, context given, stepper", stepped, forward)
    _report("sample_naive, context given, estimated", forward * codes[0, arguments.context :].numel(), forward)
    check, conditions = uniforms[:4, :3, :5, :6], local[:4, :, :3, :5, :6]
    differing = sample(prior, check, local=conditions) != sample_naive(prior, check, local=conditions)
    print(f"{'codes that differ from sample_naive, 3x5x6':<44}{differing.float().mean():>10.4%}")


def _report(name: str, seconds: float, forward: float) -> None:
    print(f"{name:<44}{seconds:>10.3f} s{seconds / forward:>10.2f} forward passes")


def _sharpened(prior: GatedPixelCNN3d) -> GatedPixelCNN3d:
    """Logits with a standard deviation near 2, as in a trained prior; an untrained one is close to uniform."""
    with torch.no_grad():
        for head in prior.frame.heads:
            head[3].weight *= 20
    return prior


def _seconds(run: Callable[[], Tensor], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run().sum().item()  # waits for a GPU
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    main()
