"""Checkpoints: folders that are whole or not there at all, all their parts of one step.

    checkpoints/step-0001000/model.safetensors   raw weights and buffers (codebook statistics among them)
                             ema.safetensors     the average of the weights, where one is kept
                             optimizer.pt        the optimiser's state, read with weights_only=True
                             state.json          `State`: step, best score, patience, and the SHA-256 of the other parts
    checkpoints/latest, best                     one line each: the name of a folder beside it

Each is written under a temporary name, forced to the disk and renamed; a pointer moves only afterwards. A part is read
once: the bytes that are compared with their checksum are those that are used. (An optimiser's state is mapped besides,
since only then does PyTorch keep within the bounds of a damaged file.)
"""

import hashlib
import io
import json
import math
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from pipelines.files.atomic import sync_folder, write_atomically
from pipelines.files.checks import expect, expect_keys, is_hash, is_integer
from pipelines.files.errors import InputError
from pipelines.files.formats import FORMAT, STATE, migrated
from pipelines.files.reading import read_file, read_json, read_text

MODEL, EMA, OPTIMIZER = "model.safetensors", "ema.safetensors", "optimizer.pt"
STEP_NAME = re.compile(r"step-[0-9]{7,18}")
MOST_MOVES = 100  # of a pointer while one reader reads: many more than a training can make in that time
Read = TypeVar("Read")


@dataclass
class State:
    """What a checkpoint knows of its training besides tensors: state.json."""

    step: int = 0
    best_step: int | None = None  # of the best validation so far; None before the first that counts
    best_score: float | None = None  # its value of the task's criterion: lower is better
    bad_validations: int = 0  # since the best one
    stopped_early: bool = False
    seconds: float = 0.0  # of training so far, over all its sessions
    stage1_hash: str | None = None  # of stage 2: the stage 1 whose codes it models
    parent_hash: str | None = None  # of stage 2 of a run on codes: the stage 1 that made the codes that stage 1 encodes
    trained_at: str | None = None  # of stage 2: when it was last trained, ISO 8601
    checksums: dict[str, str] | None = None  # SHA-256 of each other part; None: written in format 1, which had none

    def to_json(self) -> bytes:
        return (json.dumps({"format": FORMAT} | asdict(self), indent=1) + "\n").encode()


def step_name(step: int) -> str:
    return f"step-{step:07d}"


def save_checkpoint(folder: Path, state: State, weights: dict, ema: dict | None, optimizer: dict | None) -> None:
    """Writes checkpoints/step-NNNNNNN under `folder`, points `latest` (and `best`, if it is the best) to it, and
    removes those that neither names."""
    root = folder / "checkpoints"
    root.mkdir(parents=True, exist_ok=True)
    for leftover in root.glob(".step-*"):
        _remove(leftover)
    target, temporary = root / step_name(state.step), root / f".{step_name(state.step)}"
    temporary.mkdir()
    try:
        write_parts(temporary, state, weights, ema, optimizer)
    except BaseException:  # a full disk, say: what was there before stays as it was
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if target.exists() or target.is_symlink():  # left by a kill between the rename and the pointer: the same bits
        _remove(target)
    os.rename(temporary, target)
    sync_folder(root)
    write_atomically(root / "latest", f"{step_name(state.step)}\n".encode())
    settle_pointers(folder, state)


def write_parts(folder: Path, state: State, weights: dict, ema: dict | None = None,
                optimizer: dict | None = None) -> None:
    """Writes a checkpoint's files into `folder`, last of all the state with the checksums of the others."""
    parts: dict[str, bytes | memoryview] = {MODEL: save(_plain(weights))}
    if ema is not None:
        parts[EMA] = save(_plain(ema))
    if optimizer is not None:
        buffer = io.BytesIO()
        torch.save(optimizer, buffer)
        parts[OPTIMIZER] = buffer.getbuffer()
    for name, content in parts.items():
        write_atomically(folder / name, content)
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()}
    write_atomically(folder / "state.json", replace(state, checksums=checksums).to_json())


