"""Fixtures of all tests: the real data, where a path to them is given."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with MNIST/raw that NDR_TEST_DATA names; without it the test is skipped."""
    if not (named := os.environ.get("NDR_TEST_DATA")):
        pytest.skip("no real data: NDR_TEST_DATA=FOLDER names a folder with MNIST/raw")
    assert (Path(named) / "MNIST" / "raw").is_dir(), f"NDR_TEST_DATA={named}: expected MNIST/raw below it"
    return Path(named)
