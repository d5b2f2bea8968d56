"""Memory that is kept for the next tensor: where the C library puts a tensor, and whether it stays with the process."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")

SIZE = 2**26  # bytes of a tensor. glibc maps blocks above 32 MiB one by one, whatever was freed before.

SCRIPT = """
import ctypes, json, torch
from pipelines.training.memory import keep_freed_memory

class Information(ctypes.Structure):  # struct mallinfo2 of malloc.h, in bytes
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "heap", "ordblks", "smblks", "hblks", "mapped", "usmblks", "fsmblks", "used", "free", "keepcost")]

mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
if mallinfo is None:
    print("null")
    raise SystemExit
mallinfo.restype = Information
kept = {call}
tensor = torch.ones({size} // 4)
mapped = mallinfo().mapped
del tensor
print(json.dumps([kept, mapped, mallinfo().free]))
"""


def measured(call: str, root) -> tuple[bool, int, int]:
    """The result of `call`, bytes mapped one by one while a tensor of SIZE exists, and free bytes kept after it."""
    script = SCRIPT.format(call=call, size=SIZE)
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    if (found := json.loads(done.stdout)) is None:
        pytest.skip("no mallinfo2: an older glibc, or another C library")
    return tuple(found)


def test_a_large_tensor_lies_in_the_heap_and_its_memory_stays(pytestconfig):
    kept, mapped, free = measured("keep_freed_memory()", pytestconfig.rootpath)
    assert kept and mapped < SIZE and free >= SIZE


def test_by_itself_a_large_tensor_is_mapped_and_given_back(pytestconfig):
    """Else there is nothing to keep, and the setting should go."""
    _, mapped, free = measured("False", pytestconfig.rootpath)
    assert mapped >= SIZE and free < SIZE
