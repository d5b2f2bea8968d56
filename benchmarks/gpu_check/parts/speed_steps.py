"""Training steps as the commands run them, against eager float32, alone on the card.

Ours: `train_stage1` and `train_stage2` at the precision that `auto` chooses, data, codebook care, clipping and moving
average included, with and without `cuda_graph`: the median over rows of metrics.jsonl, each a row of steps. Eager
float32: the same module and data in contiguous layout, forward, backward and torch.optim.Adam with PyTorch's defaults,
TF32 off, or on in a row of its own. FLOPs are those of products and convolutions of one eager step, counted; the peak
is the card's for bfloat16, and for float32 where that is the precision.
"""

import statistics
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.gpu_check import timing
from benchmarks.gpu_check.precision import tf32
from benchmarks.gpu_check.recorder import Recorder, expect
from benchmarks.gpu_check.verbs import call_verb, metric_rows, on_device, settings

NEEDS = ("hydra", "omegaconf", "einops", "safetensors", "sklearn", "tensorboard", "tqdm")
TARGET = 3.0
ROOM = ["data=room", "data.size=32", "data.frames=64"]
STAGE1 = {  # name: experiment, batch; images of 32x32
    "stage 1, cifar10, batch 128": ("cifar10", 128),  # 256 units, 10 codebooks, 256-way softmax
    "stage 1, compact, batch 128": ("cifar10_compact", 128),  # 128 units, 1 codebook, Gaussian
    "stage 1, compact, batch 32": ("cifar10_compact", 32),
}
STAGE2 = {"stage 2, 16x16, batch 64": ((16, 16), 64), "stage 2, 32x32, batch 64": ((32, 32), 64)}  # K = 512
LAYERS = ["prior.channels=64", "prior.num_layers=15", "prior.dropout=0.0"]


def main(recorder: Recorder) -> None:
    for number, (name, (experiment, batch)) in enumerate(STAGE1.items()):
        with recorder.check(name):
            judge(recorder, name, *stage1(recorder, f"stage1_{number}", experiment, batch), TARGET)
    for name, (grid, batch) in STAGE2.items():
        with recorder.check(name):
            judge(recorder, name, *stage2(recorder, grid, batch), None)


def sizes(recorder: Recorder, batch: int) -> tuple[int, int, int]:
    """Steps, steps between two rows of metrics.jsonl, batch."""
    return (12, 4, 4) if recorder.small else (300, 50, batch)


def judge(recorder: Recorder, name: str, ours: dict[str, float], eager: float, with_tf32: float, flops: int,
          target: float | None) -> None:
    """The fastest of our steps against eager float32."""
    card, name = timing.card(), f"small, {name}" if recorder.small else name
    for how, seconds in ours.items():
        recorder.measure(f"{name}: {how}", 1e3 * seconds, "ms", timing.share(flops, seconds, card and card.bfloat16))
    fastest = min(ours, key=ours.get)
    recorder.measure(f"{name}: eager float32", 1e3 * eager, "ms", timing.share(flops, eager, card and card.float32))
    recorder.measure(f"{name}: eager TF32", 1e3 * with_tf32, "ms", f"{with_tf32 / ours[fastest]:.2f} times ours")
    recorder.measure(f"{name}: eager float32 / ours", eager / ours[fastest], "x", fastest, at_least=target)


def our_steps_s(recorder: Recorder, stage: str, run: str, arguments: list[str]) -> dict[str, float]:
    """Median seconds per step of the command, as it is and as a CUDA graph."""
    found = {}
    for how in ("step", "step as a CUDA graph") if recorder.device == "cuda" else ("step",):
        own, graph = recorder.work / how.replace(" ", "_"), how != "step"
        if stage == "stage2":
            (own / run).mkdir(parents=True)
            (own / run / "codes").symlink_to(recorder.work / "codes" / run)
        call_verb(f"train_{stage}", [*arguments, f"runs_dir={own}", f"run={run}",
                                     *([f"{stage}.cuda_graph=true"] if graph else [])])
        found[how] = step_s(own / run / stage)
    return found


