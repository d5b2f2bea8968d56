"""score.py and `run.score_files`: figures of a user's own items, ranks, percentiles, nearest training items, maps."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import soundfile
import torch

from pipelines import load
from pipelines.data.digits import Digits
from pipelines.evaluation.held_out import CACHE, percentiles
from pipelines.files.errors import InputError
from pipelines.media.images import write_image
from pipelines.runs.find import PRETRAINED


@pytest.fixture(scope="module")
def run_folder(tiny_run, tmp_path_factory) -> Path:
    """A run whose scores of held-out items are already known."""
    folder = shutil.copytree(tiny_run, tmp_path_factory.mktemp("scores") / "tiny")
    load(folder, "cpu").held_out_scores(count=50)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Training digits 0 and 5, and noise."""
    folder = tmp_path_factory.mktemp("images")
    for number in (0, 5):
        write_image(folder / f"training{number}.png", Digits().split("train").batch(torch.tensor([number])).x[0])
    noise = torch.randint(0, 256, (1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    write_image(folder / "noise.png", noise)
    return folder


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_files_are_scored_and_ranked(run_folder, images, tmp_path, command):
    out = tmp_path / "out"
    said = command("score", "--run", str(run_folder), "--input", str(images), "--out", str(out), "--held-out", "50")
    assert said.stdout.startswith("3 scores by ") and said.stderr == "", "the scores of held-out items were kept"
    rows = read(out / "scores.csv")
    bits = [float(row["bits_per_code"]) for row in rows]
    assert bits == sorted(bits, reverse=True) and rows[0]["file"] == "noise"
    x = torch.stack([Digits().split("train").batch(torch.tensor([number])).x[0] for number in (0, 5)])
    scores, known = load(run_folder).score(x), load(run_folder).held_out_scores(count=50)
    for number, code, data, codec, percentile in zip(
            (0, 5), scores.code_bits.tolist(), scores.data_bits.tolist(), scores.codec_bits.tolist(),
            percentiles(scores.bits_per_code, known.code).tolist()):
        (row,) = [row for row in rows if row["file"] == f"training{number}"]
        assert (float(row["code_bits"]), float(row["data_bits"])) == pytest.approx((code, data), rel=1e-5)
        assert float(row["bits_minus_codec"]) == pytest.approx(code + data - codec, rel=1e-5)
        assert float(row["percentile_codes"]) == pytest.approx(percentile, rel=1e-5)
        assert float(row["code_distance"]) == 0
        train = load(run_folder).codes("train").codes
        assert torch.equal(train[int(row["nearest_training_item"])], train[number])
    assert float(rows[0]["code_distance"]) > 0
    assert {path.name for path in out.glob("*.png")} == {
        "overview.png", *(f"{place:05d}-{row['file']}.png" for place, row in enumerate(rows))}
    command("score", "--run", str(run_folder), "--input", str(images / "noise.png"), "--out", str(out), "--rank",
            "codec", "--held-out", "50", "--batch-size", "1")
    assert len(read(out / "scores.csv")) == 1 and not (out / "00001-training5.png").exists()


def test_kept_scores_are_those_of_these_stages_and_options(run_folder, tmp_path, capsys):
    run = load(shutil.copytree(run_folder, tmp_path / "tiny"), "cpu")
    known = run.held_out_scores(count=50)
    assert "scoring" not in capsys.readouterr().err and len(known.code) == len(known.corrected) == 50
    given = run.held_out_scores(("digit",), count=50)
    assert "scoring 50 held-out items" in capsys.readouterr().err and given.code != known.code
    assert run.held_out_scores(("digit",), count=50) == given
    assert run.held_out_scores(count=50) == known, "computed again: the file holds one set"
    content = json.loads((run.folder / CACHE).read_text())
    capsys.readouterr()
    for key, value in (("stage2_hash", "0" * 64), ("format", 0), ("code", "x"), ("code", [])):
        (run.folder / CACHE).write_text(json.dumps(content | {key: value}))
        assert run.held_out_scores(count=50) == known and "scoring" in capsys.readouterr().err, key
    (run.folder / CACHE).write_text("[")
    assert run.held_out_scores(count=50) == known


def test_percentiles_count_equal_ones_half():
    assert percentiles(torch.tensor([0.0, 1.0, 2.5, 9.0]), [1.0, 1.0, 2.0, 3.0]).tolist() == [0, 25, 75, 100]


def test_codes_alone_give_the_percentile_of_the_codes(run_folder, tmp_path):
    """Data that cannot be found: those of the configuration are others."""
    folder = shutil.copytree(run_folder, tmp_path / "tiny")
    (folder / CACHE).unlink()
    config = folder / "stage1" / "config.yaml"
    config.write_text(config.read_text().replace("pipelines.data.digits.Digits", "pipelines.data.nowhere.Digits"))
    known, full = load(folder, "cpu").held_out_scores(count=50), load(run_folder, "cpu").held_out_scores(count=50)
    assert known.total is None and known.source == "extracted codes"
    assert known.code == pytest.approx(full.code, rel=1e-5)
    assert load(folder, "cpu").held_out_scores(count=50) == known
    shutil.rmtree(folder / "codes")
    (folder / CACHE).unlink()
    with pytest.raises(InputError, match="nowhere.*; and no codes in"):
        load(folder, "cpu").held_out_scores(count=50)


def test_what_cannot_be_had_is_left_out_with_a_line(images, tmp_path, command):
    folder = shutil.copytree(PRETRAINED / "mnist", tmp_path / "mnist", ignore=shutil.ignore_patterns(CACHE))
    said = command("score", "--run", str(folder), "--input", str(images), "--out", str(tmp_path / "out"), cwd=tmp_path,
                   environment={"DATA_ROOT": str(tmp_path)})
    notes = [line for line in said.stderr.splitlines() if line.startswith("note: ")]
    assert [line.split(" left out")[0] for line in notes] == ["note: percentiles", "note: nearest training items"]
    assert "--data-root FOLDER" in notes[0] and "make extract-codes" in notes[1]
    rows = read(tmp_path / "out" / "scores.csv")
    assert len(rows) == 3 and {row["percentile_codes"] + row["code_distance"] for row in rows} == {""}


@pytest.mark.parametrize("words, line", [
    (("--rank", "x"), "--rank: expected one of codes, bits, codec, found 'x'"),
    (("--label", "digit=x"), "--label digit: expected one of 0, 1, "),
    (("--held-out", "0"), "--held-out: expected a number >= 1, found 0"),
    (("--actions", "left"), "--actions: expected a run on video with actions, found "),
])
def test_what_does_not_fit_is_refused(words, line, run_folder, images, tmp_path, command):
    out = tmp_path / "out"
    said = command("score", "--run", str(run_folder), "--input", str(images), "--out", str(out), *words, check=False)
    assert said.returncode == 2 and said.stderr.startswith(f"error: {line}") and said.stderr.count("\n") == 1
    assert not list(out.glob("*.*")), "nothing half-written"


def test_maps_sum_to_the_bits(run_folder):
    """Those of the codes too where labels are marginalised over: each position's given all earlier ones."""
    run = load(run_folder, "cpu")
    x = Digits().split("validation").batch(torch.arange(4)).x
    for labels in ({}, {"digit": "3"}):
        scores = run.score(x, **labels)
        assert scores.code_map.shape == (4, 4, 4) and scores.data_map.shape == (4, 8, 8)
        torch.testing.assert_close(scores.code_map.flatten(1).sum(1), scores.code_bits)
        torch.testing.assert_close(scores.data_map.double().flatten(1).sum(1), scores.data_bits, rtol=1e-5, atol=1e-4)
    earlier = x.clone()
    earlier[:, :, 6:] = 0  # the last row of codes
    first = run.score(earlier).code_map
    same = (run.encode(x) == run.encode(earlier))[:, :2].flatten(1).all(1)
    assert same.any(), "the encoder sees no further"
    torch.testing.assert_close(first[same, :2], run.score(x).code_map[same, :2])


def test_clips_of_audio_are_drawn_over_time(tmp_path):
    run = load("fsdd", "cpu")
    clips = run.sample(2, digit="7", speaker="theo", seed=0, seconds=0.3)
    for number in range(2):
        length = int(clips.lengths[number])
        soundfile.write(tmp_path / f"clip{number}.wav", clips.x[number, 0, :length].numpy(), 8000)
    written = run.score_files(tmp_path, tmp_path / "out", ["speaker=theo"], data_root=None)
    assert written.count == 2 and written.overview.is_file() and len(list((tmp_path / "out").glob("0*-clip?.png"))) == 2
    scores = run.score(tmp_path, speaker="theo")
    assert scores.num_codes.tolist() == [-(-int(length) // 64) for length in scores.dimensions]
    assert (scores.code_map[:, int(scores.num_codes.max()) :] == 0).all() and scores.codec_bits.min() > 1000
    with pytest.raises(InputError, match="^label: expected speaker=CLASS"):
        run.score_files(tmp_path, tmp_path / "out")
