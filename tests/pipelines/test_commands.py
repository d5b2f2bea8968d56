"""The commands end to end on a tiny run: what they write, and that it fits together."""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.data.codes import CodeData
from pipelines.data.digits import Digits
from pipelines.runs.store import Run, load_stage1, load_stage2, stage1_hash

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_the_code_data_set_is_what_the_encoder_says(tiny_run):
    codes, stage1, data = CodeData(tiny_run / "codes"), load_stage1(Run(tiny_run), CPU), Digits()
    assert codes.grid == (4, 4) and codes.num_codes == 32 and codes.stage1_hash == stage1_hash(stage1)
    for name in ("train", "validation"):
        items = torch.arange(50)
        assert torch.equal(codes.split(name).batch(items).x, stage1.module.encode(data.split(name).batch(items).x))


def test_stage2_leaves_stage1_as_it_was(tiny_run):
    """Its hash in the manifest was taken before stage 2 was trained."""
    assert load_stage2(Run(tiny_run), CPU).state.stage1_hash == stage1_hash(load_stage1(Run(tiny_run), CPU))


def test_extracting_twice_gives_the_same_bytes(tiny, tiny_run, tmp_path, command):
    (tmp_path / "tiny").mkdir()
    shutil.copytree(tiny_run / "stage1", tmp_path / "tiny" / "stage1")
    command("extract_codes", *tiny, f"runs_dir={tmp_path}")
    for path in (tiny_run / "codes").iterdir():
        assert path.read_bytes() == (tmp_path / "tiny" / "codes" / path.name).read_bytes()


def test_samples_depend_on_seed_and_number_alone(tiny_run, tmp_path, command):
    def sampled(name: str, *flags: str) -> list[np.ndarray]:
        result = command("sample", "--run", str(tiny_run), "--out", str(tmp_path / name), *flags)
        assert "grid.png" in result.stdout
        return [pixels(path) for path in sorted((tmp_path / name).glob("0*.png"))]

    many, few = sampled("many", "--n", "7", "--batch-size", "3"), sampled("few", "--n", "2")
    assert len(many) == 7 and len(few) == 2 and many[0].shape == (8, 8)
    assert all((a == b).all() for a, b in zip(many, few))
    assert any((a != b).any() for a, b in zip(many, sampled("seed", "--n", "7", "--seed", "1")))
    assert any((a != b).any() for a, b in zip(many, sampled("cold", "--n", "7", "--temperature", "0")))
    assert any((a != b).any() for a, b in zip(many, sampled("label", "--n", "7", "--label", "digit=3")))
    assert all((a == b).all() for a, b in zip(sampled("top", "--n", "7", "--top-k", "1"), sampled("cold2", "--n", "7",
                                                                                             "--temperature", "0")))


def test_completion_keeps_the_upper_half(tiny_run, tmp_path, command):
    picture = Digits().split("validation").batch(torch.tensor([5])).x[0]
    Image.fromarray(picture[0].numpy()).save(tmp_path / "digit.png")
    command("sample", "--run", str(tiny_run), "--n", "4", "--complete", str(tmp_path / "digit.png"), "--out",
            str(tmp_path / "out"))
    stage1 = load_stage1(Run(tiny_run), CPU).module
    whole = stage1.decode(stage1.encode(picture[None]))[0, 0].numpy()
    completed = [pixels(path) for path in sorted((tmp_path / "out").glob("0*.png"))]
    assert len({image.tobytes() for image in completed}) > 1, "the lower half is drawn"
    # The decoder sees 3 rows of codes beyond a pixel's own, so the upper rows are not exactly those of `whole`: they
    # are compared with those of four samples that are free to be other digits.
    command("sample", "--run", str(tiny_run), "--n", "4", "--out", str(tmp_path / "free"))
    free = [pixels(path) for path in sorted((tmp_path / "free").glob("0*.png"))]
    near, far = ([np.abs(image[:2].astype(int) - whole[:2]).mean() for image in images] for images in (completed, free))
    assert max(near) < 0.5 * np.mean(far), (near, far)


