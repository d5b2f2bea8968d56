"""Kills, signals, full disks, two writers, readers beside a writer: the short form of tests/kills.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).resolve().parent / "kills.py"
LIMIT_S = 300  # 40 s alone on a core


@pytest.fixture(scope="module")
def parts() -> dict[str, dict]:
    """What each part of the sweep found."""
    result = subprocess.run([sys.executable, KILLS, "--short"], capture_output=True, text=True, timeout=LIMIT_S,
                            env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr[-3000:]
    return {found["part"]: found for found in map(json.loads, result.stdout.splitlines())}


@pytest.mark.parametrize("part, tries, ends", [
    ("kills", 4, {"same bits"}),
    ("signals", 8, {"stopped, saved, same bits"}),
    ("disks", 2, {"refused, same bits"}),
    ("writers", 3, {"0 refused", "1 refused", "both right"}),
    ("readers", 2, {'{"right": 4}'}),
])
def test_nothing_is_lost_damaged_or_left_behind(part, tries, ends, parts):
    found = parts[part]
    assert found["failures"] == [] and found["tries"] == tries and found["ends"].keys() <= ends, found
