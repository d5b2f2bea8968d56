"""The pretrained runs, and a frozen one of format 1, give what they gave when they were made.

tests/golden/NAME.npz was written by the code before formats had numbers, with `computed` below. Codes of one run are
the same on every machine unless a uniform lies within float32's rounding of an edge of its CDF: of the 4,300 codes here
at about 1e-6 each, so a difference is a change of the code. Write a file anew only for a change that is wanted.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.runs.chain import LoadedRun, load_run
from pipelines.runs.find import PRETRAINED
from pipelines.runs.store import Run
from stage2_prior.sampling import sample

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
RUNS = {name: PRETRAINED / name for name in ("mnist", "cifar10_compact", "imagenet128", "fsdd", "room_video")} | {
    "format1": GOLDEN / "format1"}
WAVE_CODES = 8  # of a clip, each 64 samples: a second of WaveNet


def computed(run: LoadedRun, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Codes that the prior draws, what the decoder makes of them, and the codes of that."""
    labels, local = (torch.from_numpy(inputs[name]) if name in inputs else None for name in ("labels", "local"))
    vae, codes = run.stage1.module, run.stage2.codes
    columns1, columns2 = run.stage1.decoder_columns, run.stage2.prior_columns
    drawn = sample(run.stage2.module, uniforms(0, len(labels), *codes.item_shape),
                   labels[:, columns2] if columns2 else None, local)
    if run.stage1.example.kind == "audio":
        hop = codes.shape[-1] // codes.grid[0]
        samples = vae.decode(drawn[:, :WAVE_CODES], labels[:, columns1], uniforms(1, len(labels), WAVE_CODES * hop))
    else:
        samples = vae.decode(drawn)
    return {"codes": drawn.numpy(), "samples": samples.numpy(), "encoded": vae.encode(samples).numpy()}


def uniforms(key: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.Generator(np.random.Philox(key=key)).random(shape))


@pytest.mark.parametrize("name", RUNS)
def test_a_run_gives_what_it_gave_when_it_was_made(name):
    expected = dict(np.load(GOLDEN / f"{name}.npz"))
    found = computed(load_run(Run(RUNS[name]), torch.device("cpu")), expected)
    for key in ("codes", "encoded"):
        np.testing.assert_array_equal(found[key], expected[key], err_msg=key)
    samples = expected["samples"]
    assert found["samples"].dtype == samples.dtype and found["samples"].shape == samples.shape
    if samples.dtype == np.uint8:  # a mean half-way between two levels may round to either on another processor
        assert np.abs(found["samples"].astype(int) - samples).max() <= 1
    else:  # drawn: each value is one of the 256 mu-law levels, the nearest of which are 1e-4 apart
        np.testing.assert_allclose(found["samples"], samples, atol=1e-5)
