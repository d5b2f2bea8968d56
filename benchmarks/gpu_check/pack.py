"""A stage-1 checkpoint as a few files of at most 15 MiB, small enough to be carried from machine to machine.

Moments of the optimiser are rounded to bfloat16, a third of the size saved: Adam divides one by the root of the other,
and 8 bits of each change a step by less than a hundredth. Weights and statistics keep their bits. Packing ends a run's
equality to the bit with one that was not packed; training goes on from there as from any checkpoint.
"""

import io
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import torch

PIECE_BYTES = 15 * 2**20
NAME = "cifar10.part"


def pack(stage: Path, out: Path) -> str:
    """Writes OUT/cifar10.part0, ... with the latest checkpoint and what a training needs to go on; says how large."""
    latest = (stage / "checkpoints/latest").read_text().strip()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for path in (stage / "config.yaml", stage / "metrics.jsonl", stage / "checkpoints/latest"):
            tar.add(path, path.relative_to(stage))
        for path in sorted((stage / "checkpoints" / latest).iterdir()):
            if path.name != "optimizer.pt":
                tar.add(path, path.relative_to(stage))
        moments = torch.load(stage / "checkpoints" / latest / "optimizer.pt", map_location="cpu", weights_only=True)
        content = io.BytesIO()
        torch.save(converted(moments, torch.bfloat16), content)
        entry = tarfile.TarInfo(f"checkpoints/{latest}/optimizer.pt")
        entry.size = content.tell()
        content.seek(0)
        tar.addfile(entry, content)
    data = buffer.getbuffer()
    for old in out.glob(f"{NAME}*"):
        old.unlink()
    pieces = range(0, len(data), PIECE_BYTES)
    for number, start in enumerate(pieces):
        (out / f"{NAME}{number}").write_bytes(data[start : start + PIECE_BYTES])
    return f"{latest}, {len(data) / 2**20:.1f} MiB in {len(pieces)} files {NAME}*"


def unpack(source: Path, stage: Path) -> None:
    """The inverse, into a new folder; the checkpoint becomes a whole one again, with checksums of its parts."""
    from safetensors.torch import load_file

    from pipelines.training.checkpoint import read_state, write_parts

    pieces = sorted(source.glob(f"{NAME}*"), key=lambda path: int(path.name.removeprefix(NAME)))
    if not pieces:
        raise ValueError(f"--cifar10-from: expected a run or {NAME}0, ... in {source}, found neither")
    with tarfile.open(fileobj=io.BytesIO(b"".join(path.read_bytes() for path in pieces))) as tar:
        tar.extractall(stage, filter="data")
    folder = stage / "checkpoints" / (stage / "checkpoints/latest").read_text().strip()
    moments = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
    state = read_state(folder)
    if state.best_step not in (None, state.step):  # the best one stayed behind: the next validation finds another
        state = replace(state, best_step=None, best_score=None, bad_validations=0)
    weights = load_file(folder / "model.safetensors")
    shutil.rmtree(folder)
    folder.mkdir()
    write_parts(folder, state, weights, None, converted(moments, torch.float32))


def converted(moments: dict, dtype: torch.dtype) -> dict:
    """An optimiser's state with its moments in another type; the counts of steps stay float32."""
    state = {number: {name: value.to(dtype) if name != "step" else value for name, value in own.items()}
             for number, own in moments["state"].items()}
    return moments | {"state": state}


