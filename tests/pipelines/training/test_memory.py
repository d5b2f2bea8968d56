"""Memory that is kept for the next tensor."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")

PAGES = 2**14  # of 4 KiB, in 64 MiB
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

FAULTS = """
import json, resource, sys, torch
sys.path.insert(0, {root!r})
from pipelines.training.memory import keep_freed_memory
from pipelines.training.distributed import choose_device

faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
kept = {call}
counts = []
for _ in range(50):
    before = faults()
    torch.ones(2**24)
    counts.append(faults() - before)
print(json.dumps([kept, counts]))
"""


def faults_of(call: str, root) -> tuple[object, list[int]]:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(root=str(root), call=call)], capture_output=True, text=True, check=True
    )
    return tuple(json.loads(done.stdout))


def test_a_large_tensor_takes_the_pages_of_the_one_before(pytestconfig):
    kept, counts = faults_of("keep_freed_memory()", pytestconfig.rootpath)
    if kept is False:
        pytest.skip("this C library has no such setting")
    assert sum(counts) < 0.3 * 50 * PAGES  # alignment keeps some blocks from the next tensor of the same size


@pytest.mark.skipif(HUGE_PAGES.exists() and "[always]" in HUGE_PAGES.read_text(), reason="pages here are not of 4 KiB")
@pytest.mark.parametrize("call", ["None", "str(choose_device('cpu'))"])
def test_by_itself_every_large_tensor_has_all_its_pages_cleared(call, pytestconfig):
    """Else there is nothing to keep, and the setting should go. Choosing a device changes nothing: training does."""
    _, counts = faults_of(call, pytestconfig.rootpath)
    assert min(counts) >= PAGES
