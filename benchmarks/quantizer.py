"""Time of a vector quantiser's training step; the floor is the bare matrix product of its sizes.

    python benchmarks/quantizer.py                      # 32,768 vectors of 64 dimensions, 512 codes, two threads
    python benchmarks/quantizer.py --codes 8192 --device cuda

The bare product z @ e.T writes all n x K scores: into newly allocated memory, as the expression does, and into memory
that is reused. A quantiser's step is forward and backward in training mode, with its statistics, the update of the
codebook and the revival of dead codes. All contenders run in turn, --repeats times, so that each meets the same load of
the machine; medians and fastest runs are printed.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

from stage1_vqvae.bottlenecks.vq import EMAQuantizer, GradientQuantizer, VectorQuantizer

POSITIONS = 64  # 8x8 latents


def ours(quantizer: VectorQuantizer, maps: Tensor, upstream: Tensor) -> Callable[[], None]:
    """One training step of the bottleneck alone, on maps (b, d, h, w), the output of a convolution."""
    vectors = maps.movedim(1, -1).flatten(0, -2)
    quantizer.initialise(vectors[: 8 * quantizer.num_codes])
    maps = maps.clone(memory_format=torch.preserve_format).requires_grad_()
    optimizer = torch.optim.SGD([maps], lr=0.0)

    def step() -> None:
        maps.grad = None
        quantizer.zero_grad()
        latent = quantizer(maps)
        torch.autograd.backward([latent.z_q, latent.loss], [upstream, torch.ones_like(latent.loss)])
        quantizer.after_step(optimizer)

    return step


def theirs(module: nn.Module, vectors: Tensor, upstream: Tensor) -> Callable[[], None]:
    """The same with vector-quantize-pytorch, on vectors (b, n, d), its fastest layout."""
    vectors = vectors.clone().requires_grad_()

    def step() -> None:
        vectors.grad = None
        z_q, _, loss = module(vectors)
        torch.autograd.backward([z_q, loss.sum()], [upstream, torch.ones_like(loss.sum())])

    return step


def contenders(n: int, d: int, k: int, device: str) -> dict[str, Callable[[], object]]:
    """By name, a training step of each contender on the same n vectors of dimension d and k codes."""
    maps = torch.randn(n // POSITIONS, d, 8, 8, device=device)
    upstream = torch.randn_like(maps)
    channels_last = maps.to(memory_format=torch.channels_last), upstream.to(memory_format=torch.channels_last)
    vectors = maps.flatten(2).mT.contiguous()
    z, e, scores = vectors.flatten(0, 1), torch.randn(k, d, device=device), torch.empty(n, k, device=device)
    module = VectorQuantize(d, k, decay=0.99, commitment_weight=0.25, kmeans_init=True, threshold_ema_dead_code=2)
    return {
        "bare product, new memory": lambda: z @ e.T,
        "bare product, reused memory": lambda: torch.mm(z, e.T, out=scores),
        "EMAQuantizer, channels last": ours(EMAQuantizer(k, d).to(device), *channels_last),
        "EMAQuantizer": ours(EMAQuantizer(k, d).to(device), maps, upstream),
        "GradientQuantizer, channels last": ours(GradientQuantizer(k, d).to(device), *channels_last),
        "GradientQuantizer": ours(GradientQuantizer(k, d).to(device), maps, upstream),
        "vector-quantize-pytorch": theirs(module.to(device), vectors, upstream.flatten(2).mT.contiguous()),
    }


def measure(runs: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, list[float]]:
    """Milliseconds of each run; they take turns, and the first two rounds are warm-up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 2):
        for name, run in runs.items():
            if device != "cpu":
                torch.cuda.synchronize()
            start = time.perf_counter()
            run()
            if device != "cpu":
                torch.cuda.synchronize()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: values[2:] for name, values in times.items()}


def main() -> None:
    """Runs all contenders in turn and prints medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=32768, help=f"a multiple of {POSITIONS}")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--codes", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    times = measure(contenders(args.vectors, args.dim, args.codes, args.device), args.repeats, args.device)
    bare, reused = (statistics.median(times[f"bare product, {memory} memory"]) for memory in ("new", "reused"))
    size = f"{args.vectors} vectors, D={args.dim}, K={args.codes}"
    print(f"{size}, {args.device}, {args.threads} threads, torch {torch.__version__}")
    print(f"{'':34}{'median ms':>10}{'fastest':>10}{'/ new':>8}{'/ reused':>9}")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:34}{median:10.2f}{min(values):10.2f}{median / bare:8.2f}{median / reused:9.2f}")


if __name__ == "__main__":
    main()