def settle_pointers(folder: Path, state: State) -> None:
    """Makes `best` agree with the state of the newest checkpoint, and removes those that are neither.

    Raises InputError where the best one is not there, and removes nothing."""
    root = folder / "checkpoints"
    keep = {step_name(state.step)}
    if state.best_step is not None:
        best = step_name(state.best_step)
        if not (root / best).is_dir():
            raise InputError(f"{root}: expected {best}, the best checkpoint, found none")
        keep.add(best)
        write_atomically(root / "best", f"{best}\n".encode())
    for path in step_folders(folder):
        if path.name not in keep:
            _remove(path)


def find_checkpoint(folder: Path, which: str = "latest") -> Path | None:
    """The folder that `latest` or `best` names; None before the first checkpoint."""
    root = folder / "checkpoints"
    pointer = root / which
    if not (pointer.exists() or pointer.is_symlink()):
        return None
    name = read_text(pointer, "the name of a checkpoint beside it", 1000).strip()
    path = root / name
    if STEP_NAME.fullmatch(name) is None or not path.is_dir():
        if read_text(pointer, "the name of a checkpoint beside it", 1000).strip() != name:
            return find_checkpoint(folder, which)  # a training beside this reader has moved on
        raise InputError(f"{pointer}: expected the name of a checkpoint beside it, found {name[:80]!r}")
    return path


def settle_latest(folder: Path) -> None:
    """Where checkpoints are there and `latest` is gone, points it to the one of the last step, with a line on stderr: a
    training that began anew beside them would end with removing them."""
    pointer = folder / "checkpoints" / "latest"
    if find_checkpoint(folder) is None and (steps := step_folders(folder)):
        print(f"note: {pointer}: expected the name of the newest checkpoint, found no such file; going on from "
              f"{steps[-1].name}", file=sys.stderr)
        write_atomically(pointer, f"{steps[-1].name}\n".encode())


