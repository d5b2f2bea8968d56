"""The bundled digits are read without importing scikit-learn, and are those that it gives."""

import subprocess
import sys

import numpy as np
import pytest

from pipelines.data import digits


def test_digits_are_those_of_scikit_learn(monkeypatch):
    from sklearn import datasets

    for ours, theirs in zip(digits.load_digits(), datasets.load_digits(return_X_y=True), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    monkeypatch.setattr(digits.Path, "exists", lambda path: False)  # another layout of the package
    for ours, theirs in zip(digits.load_digits(), datasets.load_digits(return_X_y=True), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("module", ["sklearn", "matplotlib", "torchmetrics"])
def test_what_takes_long_to_import_waits_until_it_is_used(module, pytestconfig):
    script = f"""if True:
        import sys
        import pipelines.data.digits, pipelines.evaluation.shared, pipelines.training.loop
        pipelines.data.digits.Digits()
        sys.exit({module!r} in sys.modules)
    """
    assert subprocess.run([sys.executable, "-c", script], cwd=pytestconfig.rootpath, timeout=120).returncode == 0
