"""A run on imported codes: samples and fillings as mosaics; pages that need a stage 1 say why they are not there."""


import numpy as np
import pytest
import torch

from pipelines import load
from pipelines.data.importing import Wishes, import_tokens
from pipelines.explorer.page import Arguments, Context
from pipelines.explorer.pages.codes import Codes
from pipelines.explorer.pages.fill import Fill
from pipelines.explorer.pages.samples import Samples
from pipelines.explorer.pages.scores import Scores
from pipelines.explorer.pages.voices import Voices
from pipelines.explorer.pages.world import World
from pipelines.runs.store import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory, command):
    home = tmp_path_factory.mktemp("tokens")
    np.save(home / "x.npy", np.random.default_rng(0).integers(0, 8, (40, 3, 4)))
    import_tokens(Run(home / "runs/tokens"), {"train": home / "x.npy"}, Wishes())
    command("train_stage2", "run=tokens", "prior.channels=4", "prior.num_layers=1", "train.steps=2",
            "train.validate_every=2", cwd=home)
    return load(home / "runs/tokens", "cpu")


def test_pages_that_make_no_sense_say_why(run):
    pages = {page.name: page.why_not(run) for page in (Codes(), Scores(), Voices(), World(), Samples(), Fill())}
    assert [name for name, why in pages.items() if why is None] == ["samples", "fill"]
    assert "were imported" in pages["codes"] and "score.py" in pages["scores"]


def test_samples_and_fillings_are_mosaics(run, tmp_path):
    context = Context(run, tmp_path, None, {}, {})
    lines = list(Samples().draw(context, Arguments({"n": 2}, None)))
    samples = next(line["samples"] for line in lines if "samples" in line)
    assert all(own["image"].startswith("data:image/png;base64,") and len(own["codes"]) == 12 for own in samples)
    assert [line["nearest"] for line in lines if "nearest" in line] == [0, 1]
    opened = Fill().sample(context, Arguments({"seed": 3}, None))
    assert (opened["rows"], opened["columns"]) == (3, 4)
    mask = [0] * 6 + [1] * 6
    filled = Fill().fill(context, Arguments({"mask": mask, "n": 2, "particles": 2}, None))
    assert len(filled) == 2 and all(torch.tensor(own["bits"]).isfinite() for own in filled)
