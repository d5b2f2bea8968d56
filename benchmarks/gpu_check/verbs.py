"""Commands of the project, as processes of their own or in this one."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu_check.driver import ROOT, printed
from benchmarks.gpu_check.recorder import Recorder


def run_verb(recorder: Recorder, verb: str, *arguments: object, launch: tuple[str, ...] = (), ranks: int = 0,
             status: int | None = 0) -> str:
    """Runs `python -m pipelines.VERB arguments`, and returns its output, which goes to the log too.

    launch: flags of launch.py, which changes what the command cannot be asked for. ranks: under torchrun, with so many
    processes. Raises RuntimeError, with the last line of its output, for another exit status than `status` (None: any).
    """
    command = [sys.executable]
    if ranks:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    if launch or ranks:
        command += ["-m", "benchmarks.gpu_check.launch", *launch]
    else:
        command += ["-m"]
    command += [f"pipelines.{verb}", *map(str, arguments)]
    print("$", " ".join(command[1:]), flush=True)
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            timeout=max(1.0, recorder.left_s()))
    output = printed(result.stdout)
    print(output, flush=True)
    if status is not None and result.returncode != status:
        last = ([line for line in output.splitlines() if line.strip()] or ["no output"])[-1]
        raise RuntimeError(f"{verb}: expected exit status {status}, found {result.returncode}: {last}")
    return output


def call_verb(verb: str, overrides: list[str]) -> None:
    """Training, extraction or evaluation in this process, where starting another would take most of the time."""
    from pipelines.runs.config import composed

    importlib.import_module(f"pipelines.{verb}").main.__wrapped__(composed(overrides))


def on_device(recorder: Recorder) -> list[str]:
    """Overrides that put both stages, extraction and evaluation on the part's device."""
    return [f"{key}.device={recorder.device}" for key in ("stage1", "stage2", "extract", "evaluate")]


def figures(run: Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


def settings(stages: tuple[str, ...] = ("stage1", "stage2"), **values: object) -> list[str]:
    """The same training settings for several stages: `steps=20` -> stage1.steps=20, stage2.steps=20."""
    return [f"{stage}.{key}={value}" for stage in stages for key, value in values.items()]


def metric_rows(stage: Path, split: str) -> list[dict]:
    rows = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["split"] == split]


def final_weights(stage: Path, which: str = "latest"):
    """The tensors of a stage's newest checkpoint by name, optimiser included."""
    import torch
    from safetensors.torch import load_file

    folder = stage / "checkpoints" / (stage / "checkpoints" / which).read_text().strip()
    found = {f"{path.stem}/{name}": tensor for path in sorted(folder.glob("*.safetensors"))
             for name, tensor in load_file(path).items()}
    moments = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)["state"]
    return found | {f"optimizer/{number}/{name}": torch.as_tensor(value).cpu() for number, own in moments.items()
                    for name, value in own.items()}


def largest_difference(one: dict, two: dict) -> float:
    """The largest absolute difference between tensors of the same names; 0 only where all bits agree."""
    if one.keys() != two.keys():
        raise AssertionError(f"expected the same tensors, found {sorted(one.keys() ^ two.keys())[:3]} in one alone")
    return max(float((one[name].double() - two[name].double()).abs().max()) for name in one if one[name].numel())
