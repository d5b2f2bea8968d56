"""Checkpoints: folders that are whole or not there at all, all their parts of one step.

    checkpoints/step-0001000/model.safetensors   raw weights and buffers (codebook statistics among them)
                             ema.safetensors     the average of the weights, where one is kept
                             optimizer.pt        the optimiser's state, read with weights_only=True
                             state.json          step, best score, patience: plain figures
    checkpoints/latest, best                     one line each: the name of a folder beside it

Each is written under a temporary name, forced to the disk and renamed; a pointer moves only afterwards.
"""

import io
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from pipelines.files.atomic import _sync_folder, write_atomically
from pipelines.files.errors import InputError


def step_name(step: int) -> str:
    return f"step-{step:07d}"


def save_checkpoint(folder: Path, step: int, weights: dict, ema: dict | None, optimizer: dict | None, state: dict):
    """Writes checkpoints/step-NNNNNNN under `folder`, points `latest` (and `best`, if it is the best) to it, and
    removes those that neither names. `state` holds at least `step` and `best_step`."""
    root = folder / "checkpoints"
    root.mkdir(parents=True, exist_ok=True)
    for leftover in root.glob(".step-*"):
        shutil.rmtree(leftover)
    target, temporary = root / step_name(step), root / f".{step_name(step)}"
    temporary.mkdir()
    try:
        parts = {"model.safetensors": save(_plain(weights)), "state.json": (json.dumps(state, indent=1) + "\n").encode()}
        if ema is not None:
            parts["ema.safetensors"] = save(_plain(ema))
        if optimizer is not None:
            buffer = io.BytesIO()
            torch.save(optimizer, buffer)
            parts["optimizer.pt"] = buffer.getbuffer()
        for name, content in parts.items():
            write_atomically(temporary / name, content)
    except BaseException:  # a full disk, say: what was there before stays as it was
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if target.exists():  # left by a kill between the rename and the pointer: the same bits
        shutil.rmtree(target)
    os.rename(temporary, target)
    _sync_folder(root)
    write_atomically(root / "latest", f"{step_name(step)}\n".encode())
    settle_pointers(folder, state)


def settle_pointers(folder: Path, state: dict) -> None:
    """Makes `best` agree with the state of `latest`, and removes checkpoints that neither names."""
    root = folder / "checkpoints"
    keep = {step_name(state["step"])}
    if state.get("best_step") is not None:
        keep.add(step_name(state["best_step"]))
        write_atomically(root / "best", f"{step_name(state['best_step'])}\n".encode())
    for path in root.glob("step-*"):
        if path.name not in keep:
            shutil.rmtree(path)


def find_checkpoint(folder: Path, which: str = "latest") -> Path | None:
    """The folder that `latest` or `best` names; None before the first checkpoint."""
    pointer = folder / "checkpoints" / which
    if not pointer.exists():
        return None
    name = pointer.read_text().strip()
    path = folder / "checkpoints" / name
    if Path(name).name != name or not path.is_dir():
        raise InputError(f"{pointer}: expected the name of a checkpoint beside it, found {name[:80]!r}")
    return path


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file. Raises InputError where it is missing, truncated or something else."""
    if not path.is_file():
        raise InputError(f"{path}: expected a weights file, found none")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: expected a whole safetensors file, found one that cannot be read ({error})") from None


def read_state(path: Path) -> dict:
    """A checkpoint's state.json."""
    try:
        state = json.loads((path / "state.json").read_text())
        assert isinstance(state["step"], int)
        return state
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise InputError(f"{path / 'state.json'}: expected a checkpoint's state (JSON with a step), found none") from None


def load_weights(module: torch.nn.Module, weights: dict, source: Path) -> None:
    """Copies weights into a module, cast to its dtypes; names and shapes must be exactly the module's."""
    own = module.state_dict()
    for problem, names in (("missing", own.keys() - weights.keys()), ("unknown", weights.keys() - own.keys())):
        if names:
            raise InputError(f"{source}: expected the tensors of this model, found {min(names)!r} {problem}")
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            raise InputError(
                f"{source}: {name}: expected shape {tuple(tensor.shape)}, found {tuple(weights[name].shape)}"
            )
    module.load_state_dict(weights)


def read_optimizer(path: Path, device: torch.device) -> dict:
    """An optimiser's state, without ever unpickling an object."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: expected the optimiser's state to go on training, found none") from None
    except Exception as error:  # zip, pickle and torch errors alike: a truncated or foreign file
        reason = str(error).splitlines()[0][:120]
        raise InputError(f"{path}: expected a whole optimiser state, found one that cannot be read ({reason})") from None


def _plain(weights: dict) -> dict:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
