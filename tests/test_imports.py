"""The import law: stages import torch and einops, never each other, never the pipelines; only pipelines import both."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "stage1_vqvae": {"stage1_vqvae", "torch", "einops", "numpy", "numba"},
    "stage2_prior": {"stage2_prior", "torch", "einops", "numpy", "numba"},
}
# Files, clocks, processes and the command line are the pipelines' business.
FORBIDDEN_STANDARD = {"os", "pathlib", "sys", "time", "datetime", "subprocess", "multiprocessing", "shutil", "argparse",
                      "json", "pickle", "tempfile", "io", "importlib"}


def imported_packages(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_a_stage_imports_nothing_of_the_project_but_itself(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 3, "the package is there"
    for path in files:
        standard = {name for name in imported_packages(path) if name in sys.stdlib_module_names}
        assert not standard & FORBIDDEN_STANDARD, f"{path}: {standard & FORBIDDEN_STANDARD}"
        foreign = imported_packages(path) - standard - ALLOWED[package]
        assert not foreign, f"{path}: {foreign}"


def test_only_declared_packages_are_imported():
    """Each third-party import of the product stands in pyproject.toml."""
    declared = (ROOT / "pyproject.toml").read_text()
    names = {"sklearn": "scikit-learn", "PIL": "pillow", "hydra": "hydra-core", "yaml": "pyyaml"}
    for package in ("stage1_vqvae", "stage2_prior", "pipelines"):
        for path in (ROOT / package).rglob("*.py"):
            for name in imported_packages(path) - set(sys.stdlib_module_names):
                if name not in ("stage1_vqvae", "stage2_prior", "pipelines"):
                    assert f'"{names.get(name, name)}' in declared, f"{path}: {name}"
