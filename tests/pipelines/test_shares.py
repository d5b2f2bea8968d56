"""Several processes that share the work of a command write the bytes that one writes, also after one was killed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipelines.files.locks import only_writer

ROOT = Path(__file__).resolve().parents[2]


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for those that are there while a command works."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.endswith(".lock")}


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys() and expected
    assert [name for name in expected if found[name] != expected[name]] == []


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_extraction(ranks, tiny, tiny_run, tmp_path, command):
    """Rank 1 is killed as it begins its second shard; what is missing is then written, and nothing else."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/stage1").symlink_to(tiny_run / "stage1")
    arguments, codes = ("extract_codes", *tiny, f"runs_dir={tmp_path}"), tmp_path / "tiny/codes"
    killed = command(*arguments, ranks=ranks, kill=(1, 2), check=False)
    assert killed.returncode == -signal.SIGKILL and "Traceback" not in killed.stderr
    done = {path: path.stat().st_mtime_ns for path in codes.glob("*.safetensors")}
    assert len(done) >= ranks and not (codes / "manifest.json").exists()
    said = command(*arguments, ranks=ranks)
    assert said.stdout.count("codes are written") == 1 and said.stderr == ""
    assert_same(content(codes), content(tiny_run / "codes"))
    assert done.items() <= {path: path.stat().st_mtime_ns for path in done}.items()


def write_digits(folder: Path, count: int) -> None:
    from pipelines.data.digits import Digits
    from pipelines.media.images import write_image

    folder.mkdir()
    images = Digits().split("validation").batch(torch.arange(count)).x
    for number, image in enumerate(images):
        write_image(folder / f"{number:03d}.png", image)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """Images of digits: 12, in batches of 5."""
    folder = tmp_path_factory.mktemp("digits") / "images"
    write_digits(folder, 12)
    return folder


# Verb, arguments, the part in which a rank dies: the n-th one that it works on.
VERBS = {
    "sample": (["--n", "12", "--batch-size", "5"], (1, 1)),
    "score": (["--input", "DIGITS", "--batch-size", "5", "--held-out", "30"], (1, 2)),
    "compress": (["--input", "DIGITS"], (0, 2)),  # of which the second makes the first group
    "reconstruct": (["--input", "DIGITS", "--batch-size", "5"], (1, 1)),
}


@pytest.mark.parametrize("ranks, verb", [
    (2, "sample"), *(pytest.param(2, verb, marks=pytest.mark.slow) for verb in ("score", "compress", "reconstruct")),
    *(pytest.param(4, verb, marks=pytest.mark.slow) for verb in VERBS)])
def test_a_verb_that_writes_files(ranks, verb, tiny_run, digits, tmp_path, command):
    given, kill = VERBS[verb]
    given = [str(digits) if word == "DIGITS" else word for word in given]

    found = {}
    for name in ("one", "shared"):
        run = shutil.copytree(tiny_run, tmp_path / name)
        out = run / ("made.ndc" if verb == "compress" else "made")
        arguments = (verb, "--run", str(run), *given, "--out", str(out))
        if name == "shared":
            assert command(*arguments, ranks=ranks, kill=kill, check=False).returncode == -signal.SIGKILL
            assert {name for name in content(run) if not name.endswith(".tmp")} == content(tiny_run).keys()
        command(*arguments, ranks=ranks if name == "shared" else 1)
        found[name] = content(run)
    assert len(found["one"].keys() - content(tiny_run).keys()) > (12 if verb != "compress" else 0)
    assert_same(found["shared"], found["one"])


@pytest.mark.slow
@pytest.mark.parametrize("shared", [2, 4])
def test_evaluation(shared, tiny, tiny_run, tmp_path, command):
    """Figures too; the other rank dies in its second batch."""
    found = {}
    for name, ranks, kill in (("one", 1, None), ("shared", shared, (1, 2))):
        run = shutil.copytree(tiny_run, tmp_path / name / "tiny")
        arguments = ("evaluate", *tiny, f"runs_dir={run.parent}", "evaluate.samples=20", "evaluate.batch_size=50",
                     "evaluate.bound_samples=2", "evaluate.copies=20", "evaluate.classifier=false")
        if kill is not None:
            assert command(*arguments, ranks=ranks, kill=kill, check=False).returncode == -signal.SIGKILL
            assert not (run / "metrics.json").exists() and not any(run.glob("figures/*"))
        assert command(*arguments, ranks=ranks).stdout.count("measured in") == 1
        found[name] = content(run)
    assert "metrics.json" in found["one"]
    assert_same(found["shared"], found["one"])


def test_an_error_is_said_once_and_ends_all_ranks(tiny_run, digits, tmp_path, command):
    """Of options, which all ranks refuse, and of a lock, which rank 0 does not get."""
    arguments = ("sample", "--run", str(tiny_run), "--n", "4", "--out", str(tmp_path / "out"))
    result = command(*arguments, "--temperature", "-1", ranks=2, check=False)
    assert result.returncode == 2
    assert result.stderr == "error: --temperature: expected a finite number >= 0, found -1.0\n"
    with only_writer(tmp_path / "out", "score"):
        result = command("score", "--run", str(tiny_run), "--input", str(digits), "--out", str(tmp_path / "out"),
                         ranks=2, check=False)
    assert result.returncode == 2 and result.stderr.count("error: ") == 1
    assert "out: expected no other process that writes there, found score (process" in result.stderr


@pytest.mark.slow
def test_two_agents_as_of_two_machines(tiny, tiny_run, tmp_path):
    """torchrun twice, one process each, on loopback: training as on one machine with two processes, extraction as by
    one process."""
    def launch(nodes: int, script: str, *arguments: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        agents = [subprocess.Popen([
            sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={2 // nodes}",
            "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=test", "--local-addr=127.0.0.1",
            str(ROOT / "pipelines" / f"{script}.py"), *arguments], env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=ROOT)
            for _ in range(nodes)]
        assert [agent.wait(timeout=1200) for agent in agents] == [0] * nodes

    (tmp_path / "codes/tiny").mkdir(parents=True)
    (tmp_path / "codes/tiny/stage1").symlink_to(tiny_run / "stage1")
    launch(2, "extract_codes", *tiny, f"runs_dir={tmp_path / 'codes'}")
    assert_same(content(tmp_path / "codes/tiny/codes"), content(tiny_run / "codes"))
    for nodes in (1, 2):
        launch(nodes, "train_stage1", *tiny, f"runs_dir={tmp_path / str(nodes)}", "stage1.steps=10")
    one, two = (content(tmp_path / nodes / "tiny/stage1/checkpoints/step-0000010") for nodes in ("1", "2"))
    assert one["model.safetensors"] == two["model.safetensors"] and one["optimizer.pt"] == two["optimizer.pt"]
