"""The fuzzer, tests/fuzz.py, in its short form: a few hundred damaged files and hostile configurations.

It runs in a process of its own: PyTorch's gradients work in a fork only of a process that never computed any.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def fuzz(*arguments: str, limit_s: int) -> str:
    """What the fuzzer prints, of which the last line counts mutations and failures."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-m", "tests.fuzz", *arguments], cwd=ROOT, env=environment, text=True,
                            capture_output=True, timeout=limit_s)
    print(result.stdout)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-3000:]
    return result.stdout


def refused(printed: str) -> list[tuple[int, int]]:
    """(refused, all) of each table of files and of hostile configurations."""
    found = []
    for title, row in re.findall(r"^(?:file|hostile configuration) +(.*)$[\s\S]*?^all +(.*)$", printed, re.MULTILINE):
        counts = dict(zip(title.split(), map(int, row.split()), strict=True))
        found.append((counts["refused"], sum(counts.values())))
    return found


def test_each_damaged_file_is_refused_in_one_line_or_means_the_same():
    printed = fuzz("--runs", "folder", "audio", "--mutations", "30", "--hostile", "10", "--seed", "1", limit_s=900)
    assert "30 mutations, 0 failures" in printed
    (files, of_files), (configurations, of_configurations) = refused(printed)
    assert of_files == 30 and files > 11
    assert of_configurations == 10 and configurations > 4


@pytest.mark.slow
def test_ten_thousand_damaged_files_and_300_hostile_configurations():
    assert "10000 mutations, 0 failures" in fuzz("--mutations", "10000", "--hostile", "300", limit_s=4 * 3600)
