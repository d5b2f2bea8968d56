"""The installed package: verbs found without a list, help without torch, configurations and pretrained runs inside."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pipelines import demo
from pipelines.commands import console
from pipelines.commands.help import groups, settings
from pipelines.files import places

ROOT = Path(__file__).resolve().parent.parent
VERBS = list(console.verbs())
HYDRA_VERBS = ["evaluate", "extract-codes", "train-stage1", "train-stage2"]
# What takes long to import: help and refused flags need none of it.
HEAVY = {"torch", "numpy", "hydra", "omegaconf", "einops", "matplotlib", "sklearn"}
# Runs `ndr` and says on the last line of stdout which heavy modules it imported.
NDR = f"""
import sys
from pipelines.commands.console import main
try:
    main()
finally:
    print(sorted(set(sys.modules) & {HEAVY}))
"""


def ndr(*arguments: str, packages: Path = ROOT, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """`ndr arguments` of the packages in a folder; stdout ends with a line that lists the heavy imports."""
    return subprocess.run([sys.executable, "-c", NDR, *arguments], capture_output=True, text=True, cwd=cwd,
                          env=os.environ | {"PYTHONPATH": str(packages), "OMP_NUM_THREADS": "1"})


def test_verbs_are_the_files_at_the_root_that_can_be_run():
    files = {path.stem for path in (ROOT / "pipelines").glob("*.py")} - {"__init__", "api"}
    assert {verb.replace("-", "_") for verb in VERBS} == files
    assert all(console.verbs().values()), "each has a docstring"


def test_a_new_verb_is_found(tmp_path, monkeypatch):
    (tmp_path / "greet_all.py").write_text('"""Says hello.\n\nMore."""\nif __name__ == "__main__":\n    pass\n')
    (tmp_path / "door.py").write_text('"""No verb."""\n')
    monkeypatch.setattr(console, "PACKAGE", tmp_path)
    assert console.verbs() == {"greet-all": "Says hello."}


def test_ndr_alone_lists_the_verbs_and_imports_nothing():
    result = ndr()
    assert result.returncode == 0 and result.stdout.splitlines()[-1] == "[]"
    assert all(f"\n  {verb} " in result.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_imports_no_torch(verb):
    result = ndr(verb, "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]" and f"usage: ndr {verb}" in result.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_a_refused_flag_imports_no_torch(verb):
    result = ndr(verb, "--no-such-flag", "3")
    assert result.returncode == 2 and "--no-such-flag" in result.stderr and "Traceback" not in result.stderr
    assert result.stdout.splitlines()[-1] == "[]"
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_importing_the_package_imports_no_torch():
    code = f"import sys, pipelines, pipelines.commands.hydra; print(sorted(set(sys.modules) & {HEAVY}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT,
                            env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert result.stdout.strip() == "[]", result.stderr


def test_a_misspelt_verb_is_refused_with_the_nearest_one():
    result = ndr("train-stage3")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "expected train-stage" in result.stderr and "'train-stage3'" in result.stderr


@pytest.mark.parametrize("given, expected", [
    (("--experiment", "mnist"), "experiment=mnist"), (("--run=mine",), "run=mine"),
    (("--steps", "10"), "train.steps=10"), (("--train.lr", "1e-3"), "train.lr=1e-3"),
    (("--bottleneck", "fsq"), "autoencoder/bottleneck=fsq"),
    (("--experimnt", "mnist"), "experiment=mnist"), (("--runs-dir", "here"), "runs_dir=here"),
    (("--xyz",), "KEY=VALUE"),
    (("train.lrr=1",), "train.lr,"), (("datta=mnist",), "expected data,"), (("experiment=mnst",), "expected mnist,"),
    (("train.lr=abc",), "train.lr: "), (("mnist",), "KEY=VALUE"),
    (("autoencoder.bottleneck.num_coeds=3",), "autoencoder.bottleneck.num_codes,"),
])
def test_the_nearest_right_setting_is_named_in_one_line(given, expected):
    result = ndr("train-stage1", *given)
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: ") and expected in result.stderr
    assert "torch" not in result.stdout.splitlines()[-1]


def test_help_lists_what_concerns_the_verb():
    shown = {verb: ndr(verb, "--help").stdout for verb in HYDRA_VERBS}
    assert "evaluate.samples=" in shown["evaluate"] and "train.lr" not in shown["evaluate"]
    assert "extract.views=" in shown["extract-codes"] and "evaluate." not in shown["extract-codes"]
    assert "train.patience=10" in shown["train-stage2"] and "train.patience=0" in shown["train-stage1"]
    assert "autoencoder/bottleneck" in shown["train-stage1"] and "prior" in shown["train-stage2"]
    for text in shown.values():
        assert "experiment" in text and "cifar10_vqvae" in text and "--multirun" in text


def test_settings_and_groups_are_those_of_the_configuration():
    main = settings(places.configs() / "main.yaml", ("evaluate", "seed"))
    assert main["seed"][0] == "0" and main["evaluate.batch_size"][0] == "64"
    assert set(groups(("data",))["data"]) == {path.stem for path in (ROOT / "configs" / "data").glob("*.yaml")}


def test_a_checkout_and_an_installed_package_find_their_own_files(tmp_path):
    assert places.configs() == ROOT / "configs" and places.pretrained() == ROOT / "pretrained"
    assert places.outputs(ROOT / "pretrained" / "mnist") == ROOT / "pretrained" / "mnist"
    shutil.copytree(ROOT / "pipelines" / "files", tmp_path / "pipelines" / "files")
    (tmp_path / "pipelines" / "__init__.py").touch()
    code = ("from pipelines.files import places; run = places.pretrained() / 'mnist'\n"
            "print(places.configs(), run, places.outputs(run), sep='\\n')")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
                            env=os.environ | {"PYTHONPATH": str(tmp_path)})
    installed = tmp_path / "pipelines" / "_installed"
    assert result.stdout.splitlines() == [str(installed / "configs"), str(installed / "pretrained" / "mnist"),
                                          str(Path("runs") / "mnist")], result.stderr


@pytest.mark.slow
def test_the_wheel_trains_and_samples_from_any_folder(tmp_path):
    """Built without an index, unpacked as pip installs it, used from a folder that is not the checkout."""
    source, packages, here = tmp_path / "source", tmp_path / "packages", tmp_path / "here"
    for name in ("pipelines", "stage1_vqvae", "stage2_prior", "configs", "pretrained"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "samples"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    here.mkdir()
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
                    "--wheel-dir", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(packages)
    assert not (source / "build").exists()
    for name in ("configs", "pretrained"):
        expected = {path.relative_to(ROOT) for path in (ROOT / name).rglob("*.yaml")}
        installed = packages / "pipelines" / "_installed"
        assert {path.relative_to(installed) for path in (installed / name).rglob("*.yaml")} == expected
    assert all((packages / name / "py.typed").exists() for name in ("pipelines", "stage1_vqvae", "stage2_prior"))
    static = Path("pipelines") / "explorer" / "static"
    assert {path.relative_to(packages) for path in (packages / static).rglob("*.*")} == {
        path.relative_to(ROOT) for path in (ROOT / static).rglob("*.*")}
    tiny = ["experiment=digits", "stage1.steps=3", "stage2.steps=3"]
    for arguments in (["train-stage1", *tiny], ["extract-codes", *tiny], ["train-stage2", *tiny],
                      ["sample", "--run", "digits", "--n", "2"], ["sample", "--run", "mnist", "--n", "2"]):
        result = ndr(*arguments, packages=packages, cwd=here)
        assert result.returncode == 0, result.stderr[-3000:]
    assert (here / "runs" / "digits" / "samples" / "grid.png").exists()
    assert (here / "runs" / "mnist" / "samples" / "grid.png").exists()
    assert not list(installed.rglob("*.png"))


@pytest.mark.parametrize("flags, run, last", [
    ((), "digits", "evaluate"), (("--audio",), "demo_audio", "evaluate"), (("--video",), "room_video", "predict_video"),
])
def test_the_demo_runs_verbs_in_order_and_says_why(flags, run, last, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(demo, "run_verb", lambda verb, arguments: calls.append((verb, arguments)) or 0)
    monkeypatch.setattr(sys, "argv", ["demo", *flags, "stage1.steps=5", "runs_dir=here"])
    demo.main(demo.parse_arguments())
    verbs = [verb for verb, _ in calls]
    assert verbs[:4] == ["train_stage1", "extract_codes", "train_stage2", "sample"] and verbs[-1] == last
    assert {verb.replace("_", "-") for verb in verbs} <= set(VERBS)
    for verb, arguments in calls:
        if verb in ("sample", "predict_video"):
            assert arguments[:2] == ["--run", str(Path("here") / run)]
        else:
            assert arguments[0].startswith("experiment=") and arguments[-2:] == ["stage1.steps=5", "runs_dir=here"]
    printed = capsys.readouterr().out
    assert all(f"[{number}/{len(calls)}] " in printed for number in range(1, len(calls) + 1))
    assert ("objective rises" in printed) == (run != "demo_audio")  # whose quantiser has no rate term


def test_the_demo_stops_where_a_verb_fails(monkeypatch):
    monkeypatch.setattr(demo, "run_verb", lambda verb, _: 3 if verb == "extract_codes" else 0)
    monkeypatch.setattr(sys, "argv", ["demo"])
    with pytest.raises(SystemExit) as stopped:
        demo.main(demo.parse_arguments())
    assert stopped.value.code == 3


@pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="no checkout of git")
@pytest.mark.parametrize("path", [
    "build/lib/x.py", "x.egg-info/PKG-INFO", "multirun.yaml", "runs/x/multirun.yaml",
    "digits.ndc", "pretrained/mnist/held_out_scores.json",
    *(f"pretrained/mnist/{name}/x" for verb in sorted(ROOT.glob("pipelines/*.py"))
      for name in re.findall(r'outputs / "(\w+)"', verb.read_text())),
])
def test_what_commands_leave_behind_does_not_show_in_git_status(path):
    assert subprocess.run(["git", "check-ignore", "--quiet", path], cwd=ROOT).returncode == 0
