"""Running the commands as a user does, on a run small enough for a test."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
HOOKS = Path(__file__).resolve().parent / "hooks"

# Both stages in a few seconds: 4x4 codes of the embedded digits, 30 steps each, a checkpoint every 10.
TINY = [
    "experiment=digits", "run=tiny", "autoencoder.encoder.hidden=16", "autoencoder.encoder.residual_hidden=8",
    "autoencoder.bottleneck.num_codes=32", "autoencoder.bottleneck.dim=8",
    "autoencoder.bottleneck.rate_warmup_steps=5", "prior.channels=8", "prior.num_layers=2",
    *(f"{stage}.{setting}" for stage in ("stage1", "stage2") for setting in
      ("steps=30", "batch_size=16", "validate_every=10", "checkpoint_every=10", "log_every=5")),
    "extract.shard_size=200", "extract.batch_size=64", "evaluate.samples=40", "evaluate.quality=0",
]


LIMIT_S = 300  # of a process that a test starts; the slowest takes 20 s alone on a core


def hooked(**more: str) -> dict[str, str]:
    """The environment of processes that load hooks/sitecustomize.py, on one thread."""
    path = os.pathsep.join(filter(None, (str(HOOKS), os.environ.get("PYTHONPATH"))))
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path} | more


@pytest.fixture(scope="session")
def limited():
    """limited(*command) -> CompletedProcess, of a command whose Python processes, children too, end in time.

    `signal_at` sends a signal at a moment of any of them: hooks/sitecustomize.py."""

    def run(*command: str, signal_at: str | None = None) -> subprocess.CompletedProcess:
        environment = {"NDR_TEST_LIMIT_S": str(LIMIT_S)} | ({"NDR_TEST_SIGNAL": signal_at} if signal_at else {})
        with subprocess.Popen(command, cwd=ROOT, env=hooked(**environment), text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, start_new_session=True) as process:
            try:
                stdout, stderr = process.communicate(timeout=LIMIT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                pytest.fail(f"{command}: not done in {LIMIT_S} s\n{process.communicate()[1][-3000:]}")
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    return run


@pytest.fixture(scope="session")
def command(tmp_path_factory):
    """command("train_stage1", *arguments) -> CompletedProcess of the script, on one thread, in `cwd`.

    `file_size`: the largest file in bytes that it may write, a stand-in for a full disk. `signal_at` and
    `child_signal_at` send a signal at a moment of the script, or of a process that it starts: hooks/sitecustomize.py.
    `ranks`: so many processes, as torchrun starts them; stdout is that of rank 0, stderr of all. `kill` (r, n): rank r
    is killed as it begins its n-th part of the shared work.
    """
    outputs = [tmp_path_factory.mktemp("command") / name for name in ("stdout", "stderr")]
    server = subprocess.Popen([sys.executable, Path(__file__).parent / "forked.py"], cwd=ROOT, text=True, env=hooked(),
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(script: str, *arguments: str, cwd: Path = ROOT, check: bool = True, file_size: int | None = None,
            signal_at: str | None = None, child_signal_at: str | None = None,
            environment: dict[str, str] | None = None, ranks: int = 1, kill: tuple[int, int] | None = None):
        stdout, stderr = map(str, outputs)
        environment = {"NDR_TEST_LIMIT_S": str(LIMIT_S)} | (environment or {})
        if child_signal_at is not None:
            environment["NDR_TEST_SIGNAL"] = child_signal_at
        order = {"script": str(ROOT / "pipelines" / f"{script}.py"), "arguments": arguments, "cwd": str(cwd),
                 "stdout": stdout, "stderr": stderr, "file_size": file_size, "environment": environment,
                 "signal": signal_at, "ranks": ranks, "kill": kill}
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        said = "".join(Path(f"{stderr}{rank}").read_text() for rank in range(ranks))
        result = subprocess.CompletedProcess([script, *arguments], status, Path(f"{stdout}0").read_text(), said)
        assert status != -signal.SIGALRM, f"{script}: not done in {LIMIT_S} s\n{result.stderr[-3000:]}"
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