def test_evaluation_writes_every_figure_and_prints_the_table(tiny, tiny_run, tmp_path, command):
    run = tmp_path / "tiny"
    shutil.copytree(tiny_run, run)
    table = command("evaluate", *tiny, f"runs_dir={tmp_path}").stdout
    _, rows, _ = table.split("-" * 58 + "\n")
    assert {len(row) for row in rows.splitlines()} == {58}, "names and figures in their columns"
    figures = json.loads((run / "metrics.json").read_text())
    bits, codes = figures["bits_per_dim"], figures["codes"]
    assert bits["total_uniform"] == pytest.approx(bits["distortion"] + bits["rate_uniform"], abs=1e-4)
    assert bits["total_prior"] == pytest.approx(bits["distortion"] + bits["rate_prior"], abs=1e-4)
    assert bits["rate_uniform"] == pytest.approx(16 * 5 / 64, abs=1e-5)  # 4x4 codes of 5 bits, 64 pixels
    assert bits["rate_prior"] == pytest.approx(16 * codes["prior_bits"] / 64, abs=1e-4)
    assert 1 <= codes["perplexity"] <= codes["used"] <= codes["num_codes"] == 32
    for key in ("unigram_bits", "bigram_bits", "prior_bits", "prior_bits_train"):
        assert 0 < codes[key] < 8
    assert 0 < figures["nmse"] < 1.5 and figures["psnr_db"] > 5
    assert figures["ssim"] is None, "8x8 pixels are too few for its window"
    assert 0 < figures["classifier"]["samples"] <= 1 and figures["classifier"]["real"] > 0.9
    assert figures["items"] == len(Digits().split("validation"))
    copies = figures["copies"]
    assert (copies["num_samples"], copies["training_items"], copies["held_out_items"]) == (256, 1438, 359)
    for space in ("codes", "data"):
        assert copies[space]["expected"] == pytest.approx(1438 / 1797, abs=1e-5)
        assert abs(copies[space]["share"] - 0.8) < 5 * copies[space]["standard_error"], "30 steps learn none by heart"
    for path in re.findall(r"\S+\.png", table):
        assert Path(path).is_file()
    for word in ("NMSE", "perplexity", "classifier accuracy: samples", "bound, learned prior"):
        assert word in table


def test_the_bound_is_that_of_stage_1_alone_where_there_is_no_prior(tiny, tiny_run, tmp_path, command):
    (tmp_path / "tiny").mkdir()
    shutil.copytree(tiny_run / "stage1", tmp_path / "tiny" / "stage1")
    command("evaluate", *tiny, f"runs_dir={tmp_path}", "evaluate.classifier=false", "evaluate.split=train")
    figures = json.loads((tmp_path / "tiny" / "metrics.json").read_text())
    assert figures["bits_per_dim"]["total_prior"] is None and figures["codes"]["prior_bits"] is None
    assert figures["classifier"] is None and figures["split"] == "train"


def test_reconstruct(tiny_run, tmp_path, command):
    Image.effect_noise((40, 30), 60).save(tmp_path / "noise.png")
    result = command("reconstruct", "--run", str(tiny_run), "--input", str(tmp_path), "--out", str(tmp_path / "out"))
    assert "1 reconstructions" in result.stdout
    assert pixels(tmp_path / "out" / "00000-noise.png").shape == (8, 8)
    assert pixels(tmp_path / "out" / "comparison.png").ndim == 3


def test_publishing_twice_keeps_codes_and_samples(tiny, tiny_run, tmp_path, command):
    """Rounded before extraction, a run is the same after it was published: hash, and so codes and prior, still fit."""
    command("publish", "--run", str(tiny_run), "--out", str(tmp_path / "half"))
    assert not (tmp_path / "half" / "stage2").exists()
    for script in ("extract_codes", "train_stage2"):
        command(script, *tiny, f"runs_dir={tmp_path}", "run=half")
    command("publish", "--run", str(tmp_path / "half"), "--out", str(tmp_path / "published"))
    before, after = Run(tmp_path / "half"), Run(tmp_path / "published")
    assert stage1_hash(load_stage1(before, CPU)) == stage1_hash(load_stage1(after, CPU))
    command("sample", "--run", str(after.root), "--n", "3")
    assert len(list(after.samples.glob("0*.png"))) == 3
    assert not list(after.root.rglob("optimizer.pt"))


def test_sample_takes_the_run_that_was_trained_last(tiny, tiny_run, tmp_path, command):
    shutil.copytree(tiny_run, tmp_path / "a")
    shutil.copytree(tiny_run, tmp_path / "b")
    for state in (tmp_path / "a" / "stage2" / "checkpoints").glob("step-*/state.json"):
        state.write_text(json.dumps(json.loads(state.read_text()) | {"trained_at": "9999-01-01T00:00:00+00:00"}))
    result = command("sample", "--runs-dir", str(tmp_path), "--n", "1")
    assert str(tmp_path / "a") in result.stdout


def test_make_alone_lists_the_targets():
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    for target in ("demo", "stage1", "extract-codes", "stage2", "sample", "evaluate", "test", "test-all"):
        assert re.search(rf"^{target}\s{{2,}}\S", listed, re.MULTILINE), target


@pytest.mark.parametrize("name", ["mnist", "cifar10_compact", "imagenet128"])
def test_pretrained_runs_sample_and_are_small(name, tmp_path, command):
    run = ROOT / "pretrained" / name
    assert sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) < 6e6
    assert json.loads((run / "metrics.json").read_text())["nmse"] < 1
    command("sample", "--run", str(run), "--n", "1", "--out", str(tmp_path))
    shape = load_stage1(Run(run), CPU).example.shape
    assert pixels(tmp_path / "00000.png").shape[:2] == tuple(shape[1:])
    digest = hashlib.sha256((tmp_path / "00000.png").read_bytes()).hexdigest()
    command("sample", "--run", str(run), "--n", "1", "--out", str(tmp_path))
    assert digest == hashlib.sha256((tmp_path / "00000.png").read_bytes()).hexdigest()
