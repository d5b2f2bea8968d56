"""Where numba fails, whatever fails in it, the steppers draw the same codes, and one line says so."""

import importlib
import logging
import subprocess
import sys
from types import ModuleType

import numba
import pytest
import torch
from numba.core.dispatcher import Dispatcher

from stage2_prior import compiler
from stage2_prior.sampling import sample, sample_naive


def raise_two_lines(*arguments: object) -> None:
    raise RuntimeError("LLVM IR parsing error\n<string>:12:34: error: expected type")


def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)


def of_another_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", ModuleType("numba"))


def of_another_llvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dispatcher, "compile", raise_two_lines)


def switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)


FAILURES = {
    not_installed: "ModuleNotFoundError: import of numba halted",
    of_another_interface: "ImportError: cannot import name 'njit'",
    of_another_llvm: "CompilerError: RuntimeError: LLVM IR parsing error)",
    switched_off: "CompilerError: NotImplementedError",
}
GRIDS = {"tiny": (3, 4), "tiny_wavenet": (12,), "tiny_video": (2, 3, 2), "tiny_transformer": (3, 4)}


def anew(monkeypatch: pytest.MonkeyPatch, module: str) -> ModuleType:
    """A module of a stage 2 that is imported a second time; after the test the first one is back."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "stage2_prior"]:
        monkeypatch.delitem(sys.modules, name)
    return importlib.import_module(module)


@pytest.mark.parametrize("fixture", GRIDS)
@pytest.mark.parametrize("fail", FAILURES, ids=lambda fail: fail.__name__)
def test_the_stepper_draws_the_same_codes_with_one_line(request, monkeypatch, caplog, fail, fixture):
    prior = request.getfixturevalue(fixture)(num_codebooks=2, num_classes=(3,), local_channels=1)
    uniforms = torch.rand(4, *GRIDS[fixture], 2, dtype=torch.float64)
    conditions = {"labels": torch.randint(3, (4, 1)), "local": torch.randn(4, 1, *GRIDS[fixture])}
    expected = sample(prior, uniforms, **conditions)
    assert compiler.available(), "here the loops compile: else steppers would be compared with steppers"
    assert torch.equal(sample_naive(prior, uniforms, **conditions), expected)

    fail(monkeypatch)
    sampling = anew(monkeypatch, "stage2_prior.sampling")
    again = getattr(importlib.import_module(type(prior).__module__), type(prior).__name__)
    assert again is not type(prior)
    prior.__class__ = again  # its layers and stepper are as before; its loop is that of the second import
    reports: list[tuple[int, int]] = []
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            codes = sampling.sample(prior, uniforms, **conditions, progress=lambda *report: reports.append(report))
            assert torch.equal(codes, expected)
    total = expected.numel() // 2
    assert reports.count((total, total)) == 2
    (record,) = caplog.records
    assert record.name == "stage2_prior.compiler" and "\n" not in record.getMessage()
    assert FAILURES[fail] in record.getMessage()


def test_the_line_is_all_that_stderr_gets(pytestconfig):
    """In a process that sets up no logging, as a script or a notebook."""
    script = """if True:
        import sys
        sys.modules["numba"] = None
        import torch
        from stage2_prior.pixelcnn import GatedPixelCNN
        from stage2_prior.sampling import sample
        prior = GatedPixelCNN(num_codes=4, channels=2, num_layers=1, head_channels=2)
        for _ in range(2):
            sample(prior, torch.rand(2, 3, 3, dtype=torch.float64))
    """
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=pytestconfig.rootpath, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("numba cannot compile (")


def test_training_and_likelihoods_say_it_too(monkeypatch, caplog):
    not_installed(monkeypatch)
    pixelcnn = anew(monkeypatch, "stage2_prior.pixelcnn")
    prior = pixelcnn.GatedPixelCNN(num_codes=4, channels=2, num_layers=1, head_channels=2)
    for _ in range(2):
        prior.log_prob(torch.zeros(1, 2, 2, dtype=torch.int64)).sum().backward()
    (record,) = caplog.records
    assert FAILURES[not_installed] in record.getMessage()
