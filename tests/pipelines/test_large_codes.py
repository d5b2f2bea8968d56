"""2^18 codes through every command: the prior models a code as two sub-codes, and files hold codes of 32 bits."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import evaluate, extract_codes, load, train_stage1, train_stage2
from pipelines.data.codes import CodeData
from pipelines.files.errors import InputError
from pipelines.runs.config import composed, read_config
from pipelines.runs.continued import own_settings
from pipelines.runs.store import Run
from stage2_prior.split import SplitCodes

CODES = 2**18
BOTTLENECKS = {"fsq": ["autoencoder/bottleneck=fsq", "autoencoder.bottleneck.levels=[8,8,8,8,8,8]"],
               "bsq": ["autoencoder/bottleneck=bsq", "autoencoder.bottleneck.num_bits=18"]}  # fmt: skip


SMALL = [*(f"autoencoder.encoder.{size}" for size in ("hidden=8", "outer_hidden=8", "residual_hidden=4")),
         "autoencoder.bottleneck.dim=4", "prior.channels=8", "prior.num_layers=2", "prior.head_channels=8",
         "evaluate.samples=4", "evaluate.classifier=false", "evaluate.copies=4",
         *(f"{stage}.{setting}" for stage in ("stage1", "stage2")
           for setting in ("steps=2", "batch_size=4", "validate_every=2", "log_every=2", "device=cpu"))]


def call(script, *overrides: str) -> None:
    """A Hydra program's main, in this process."""
    script.main.__wrapped__(composed(list(overrides)))


def settings(folder: Path, name: str, *overrides: str) -> list[str]:
    return ["experiment=imagenet128", *SMALL, f"runs_dir={folder}", f"run={name}", f"data.root={folder / 'images'}",
            f"data.cache={folder / 'cache'}", "data.size=8", "data.channels=1", "data.workers=1",
            "data.validation_fraction=0.25", *BOTTLENECKS[name], *overrides]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    draws = np.random.default_rng(0)
    for number in range(12):
        path = folder / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (8, 8), np.uint8)).save(path)
    return folder


@pytest.mark.parametrize("name", [pytest.param("fsq", marks=pytest.mark.slow), "bsq"])
def test_2_to_the_18_codes_pass_through_every_command(name, folder):
    for verb in (train_stage1, extract_codes, train_stage2):
        call(verb, *settings(folder, name))
    codes, run = CodeData(folder / name / "codes"), load(folder / name, "cpu")
    assert codes.num_codes == CODES and codes.manifest.dtype == "int32"
    extracted = codes.split("train").batch(torch.arange(3)).x
    assert extracted.dtype == torch.int64 and extracted.max() >= 2**16, "codes that 16 bits do not hold come back"
    assert isinstance(run.stage2, SplitCodes) and (run.stage2.parts, run.stage2.prior.num_codes) == (2, 512)
    drawn = run.sample(2, seed=1)
    assert drawn.x.shape == (2, 1, 8, 8)
    pictures = run.decode(extracted)
    data = run.compress(pictures)
    assert torch.equal(run.decompress(data), run.reconstruct(pictures))
    assert torch.equal(run.decompress(run.compress(pictures, lossless=True)), pictures)
    score = run.score(pictures)
    assert (score.bits > 0).all()
    with pytest.raises(InputError, match="rate_weight: expected 0 for a run whose prior splits codes"):
        run.compress(pictures, rate_weight=1.0)
    call(evaluate, *settings(folder, name))
    figures = json.loads((folder / name / "metrics.json").read_text())
    # barely trained: the prior gives all codes about the same probability
    assert figures["codes"]["num_codes"] == CODES and figures["codes"]["prior_bits"] == pytest.approx(18, abs=2)


def test_a_run_knows_how_its_codes_are_split(folder):
    run = Run(folder / "fsq")
    if not run.stage2.exists():
        for verb in (train_stage1, extract_codes, train_stage2):
            call(verb, *settings(folder, "fsq"))
    own = own_settings(run)  # as it is given, for `run=fsq` alone
    assert own["split_codes"] == 2 and (own["prior"]["num_codes"], own["prior"]["channels"]) == (512, 8)
    call(train_stage2, *settings(folder, "fsq", "stage2.steps=3"))
    with pytest.raises(InputError, match="prior.prior.num_codes: expected 512 as in this run so far, found 64"):
        call(train_stage2, *settings(folder, "fsq", "split_codes=3"))
    shutil.rmtree(run.stage2)
    with pytest.raises(InputError, match="split_codes: expected a number of sub-codes s with B.s = 262144"):
        call(train_stage2, *settings(folder, "fsq", "split_codes=4"))
    call(train_stage2, *settings(folder, "fsq", "split_codes=6"))
    saved = read_config(run.stage2 / "config.yaml")["prior"]
    assert (saved["num_codes"], saved["prior"]["num_codes"], saved["prior"]["num_codebooks"]) == (CODES, 8, 6)
