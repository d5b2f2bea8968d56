"""Two kills, two resumes: the weights are those of a training that was not killed.

Compared are all tensors of the last checkpoint: weights, average, codebook statistics, the optimiser's moments. With
deterministic algorithms (cuDNN's and PyTorch's) the bits have to agree. Where they do not, a third training, which
nobody kills, says whether some operation has no deterministic algorithm: a resumed one may then differ from the first
by at most 4 times as much as that one does, and the line says so.
"""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.gpu_check.parts.digits import TINY
from benchmarks.gpu_check.recorder import Findings, Recorder, expect
from benchmarks.gpu_check.verbs import final_weights, largest_difference, on_device, run_verb, settings

NEEDS = ("hydra", "omegaconf", "einops", "safetensors", "sklearn", "tensorboard", "tqdm")
KILLED_BEFORE = 2  # the second checkpoint of each process becomes the latest: steps 20, 40 and 60 of 80 are saved


def main(recorder: Recorder) -> None:
    from benchmarks.gpu_check.parts.speed_steps import write_random_codes

    codes = recorder.work / "codes"
    write_random_codes(codes, (4, 4))
    jobs = [(stage, name) for stage in ("stage1", "stage2") for name in ("straight", "killed")]
    with ThreadPoolExecutor(len(jobs) if recorder.device == "cuda" else 2) as pool:
        done = {job: pool.submit(train, recorder, codes, *job) for job in jobs}
    for stage in ("stage1", "stage2"):
        with recorder.check(f"{stage}: killed and resumed twice, bits of the weights") as found:
            straight, killed = (final_weights(done[stage, name].result()) for name in ("straight", "killed"))
            compare(found, straight, killed, lambda: final_weights(train(recorder, codes, stage, "again")))


def train(recorder: Recorder, codes: Path, stage: str, name: str) -> Path:
    """The stage's folder after a training of 80 steps: in one go, or in three processes, two of which are killed."""
    runs = recorder.work / f"{stage}_{name}"
    (runs / "digits").mkdir(parents=True)
    shutil.copytree(codes, runs / "digits" / "codes")
    arguments = ["experiment=digits", "run=digits", f"runs_dir={runs}", *TINY, "condition_on=[]", *on_device(recorder),
                 *settings(steps=80, batch_size=16, validate_every=40, checkpoint_every=20, log_every=10)]
    verb, launch = f"train_{stage}", ("--deterministic",)
    if name == "killed":
        for _ in range(2):
            run_verb(recorder, verb, *arguments, launch=(*launch, "--kill-at", str(KILLED_BEFORE)), status=-9)
    run_verb(recorder, verb, *arguments, launch=launch)
    return runs / "digits" / stage


def compare(found: Findings, straight: dict, killed: dict, again: Callable[[], dict]) -> None:
    """`again` trains once more without a kill; asked only where bits differ."""
    difference = largest_difference(straight, killed)
    found.note(f"largest difference {difference:.1e}")
    if difference == 0:
        return
    spread = largest_difference(straight, again())
    found.note(f"largest difference {difference:.1e}; two that nobody killed differ by {spread:.1e}")
    expect(difference <= 4 * spread, f"expected the same bits, or at most 4 times the {spread:.1e} by which two that "
           f"nobody killed differ, found {difference:.1e}")
