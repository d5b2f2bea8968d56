"""The tests that a GPU makes possible: those whose name or file says cuda or triton. Those that interpret a kernel run
without a GPU, slowly, and are left out."""

import re
import subprocess
import sys

from benchmarks.gpu_check.driver import ROOT
from benchmarks.gpu_check.recorder import Recorder, Skipped, expect

NEEDS = ("pytest", "hydra", "omegaconf", "einops")
WORDS, CHOSEN = ("cuda", "triton"), "cuda or (triton and not interpreted)"


def main(recorder: Recorder) -> None:
    with recorder.check(f"pytest -k '{CHOSEN}'") as found:
        files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py"))
                 if path.name != "test_gpu_check.py" and any(word in path.read_text() for word in WORDS)]
        if not files:
            raise Skipped("needs tests whose names say cuda or triton, found none")
        command = [sys.executable, "-m", "pytest", "-k", CHOSEN, "-m", "not slow", "-q", "-rfEs",
                   "-p", "no:cacheprovider", "--continue-on-collection-errors", *files]
        result = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                timeout=max(1.0, recorder.left_s()))
        print(result.stdout, flush=True)
        summary = result.stdout.strip().splitlines()[-1]
        counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", summary)}
        found.note(", ".join(f"{number} {word}" for word, number in counts.items()) or "no summary")
        expect(result.returncode == 0, f"expected exit status 0 of pytest, found {result.returncode}: {summary}")
        expect(counts.get("passed", 0) > 0, f"expected tests that ran, found {counts}")
