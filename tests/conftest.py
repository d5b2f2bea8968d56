"""Fixtures of all tests: the real data, where they are at hand."""

import os
import subprocess
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def real_data(tmp_path_factory) -> Path:
    """A folder with MNIST/raw: what NDR_TEST_DATA names, or an archive beside the repository; else skips the test."""
    if named := os.environ.get("NDR_TEST_DATA"):
        assert (Path(named) / "MNIST" / "raw").is_dir(), f"NDR_TEST_DATA={named}: expected MNIST/raw below it"
        return Path(named)
    if not (SHARED / "unpack.sh").exists():
        pytest.skip("no real data: NDR_TEST_DATA=FOLDER names them")
    folder = tmp_path_factory.mktemp("real")
    subprocess.run(["bash", SHARED / "unpack.sh", folder, "mnist"], check=True, capture_output=True)
    return folder
