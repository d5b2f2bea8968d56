"""Running the commands as a user does, on a run small enough for a test."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

# Both stages in a few seconds: 4x4 codes of the embedded digits, 30 steps each, a checkpoint every 10.
TINY = [
    "experiment=digits", "run=tiny", "autoencoder.encoder.hidden=16", "autoencoder.encoder.residual_hidden=8",
    "autoencoder.bottleneck.num_codes=32", "autoencoder.bottleneck.dim=8",
    "autoencoder.bottleneck.rate_warmup_steps=5", "prior.channels=8", "prior.num_layers=2",
    *(f"{stage}.{setting}" for stage in ("stage1", "stage2") for setting in
      ("steps=30", "batch_size=16", "validate_every=10", "checkpoint_every=10", "log_every=5")),
    "extract.shard_size=200", "extract.batch_size=64", "evaluate.samples=40",
]


@pytest.fixture(scope="session")
def command(tmp_path_factory):
    """command("train_stage1", *arguments) -> CompletedProcess of the script, on one thread, in `cwd`.

    With `file_size` that many bytes are the most that a file of it may have, as on a disk that is full."""
    outputs = [tmp_path_factory.mktemp("command") / name for name in ("stdout", "stderr")]
    server = subprocess.Popen([sys.executable, Path(__file__).parent / "forked.py"], cwd=ROOT, text=True,
                              env=os.environ | {"OMP_NUM_THREADS": "1"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(script: str, *arguments: str, cwd: Path = ROOT, check: bool = True, file_size: int | None = None):
        stdout, stderr = map(str, outputs)
        order = {"script": str(ROOT / "pipelines" / f"{script}.py"), "arguments": arguments, "cwd": str(cwd),
                 "stdout": stdout, "stderr": stderr, "file_size": file_size}
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        result = subprocess.CompletedProcess([script, *arguments], status, *(path.read_text() for path in outputs))
        assert not check or status == 0, result.stderr[-3000:]
        return result

    yield run
    server.stdin.close()
    server.wait()


@pytest.fixture(scope="session")
def tiny():
    return list(TINY)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, command) -> Path:
    """A run of both stages through the commands, never changed by a test: copy it where you must."""
    runs = tmp_path_factory.mktemp("runs")
    for script in ("train_stage1", "extract_codes", "train_stage2"):
        command(script, *TINY, f"runs_dir={runs}")
    return runs / "tiny"
