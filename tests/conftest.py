"""Fixtures of all tests: the real data, where a path to them is given."""

import os
from pathlib import Path

import pytest

# Files whose tests start many processes or train: seconds each takes alone on a core. They go first, so that no worker
# is left alone with one of them at the end.
LONG = {"test_compare.py": 75, "test_benchmarks.py": 60, "test_commands.py": 60, "test_distributed.py": 55,
        "test_bad_input.py": 50, "test_triton.py": 50, "test_audio_commands.py": 45, "test_gpu_check.py": 45,
        "test_experiments.py": 30, "test_video_commands.py": 40, "test_readme.py": 38, "test_plugins.py": 27,
        "test_kills.py": 45, "test_fuzz.py": 50, "test_resume.py": 25, "test_family.py": 22}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: -LONG.get(item.path.name, 0))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with MNIST/raw that NDR_TEST_DATA names; without it the test is skipped."""
    if not (named := os.environ.get("NDR_TEST_DATA")):
        pytest.skip("no real data: NDR_TEST_DATA=FOLDER names a folder with MNIST/raw")
    assert (Path(named) / "MNIST" / "raw").is_dir(), f"NDR_TEST_DATA={named}: expected MNIST/raw below it"
    return Path(named)
