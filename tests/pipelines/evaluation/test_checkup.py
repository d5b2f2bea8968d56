"""What the doctor gathers of a run, and its words."""

import shutil
from pathlib import Path

import pytest
import torch

from pipelines import load
from pipelines.data.codes import CodeData, write_codes
from pipelines.data.digits import Digits
from pipelines.evaluation.checkup import Checkup, check, code_use, command, reach, report
from pipelines.health.finding import Change, Finding
from pipelines.runs.chain import load_run
from pipelines.runs.store import Run
from stage2_prior.pixelcnn import GatedPixelCNN
from stage2_prior.video import GatedPixelCNN3d
from stage2_prior.wavenet import WaveNet

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "format1"


def awake(prior: torch.nn.Module) -> torch.nn.Module:
    """With weights everywhere: heads that start at zero would hide all that a prior sees."""
    generator = torch.Generator().manual_seed(0)
    for parameter in prior.parameters():
        parameter.data.normal_(0, 0.5, generator=generator)
    return prior.eval()


@pytest.mark.parametrize("layers", [1, 3])
def test_the_reach_of_a_wavenet_is_its_receptive_field(layers):
    prior = awake(WaveNet(num_codes=5, residual_channels=4, gate_channels=8, skip_channels=4, num_layers=layers,
                          dilation_cycle=3, num_classes=(2,), local_channels=1))
    assert reach(prior, (40,)) == (prior.receptive_field,)


def test_the_reach_of_a_pixelcnn_grows_by_half_a_kernel_per_layer():
    first, second = (reach(awake(GatedPixelCNN(num_codes=5, channels=4, num_layers=layers, kernel_size=3,
                                               first_kernel_size=5, head_channels=4)), (20, 24)) for layers in (1, 2))
    assert first == (2, 2) and second == (3, 3)


def test_whatever_reaches_the_end_of_the_grid_reaches_all_of_it():
    prior = awake(GatedPixelCNN3d(num_codes=5, channels=4, num_layers=2, first_kernel_size=5, num_temporal_layers=1,
                                  head_channels=4))
    time, height, width = reach(prior, (9, 4, 5))
    assert 1 <= time < 9 and (height, width) == (4, 5)


def test_codes_are_counted_over_the_training_items_each_once(tmp_path):
    data = Digits()
    write_codes(tmp_path, data, lambda batch: {"codes": batch.x[:, 0, ::4, ::4].long() // 128}, num_codes=5,
                num_codebooks=1, stage1_hash="a" * 64, views=2)
    use = code_use(CodeData(tmp_path), "b" * 64)
    expected = torch.bincount((data.split("train").batch(torch.arange(1438)).x[:, 0, ::4, ::4] // 128).flatten(),
                              minlength=5)
    assert torch.equal(use.counts[0], 2 * expected) and (use.items, use.positions) == (1438, 4)
    assert (use.made_by, use.stage1) == ("a" * 64, "b" * 64)


def test_all_that_a_run_has_is_looked_at():
    checkup = check(load_run(Run(GOLDEN), torch.device("cpu")))
    assert checkup.looked_at == ["weights", "9 rows of the log of stage 1", "9 rows of the log of stage 2", "codes",
                                 "metrics.json"]


@pytest.mark.parametrize("name", ["mnist", "cifar10_compact", "fsdd", "fsdd_fast", "imagenet128", "imagenet128_codec",
                                  "room_video"])
def test_the_pretrained_runs_are_healthy(name):
    assert load(name, "cpu").doctor() == []


def test_codes_and_prior_of_an_earlier_stage_1_are_findings_not_errors(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "run")
    config = tmp_path / "run" / "stage1" / "config.yaml"
    config.write_text(config.read_text().replace("  beta: 1.0", "  beta: 2.0"))  # another stage 1 by its hash
    found = [finding for finding in load(tmp_path / "run", "cpu").doctor() if finding.rule == "other stage1"]
    assert [finding.stage for finding in found] == ["stage1", "stage2"]


def test_a_report_in_words():
    finding = Finding("3 of 64 codes in use", "too few", (Change("stage1.lr", 0.001, 0.1),), "more data", "few codes",
                      "stage1")
    assert report(Path("runs/photos"), Checkup([finding], ["weights", "codes"])).splitlines() == [
        "runs/photos: 1 finding", "", "1. few codes (stage 1)", "   found    3 of 64 codes in use",
        "   meaning  too few",
        "   change   lower stage1.lr from 0.1 to 0.001, or more data",
        '   command  make stage1 EXPERIMENT=<as before> RUN=<another name> ARGS="stage1.lr=0.001"', "",
        "looked at: weights, codes"]
    assert report(Path("photos"), Checkup([], ["weights"])) == "photos: nothing found; looked at: weights"


@pytest.mark.parametrize(("key", "verb"), [
    ("stage1.lr", "make stage1 "), ("autoencoder.beta", "make stage1 "), ("data.range", "make stage1 "),
    ("extract.overwrite", "make extract-codes RUN=photos "), ("prior.dropout", "make stage2 RUN=photos "),
    ("stage2.lr", "make stage2 RUN=photos "), ("condition_on", "make stage2 RUN=photos ")])
def test_a_change_is_made_by_the_verb_that_reads_the_setting(key, verb):
    typed = command(Change(key, 1), "photos")
    assert typed.startswith(verb) and f'ARGS="{key}=1"' in typed
