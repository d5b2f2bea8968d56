"""What runs here: driver, card, versions; and whether all of the project can be imported."""

import importlib
import importlib.metadata
import os
import pkgutil
import platform
import shutil
import subprocess

import torch

from benchmarks.gpu_check import report
from benchmarks.gpu_check.recorder import Recorder, Skipped
from benchmarks.gpu_check.timing import median_s

NEEDS = ()
PACKAGES = ("torch", "torchvision", "torchaudio", "triton", "numpy", "einops", "hydra-core", "omegaconf", "numba",
            "scikit-learn", "safetensors", "matplotlib", "tensorboard", "torchmetrics", "pystoi", "soundfile", "pytest")


def main(recorder: Recorder) -> None:
    recorder.record("machine", report.MEASURED, note=f"Python {platform.python_version()}, {os.cpu_count()} cores")
    recorder.record("packages", report.MEASURED, note=", ".join(f"{name} {version(name)}" for name in PACKAGES))
    with recorder.check("imports of every module of the project") as found:
        import_all(found)
    if recorder.device == "cuda":
        with recorder.check("card") as found:
            found.note(describe_card())
        ceilings(recorder)


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def import_all(found) -> None:
    import pipelines
    import stage1_vqvae
    import stage2_prior

    lacking, count = set(), 0
    for package in (stage1_vqvae, stage2_prior, pipelines):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            try:
                importlib.import_module(module.name)
                count += 1
            except ModuleNotFoundError as error:  # of another package: parts that need it are skipped
                if error.name.partition(".")[0] in ("pipelines", "stage1_vqvae", "stage2_prior"):
                    raise
                lacking.add(error.name)
    if lacking:
        raise Skipped(f"needs {', '.join(sorted(lacking))}; {count} modules imported")
    found.note(f"{count} modules")


def describe_card() -> str:
    properties = torch.cuda.get_device_properties(0)
    text = (f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {properties.multi_processor_count} "
            f"multiprocessors, compute capability {properties.major}.{properties.minor}, CUDA {torch.version.cuda}, "
            f"cuDNN {torch.backends.cudnn.version()}, NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}")
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version,memory.used", "--format=csv,noheader"]
        text += ", driver, memory in use: " + subprocess.run(query, capture_output=True, text=True).stdout.strip()
    return text


def ceilings(recorder: Recorder) -> None:
    """What the card reaches at most in practice: a large product of random numbers, a large copy."""
    n = 256 if recorder.small else 8192
    with recorder.check("ceilings"):
        a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        seconds = median_s(lambda: a @ b, "cuda", 10)
        recorder.measure(f"bfloat16 product, {n} x {n} x {n}", 2 * n**3 / seconds / 1e12, "TFLOP/s")
        x = torch.randn(n * n * 8, device="cuda")
        y = torch.empty_like(x)
        seconds = median_s(lambda: y.copy_(x), "cuda", 10)
        recorder.measure("copy on the device, read and written", 2 * 4 * x.numel() / seconds / 1e12, "TB/s")
