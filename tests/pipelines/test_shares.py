"""Several processes that share the work of a command write the bytes that one writes, also after one was killed."""

import shutil
import signal
from pathlib import Path

import pytest
import torch


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for those that are there while a command works."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.endswith(".lock")}


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys() and expected
    assert [name for name in expected if found[name] != expected[name]] == []


@pytest.mark.parametrize("ranks", [2, 4])
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


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_writes_a_folder(verb, tiny_run, digits, tmp_path, command):
    given, kill = VERBS[verb]
    given = [str(digits) if word == "DIGITS" else word for word in given]

    def made(name: str, **ranks) -> dict[str, bytes]:
        run = shutil.copytree(tiny_run, tmp_path / name)
        out = run / ("made.ndc" if verb == "compress" else "made")
        status = command(verb, "--run", str(run), *given, "--out", str(out), check=False, **ranks).returncode
        assert status == (-signal.SIGKILL if "kill" in ranks else 0)
        if "kill" in ranks:
            assert not out.exists()
            command(verb, "--run", str(run), *given, "--out", str(out), ranks=2)
        return content(run)

    one = made("one")
    assert len(one.keys() - content(tiny_run).keys()) > (12 if verb != "compress" else 0)
    assert_same(made("killed", ranks=2, kill=kill), one)
    assert_same(made("four", ranks=4), one)