def step_folders(folder: Path) -> list[Path]:
    """All whole checkpoints, by their steps."""
    found = [path for path in (folder / "checkpoints").glob("step-*") if STEP_NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def restore(step_folder: Path, state: State, model: torch.nn.Module, average: torch.nn.Module | None,
            optimizer: torch.optim.Optimizer | None, device: torch.device) -> None:
    """Makes model, average and a fresh optimiser those of a checkpoint; all parts are read and checked before any is
    used. Raises InputError for one that is damaged or does not fit."""
    modules = {MODEL: model} | ({EMA: average} if average is not None else {})
    weights = {name: read_weights(step_folder, state, name) for name in modules}
    for name, module in modules.items():
        check_weights(module, weights[name], step_folder / name)
    if optimizer is not None:
        moments = read_optimizer(step_folder, state)
        check_optimizer(optimizer, moments, step_folder / OPTIMIZER)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for index, values in moments["state"].items():  # copies, laid out as the parameter is: fused kernels rely on it
            like = parameters[index].detach()
            moments["state"][index] = {name: value.clone() if name == "step" else torch.empty_like(like).copy_(value)
                                       for name, value in values.items()}
        own = [(group["lr"], group["capturable"]) for group in optimizer.param_groups]
        optimizer.load_state_dict(moments)
        for group, (rate, capturable) in zip(optimizer.param_groups, own, strict=True):
            group["lr"], group["capturable"] = rate, capturable
    for name, module in modules.items():
        module.load_state_dict(weights[name])


def read_state(step_folder: Path) -> State:
    """A checkpoint's state.json, every value checked. Raises InputError that names file and key."""
    path = step_folder / "state.json"
    content = read_json(path, "a checkpoint's state")
    content = migrated(content, path, STATE)
    expect_keys(path, "keys", content, {field.name for field in fields(State)})
    state = State(**content)
    for key, found in (("step", state.step), ("bad_validations", state.bad_validations)):
        expect(path, key, found, is_integer(found), "an integer >= 0")
    expect(path, "step", state.step, step_name(state.step) == step_folder.name, f"that of {step_folder.name}")
    best = state.best_step
    expect(path, "best_step", best, best is None or is_integer(best, 1, state.step), f"1 to {state.step}, or null")
    score, seconds = state.best_score, state.seconds
    scored = score is None if best is None else _is_number(score)
    expect(path, "best_score", score, scored, "a number, or null where best_step is")
    expect(path, "seconds", seconds, _is_number(seconds) and seconds >= 0, "a number >= 0")
    expect(path, "stopped_early", state.stopped_early, isinstance(state.stopped_early, bool), "true or false")
    for key, own in (("stage1_hash", state.stage1_hash), ("parent_hash", state.parent_hash)):
        expect(path, key, own, own is None or is_hash(own), "64 hexadecimal digits, or null")
    expect(path, "trained_at", state.trained_at, state.trained_at is None or _is_time(state.trained_at), "a time")
    if state.checksums is not None:
        expect_keys(path, "checksums", state.checksums, {MODEL}, {EMA, OPTIMIZER})
        for name, checksum in state.checksums.items():
            expect(path, f"checksums.{name}", checksum, is_hash(checksum), "64 hexadecimal digits")
    return state


def has_part(step_folder: Path, state: State, name: str) -> bool:
    """Whether a checkpoint has this part, as its state says; in format 1 its folder does."""
    return (step_folder / name).exists() if state.checksums is None else name in state.checksums


def read_part(step_folder: Path, state: State, name: str) -> bytes:
    """A part's bytes. Raises InputError where it is missing, or is another than the checkpoint was written with."""
    path = step_folder / name
    if not has_part(step_folder, state, name):
        raise InputError(f"{path}: expected a part of this checkpoint, found none")
    content = read_file(path, "a part of this checkpoint")
    if state.checksums is not None and (found := hashlib.sha256(content).hexdigest()) != state.checksums[name]:
        raise InputError(f"{path}: expected the checksum {state.checksums[name][:12]}... that state.json has, found "
                         f"{found[:12]}...: it is damaged, or of another checkpoint")
    return content


def read_weights(step_folder: Path, state: State, name: str) -> dict[str, torch.Tensor]:
    """The tensors of model.safetensors or ema.safetensors. Raises InputError where it cannot be read."""
    content = read_part(step_folder, state, name)
    try:
        return load(content)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise InputError(f"{step_folder / name}: expected a whole safetensors file, found one that cannot be read "
                         f"({error})") from None


def check_weights(module: torch.nn.Module, weights: dict, source: Path) -> None:
    """Raises InputError unless names, shapes and types are the module's (floating-point ones of any width) and every
    value is finite."""
    own = module.state_dict()
    for problem, names in (("missing", own.keys() - weights.keys()), ("unknown", weights.keys() - own.keys())):
        if names:
            raise InputError(f"{source}: expected the tensors of this model, found {min(names)!r} {problem}")
    for name, tensor in own.items():
        found = weights[name]
        expect(source, name, tuple(found.shape), tensor.shape == found.shape, f"shape {tuple(tensor.shape)}")
        same = found.is_floating_point() if tensor.is_floating_point() else found.dtype == tensor.dtype
        expect(source, name, found.dtype, same, str(tensor.dtype))
        finite = not found.is_floating_point() or found.isfinite().all()
        expect(source, name, "NaN or infinity", finite, "finite values")


def follow(folder: Path, which: str, read: Callable[[Path], Read]) -> Read | None:
    """`read` of the checkpoint that `latest` or `best` names; None before the first.

    A training that goes on beside this reader may replace the checkpoint meanwhile: then the newer one is read."""
    for _ in range(MOST_MOVES):
        step_folder = find_checkpoint(folder, which)
        if step_folder is None:
            return None
        try:
            return read(step_folder)
        except (InputError, OSError):
            if find_checkpoint(folder, which) == step_folder:
                raise
    raise InputError(f"{folder / 'checkpoints' / which}: expected a checkpoint that stays until it is read, found it "
                     f"replaced {MOST_MOVES} times; raise checkpoint_every")


def read_trained(folder: Path, which: str) -> tuple[Path, State, Path, dict[str, torch.Tensor]] | None:
    """What is used of a trained stage: the checkpoint's folder and state, and the file and tensors of its averaged
    weights where they are kept, else of its raw ones. None before the first checkpoint."""

    def read(step_folder: Path) -> tuple[Path, State, Path, dict[str, torch.Tensor]]:
        state = read_state(step_folder)
        name = EMA if has_part(step_folder, state, EMA) else MODEL
        return step_folder, state, step_folder / name, read_weights(step_folder, state, name)

    return follow(folder, which, read)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict:
    """An optimiser's state as it is stored, the same from every device: on a GPU the learning rate is a tensor, and
    `capturable` is set, for the sake of CUDA graphs."""
    state = optimizer.state_dict()
    plain = [group | {"lr": float(group["lr"]), "capturable": False} for group in state["param_groups"]]
    return state | {"param_groups": plain}


def read_optimizer(step_folder: Path, state: State) -> dict:
    """An optimiser's state, on the CPU, without ever unpickling an object.

    The file is mapped: then PyTorch refuses a tensor that reaches beyond the file, and does not trust its sizes."""
    path, content = step_folder / OPTIMIZER, read_part(step_folder, state, OPTIMIZER)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed")
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} is damaged")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # zip, pickle and torch errors alike: a truncated or foreign file
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise InputError(f"{path}: expected a whole optimiser state, found one that cannot be read "
                         f"({reason})") from None


