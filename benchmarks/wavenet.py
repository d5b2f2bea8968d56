"""Speed of compiled WaveNet sampling; the floor is the speed of the cached step in PyTorch.

    python benchmarks/wavenet.py                # 40 layers of 32 / 64 / 256 channels, K = 256
    python benchmarks/wavenet.py --length 16384 --batch 64 --local-channels 64

Speeds are the best and the median of --repeats, in positions (codes) per second, summed over samples; the compiled loop
and the PyTorch step take turns, so that both meet the same load of the machine. Then how many codes of a short float32
check differ from naive sampling, and of one in float64, where none may.
"""

import argparse
import os
import statistics
import time

import torch
from torch import Tensor

from stage2_prior.sampling import sample, sample_naive
from stage2_prior.wavenet import WaveNet


class SteppedWaveNet(WaveNet):
    """Without the compiled loop: a few hundred PyTorch operations per position."""

    def compiled_loop(self) -> None:
        return None


def main() -> None:
    """Times the PyTorch step and the compiled loop, and compares codes with naive sampling."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--stepped-length", type=int, default=256, help="positions to time the PyTorch step")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--local-channels", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    cores = torch.get_num_threads()
    torch.manual_seed(0)
    prior = _sharpened(WaveNet(num_layers=arguments.layers, local_channels=arguments.local_channels)).eval()
    size = sum(parameter.numel() for parameter in prior.parameters()) - prior.embeddings[0].weight.numel()
    print(f"{arguments.layers} layers, K={prior.num_codes}, {prior.local_channels} local channels, float32: "
          f"{size * 4e-6:.2f} MB of weights per position; {cores} threads, load {_load()}")
    _speed(prior, 1, 300)  # compiles

    torch.set_num_threads(1)
    compiled, stepped = [], []
    for _ in range(arguments.repeats):
        compiled.append(_speed(prior, 1, arguments.length))
        prior.__class__ = SteppedWaveNet
        stepped.append(_speed(prior, 1, arguments.stepped_length))
        prior.__class__ = WaveNet
    torch.set_num_threads(cores)
    many = [_speed(prior, arguments.batch, arguments.length) for _ in range(arguments.repeats)]
    _report("1 sample, 1 thread, PyTorch step", stepped)
    _report("1 sample, 1 thread, compiled", compiled)
    best, median = (f(compiled) / f(stepped) for f in (max, statistics.median))
    print(f"{'  times the PyTorch step':<44}{best:>12.1f}{median:>12.1f}")
    _report(f"{arguments.batch} samples, {cores} threads, compiled", many)

    for dtype in (torch.float32, torch.float64):
        prior = prior.to(dtype)
        uniforms, conditions = _inputs(prior, 4, 64)
        differing = sample(prior, uniforms, **conditions) != sample_naive(prior, uniforms, **conditions)
        name = f"codes that differ from naive, {dtype}"
        print(f"{name:<44}{differing.float().mean():>12.4%}".replace("torch.", ""))
    print(f"load {_load()}")


def _inputs(prior: WaveNet, n: int, length: int) -> tuple[Tensor, dict[str, Tensor]]:
    local = torch.randn(n, prior.local_channels, length) if prior.local_channels else None
    return torch.rand(n, length, dtype=torch.float64), {} if local is None else {"local": local}


def _speed(prior: WaveNet, n: int, length: int) -> float:
    """Positions per second, summed over samples."""
    uniforms, conditions = _inputs(prior, n, length)
    start = time.perf_counter()
    sample(prior, uniforms, **conditions)
    return n * length / (time.perf_counter() - start)


def _report(name: str, speeds: list[float]) -> None:
    print(f"{name:<44}{max(speeds):>10,.0f}/s{statistics.median(speeds):>10,.0f}/s")


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def _sharpened(prior: WaveNet) -> WaveNet:
    """Logits with a standard deviation near 2, as in a trained prior; an untrained one is close to uniform."""
    with torch.no_grad():
        for head in prior.heads:
            head[3].weight *= 20
    return prior


if __name__ == "__main__":
    main()
