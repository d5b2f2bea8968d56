"""Components in a folder outside the project: both stages run with them, and the contract tests find them.

toys/ has one of each: a Python file and a yaml.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.files.errors import InputError
from pipelines.runs import plugins
from pipelines.runs.config import build, composed

ROOT = Path(__file__).resolve().parents[2]
CHOICES = ["~experiment", "data=toy", "autoencoder=toy", "autoencoder/bottleneck=toy", "autoencoder/likelihood=toy",
           "prior=toy", "run=toy"]
STEPS = [f"{stage}.{setting}" for stage in ("stage1", "stage2")
         for setting in ("steps=4", "batch_size=8", "validate_every=4", "log_every=4")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A copy of the toys outside the project."""
    return shutil.copytree(Path(__file__).parent / "toys", tmp_path_factory.mktemp("outside") / "mine")


def run(*command: object, folder: Path | None, **options) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), plugins.VARIABLE: str(folder or "")}
    return subprocess.run([sys.executable, *map(str, command)], env=environment, text=True, capture_output=True,
                          timeout=300, **options)


def test_both_stages_run_with_them_and_a_saved_run_names_them(folder, tmp_path):
    def verb(name, *arguments, folder=folder):
        return run(ROOT / "pipelines" / f"{name}.py", *arguments, folder=folder, cwd=tmp_path)

    for name in ("train_stage1", "extract_codes", "train_stage2"):
        result = verb(name, *CHOICES, *STEPS, f"runs_dir={tmp_path}")
        assert result.returncode == 0, result.stderr[-3000:]
    sampled = ["sample", "--run", tmp_path / "toy", "--n", "2", "--device", "cpu", "--out", tmp_path / "samples"]
    result = verb(*sampled)
    assert result.returncode == 0, result.stderr[-3000:]
    refused = verb(*sampled, folder=None)  # nobody has named the folder: its modules are not trusted
    assert refused.returncode == 2 and "expected a class of stage1_vqvae or stage2_prior, found 'toy_" in refused.stderr


def test_they_pass_the_contract_tests(folder):
    selection = ["-k", "toy and not plugins", "-p", "no:cacheprovider"]
    result = run("-m", "pytest", Path(__file__).parent, *selection, folder=folder, cwd=ROOT)
    assert result.returncode == 0, result.stdout[-3000:]
    passed = int(result.stdout.split(" passed")[0].split()[-1])
    assert passed > 40  # of each of the five groups all tests


def test_only_what_lies_in_the_named_folders_is_trusted(folder, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert plugins.folders() == [] and not plugins.is_trusted("toy_bottleneck")
    with pytest.raises(InputError, match="expected a class of stage1_vqvae or stage2_prior"):
        build({"_target_": "toy_bottleneck.Signs", "dim": 3}, trusted_only=True)
    monkeypatch.setenv(plugins.VARIABLE, str(folder))
    assert plugins.is_trusted("toy_bottleneck.Signs")
    assert build({"_target_": "toy_bottleneck.Signs", "dim": 3}, trusted_only=True).num_codes == 8
    assert composed(["~experiment", "autoencoder/bottleneck=toy"]).autoencoder.bottleneck.dim == 6
    for name in ("os.system", "toy_bottleneck.torch.load", "toy_nothing.Signs", "pipelines.data.mnist.MNIST"):
        with pytest.raises(InputError, match="_target_"):
            build({"_target_": name}, trusted_only=True)


def test_a_folder_that_does_not_exist_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="^NDR_PLUGINS: expected a folder, found .*nothing$"):
        composed(["~experiment"])