def check_optimizer(optimizer: torch.optim.Optimizer, found: Any, source: Path) -> None:
    """Raises InputError unless `found` could be the later state of this fresh AdamW: the same groups with the same
    options, and for each parameter that was ever updated a step and two moments of its shape and type.

    Options that only one of the two has are those of another version of torch, which fills them in."""
    fresh = optimizer_state(optimizer)["param_groups"]
    expect_keys(source, "keys", found, {"state", "param_groups"})
    groups, moments = found["param_groups"], found["state"]
    accepted = isinstance(groups, list) and [type(group) for group in groups] == [dict] * len(fresh)
    expect(source, "param_groups", groups, accepted, f"{len(fresh)} groups of parameters")
    for number, (group, expected) in enumerate(zip(groups, fresh, strict=True)):
        needed = {"params", "lr", "betas", "eps", "weight_decay"}
        expect(source, f"param_groups[{number}]", sorted(map(str, group)), needed <= group.keys(), f"{sorted(needed)}")
        expect(source, f"param_groups[{number}].lr", group["lr"], _is_number(group["lr"]), "a finite number")
        for key in expected.keys() & group.keys() - {"lr"}:  # the schedule sets lr at every step
            same = _same_option(group[key], expected[key])
            expect(source, f"param_groups[{number}].{key}", group[key], same, f"{expected[key]}")
    parameters = dict(enumerate(parameter for group in optimizer.param_groups for parameter in group["params"]))
    expect(source, "state", moments, isinstance(moments, dict) and moments.keys() <= parameters.keys(),
           f"{len(parameters)} parameters' moments")
    for index, values in moments.items():
        expect_keys(source, f"state[{index}]", values, {"step", "exp_avg", "exp_avg_sq"})
        for name, value in values.items():
            like = torch.zeros(()) if name == "step" else parameters[index]
            form = (like.dtype, tuple(like.shape))
            accepted = type(value) is torch.Tensor and value.layout is torch.strided and value.device.type == "cpu"
            expect(source, f"state[{index}].{name}", type(value), accepted, "a tensor on the CPU")
            expect(source, f"state[{index}].{name}", (value.dtype, tuple(value.shape)),
                   (value.dtype, tuple(value.shape)) == form, f"{form}")
            expect(source, f"state[{index}].{name}", f"strides {value.stride()}", _is_whole(value), "one value a place")
            expect(source, f"state[{index}].{name}", "NaN or infinity", value.isfinite().all(), "finite values")


def _same_option(found: Any, expected: Any) -> bool:
    """Whether an option is the same and of the same type: a list is no tuple, True no 1; but 0 is 0.0."""
    if isinstance(expected, list | tuple):
        return type(found) is type(expected) and len(found) == len(expected) and all(map(_same_option, found, expected))
    numbers = {int, float}
    return (type(found) is type(expected) or {type(found), type(expected)} == numbers) and found == expected


def _is_whole(value: torch.Tensor) -> bool:
    """Whether a tensor has a place in memory of its own for each value, with none in between: no expanded view."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(value.stride(), value.shape) if size > 1):
        if stride != expected:
            return False
        expected *= size
    return True


def _remove(path: Path) -> None:
    """Removes a checkpoint's folder; of one that is elsewhere only the link to it."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)


def _plain(weights: dict) -> dict:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}


def _is_number(value: Any) -> bool:
    return is_integer(abs(value)) if type(value) is int else type(value) is float and math.isfinite(value)


def _is_time(value: Any) -> bool:
    try:
        return bool(datetime.fromisoformat(value))
    except (TypeError, ValueError):
        return False