def step_s(stage: Path) -> float:
    """Median seconds per step; the first rows hold start-up and the recording."""
    rows = metric_rows(stage, "train")
    expect(len(rows) >= 3, f"expected three rows of steps, found {len(rows)}")
    spans = [(two["seconds"] - one["seconds"]) / (two["step"] - one["step"]) for one, two in zip(rows, rows[1:])]
    return statistics.median(spans[min(2, len(spans) - 1):])


def stage1(recorder: Recorder, run: str, experiment: str, batch: int) -> tuple[dict[str, float], float, float, int]:
    steps, every, batch = sizes(recorder, batch)
    arguments = [f"experiment={experiment}", *ROOM, f"data.episodes={8 if recorder.small else 256}",
                 *on_device(recorder), *settings(
                     ("stage1",), steps=steps, batch_size=batch, log_every=every, validate_every=steps,
                     checkpoint_every=steps, precision="auto"),
                 *(["autoencoder.encoder.hidden=16", "autoencoder.encoder.outer_hidden=16"] if recorder.small else [])]
    ours = our_steps_s(recorder, "stage1", run, arguments)
    model = loaded(recorder.work / "step" / run, recorder.device).stage1
    x = torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8, device=recorder.device)
    return ours, *eager_steps_s(recorder, model, lambda step: model(x, step=step).loss)


def stage2(recorder: Recorder, grid: tuple[int, int], batch: int) -> tuple[dict[str, float], float, float, int]:
    (steps, every, batch), run = sizes(recorder, batch), "x".join(map(str, grid))
    write_random_codes(recorder.work / "codes" / run, grid)
    layers = ["prior.channels=8", "prior.num_layers=2"] if recorder.small else LAYERS
    arguments = ["experiment=digits", "condition_on=[]", *layers, *on_device(recorder), *settings(
        ("stage2",), steps=steps, batch_size=batch, log_every=every, validate_every=steps, checkpoint_every=steps,
        patience=0)]
    ours = our_steps_s(recorder, "stage2", run, arguments)
    model = prior_of(recorder.work / "step" / run, recorder.device)
    codes = torch.randint(512, (batch, *grid), device=recorder.device)
    return ours, *eager_steps_s(recorder, model, lambda step: F.cross_entropy(model(codes), codes))


def loaded(run: Path, device: str):
    from pipelines import load

    return load(run, device)


def prior_of(run: Path, device: str):
    from pipelines.runs.store import Run, load_stage2

    return load_stage2(Run(run), torch.device(device)).module


def write_random_codes(folder: Path, grid: tuple[int, int]) -> None:
    """A code data set of random codes, K = 512, one for each bundled digit."""
    from pipelines.data.codes import write_codes
    from pipelines.data.digits import Digits

    write_codes(folder, Digits(), lambda batch: {"codes": torch.randint(512, (len(batch.x), *grid))}, num_codes=512,
                num_codebooks=1, stage1_hash="0" * 64)


def eager_steps_s(recorder: Recorder, model: torch.nn.Module, loss_at) -> tuple[float, float, int]:
    """Seconds of an eager float32 step without and with TF32, and its FLOPs."""
    model = model.to(memory_format=torch.contiguous_format).train().requires_grad_(True)
    optimizer = torch.optim.Adam([parameter for parameter in model.parameters()], lr=1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_at(1).backward()
        optimizer.step()
        if hasattr(model, "bottleneck"):
            model.bottleneck.after_step(optimizer)

    repeats, steps, found = (1, 2, []) if recorder.small else (3, 10, [])
    for allowed in (False, True):
        with tf32(allowed):
            found.append(timing.median_of_steps_s(step, recorder.device, repeats, steps))
    return *found, timing.count_flops(step)
