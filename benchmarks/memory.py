"""Time of training steps with large tensors, freed memory kept; the floor is the same steps with memory given back.

    python benchmarks/memory.py             # one thread
    python benchmarks/memory.py --threads 2

The sizes are those of `cifar10_dvae` and `cifar10_vqvae_softmax`: batches of 32, 8x8 positions of 10 codebooks of 512
codes, 32x32 pixels of 3 values of 256 levels. Both settings run in turn, each time in a new process; medians over
processes are printed.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from pipelines.training.memory import keep_freed_memory
from stage1_vqvae.bottlenecks.gumbel import Gumbel
from stage1_vqvae.likelihoods.categorical import Categorical

STEPS = 5


def dvae() -> Callable[[], None]:
    """Forward and backward through the bottleneck."""
    bottleneck = Gumbel(num_codes=512, dim=160, num_codebooks=10)
    z = torch.randn(32, bottleneck.in_dim, 8, 8, requires_grad=True)

    def step() -> None:
        latent = bottleneck(z, step=0)
        (latent.z_q.square().sum() + latent.rate_nats.sum()).backward()

    return step


def softmax() -> Callable[[], None]:
    """Forward and backward through the likelihood."""
    likelihood = Categorical()
    params = torch.randn(32, 3 * 256, 32, 32).to(memory_format=torch.channels_last).requires_grad_()
    x = torch.randint(256, (32, 3, 32, 32), dtype=torch.uint8)
    return lambda: likelihood.objective(params, x).sum().backward()


def measure(kept: bool, threads: int) -> None:
    """Prints {name: seconds per step, "MiB": peak memory of the process}."""
    torch.set_num_threads(threads)
    if kept and not keep_freed_memory():
        raise SystemExit("this C library has no such setting")
    figures = {}
    for name, make in (("dVAE", dvae), ("softmax", softmax)):
        step = make()
        step()
        start = time.perf_counter()
        for _ in range(STEPS):
            step()
        figures[name] = (time.perf_counter() - start) / STEPS
    figures["MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description="Time with and without freed memory kept.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="processes per setting")
    parser.add_argument("--measure", choices=("given back", "kept"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure == "kept", args.threads)
        return
    found: dict[str, list[dict]] = {"given back": [], "kept": []}
    for _ in range(args.repeats):
        for way, figures in found.items():
            command = [sys.executable, __file__, "--measure", way, "--threads", str(args.threads)]
            figures.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    for name in found["kept"][0]:
        back, kept = (statistics.median(figures[name] for figures in found[way]) for way in ("given back", "kept"))
        unit = "" if name == "MiB" else " s"
        print(f"{name:8} given back {back:9.3f}{unit}   kept {kept:9.3f}{unit}   ratio {kept / back:.2f}")


if __name__ == "__main__":
    main()
