"""The machine: what it is, and the rates it reaches in the run that they are compared in."""

import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

Rates = dict[str, float]  # "float32", "bfloat16": FLOP/s; "memory", "cache": bytes/s


def facts(device: str) -> dict[str, Any]:
    """Processor, cores, threads, memory, versions, date, load."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(total_memory() / 2**30, 1),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "bfloat16": "AMX" if torch.cpu._is_amx_tile_supported()
                    else "AVX512_BF16" if torch.cpu._is_avx512_bf16_supported() else "emulated",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
                platform.processor() or platform.machine())


def total_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_memory(device: torch.device) -> float:
    """Bytes that a contender may take: nine tenths of what is free."""
    if device.type == "cuda":
        return 0.9 * torch.cuda.mem_get_info(device)[0]
    information = Path("/proc/meminfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 0.9 * int(line.split()[1]) * 1024
    return 0.5 * total_memory()


def rates(device: str, quick: bool = False) -> Rates:
    """The largest rates that simple operations reach, on the present number of threads.

    float32, bfloat16: square matrix products of three sizes, 2 n^3 operations each. memory: a triad a = b + s c over
    arrays larger than the caches, of which two are read and one is written. cache: products of a 2 MiB matrix with a
    vector, which read the matrix again and again.
    """
    sizes = (256,) if quick else (8192,) if device.startswith("cuda") else (1024, 2048, 4096)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        speeds = []
        for n in sizes:
            a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
            out = torch.empty(n, n, device=device, dtype=dtype)
            speeds.append(2 * n**3 / fastest(lambda: torch.mm(a, b, out=out), device, quick))
        found[str(dtype).removeprefix("torch.")] = max(speeds)
    length = 2**20 if quick else 2**26
    a, b, c = (torch.ones(length, device=device) for _ in range(3))
    found["memory"] = 12 * length / fastest(lambda: torch.add(b, c, alpha=3.0, out=a), device, quick)
    matrix, vector, product = (torch.ones(size, device=device) for size in ((512, 1024), (1024,), (512,)))

    def many() -> None:
        for _ in range(64):
            torch.mv(matrix, vector, out=product)

    found["cache"] = 64 * 4 * matrix.numel() / fastest(many, device, quick)
    return found


def fastest(run: Callable[[], Any], device: str, quick: bool) -> float:
    """Seconds of the fastest of several runs."""
    taken = []
    for _ in range(2 if quick else 5):
        synchronise(device)
        start = time.perf_counter()
        run()
        synchronise(device)
        taken.append(time.perf_counter() - start)
    return min(taken)


def synchronise(device: str | torch.device) -> None:
    if str(device).startswith("cuda"):
        torch.cuda.synchronize()
