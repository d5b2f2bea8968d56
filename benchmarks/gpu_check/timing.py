"""Medians of times, counts of FLOPs, and what the cards can do at most."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Card:
    """Datasheet peaks, dense: FLOP/s of bfloat16 and TF32 matrix units and of float32 units; bytes/s of memory."""

    bfloat16: float
    tf32: float
    float32: float
    bandwidth: float


# NVIDIA's datasheets of H100 and H200; dense rates, half of those that are stated with sparsity.
CARDS = {
    "H200": Card(989.4e12, 494.7e12, 66.9e12, 4.8e12),
    "H100 PCIe": Card(756e12, 378e12, 51.2e12, 2.0e12),
    "H100 NVL": Card(835e12, 417.5e12, 60e12, 3.9e12),
    "H100": Card(989.4e12, 494.7e12, 66.9e12, 3.35e12),  # SXM
}


def card() -> Card | None:
    """The present card's peaks; None for a CPU and for cards that are not listed."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((peaks for key, peaks in CARDS.items() if key in name), None)


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def median_s(run: Callable[[], object], device: str, repeats: int, warm_up: int = 3) -> float:
    """Median seconds of a call, each waited for."""
    for _ in range(warm_up):
        run()
    times = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        run()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def median_of_steps_s(run: Callable[[], object], device: str, repeats: int, steps: int = 20) -> float:
    """Median seconds of a call in rows of `steps` without waiting in between, as a training loop runs."""

    def row() -> None:
        for _ in range(steps):
            run()

    return median_s(row, device, repeats, warm_up=1) / steps


def count_flops(run: Callable[[], object]) -> int:
    """Floating-point operations of all products and convolutions of a call, backward passes included."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def share(flops: int, seconds: float, peak: float | None) -> str:
    """The rate, and its share of a peak where that is known."""
    rate = f"{flops / 1e9:.1f} GFLOP a step, {flops / seconds / 1e12:.2f} TFLOP/s"
    return rate if peak is None else f"{rate}, {flops / seconds / peak:.1%} of {peak / 1e12:.0f}"
