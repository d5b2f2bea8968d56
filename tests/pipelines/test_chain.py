"""A run on the codes of a run, end to end on the embedded room: extraction, prior, samples, reconstructions, figures,
and every link between them that may be broken."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipelines import evaluate, extract_codes, load, publish, reconstruct, sample, score, train_stage1, train_stage2
from pipelines.data import run_codes
from pipelines.data.codes import CodeData, write_codes
from pipelines.data.manifest import read_manifest
from pipelines.data.room import Room
from pipelines.data.run_codes import RunCodes
from pipelines.evaluation import code_classifier as code_probe
from pipelines.evaluation.code_classifier import Target, code_classifiers, octants, position_cells, targets
from pipelines.evaluation.codes import levels
from pipelines.explorer.page import Arguments, Context
from pipelines.explorer.pages import all_pages
from pipelines.files.errors import InputError
from pipelines.runs.config import composed
from pipelines.runs.facts import complete
from pipelines.runs.store import Run, load_parents, load_stage1, load_stage2, stage1_hash
from pipelines.training.checkpoint import find_checkpoint, read_state, write_parts

CPU = torch.device("cpu")
ROOM = {"episodes": 8, "frames": 12, "size": 24}
STEPS = [f"{stage}.{setting}" for stage in ("stage1", "stage2")
         for setting in ("steps=3", "batch_size=8", "validate_every=3", "log_every=3", "device=cpu")]
BOTTOM = ["experiment=doom", "data=room", *(f"data.{key}={value}" for key, value in ROOM.items()), "run=bottom",
          *(f"autoencoder.encoder.{size}" for size in ("hidden=8", "outer_hidden=8", "residual_hidden=4")),
          "autoencoder.bottleneck.num_codes=32", "autoencoder.bottleneck.dim=4"]
WIDTHS = ["hidden=8", "outer_hidden=8", "residual_hidden=4"]
NETWORK = [*(f"autoencoder.encoder.encoder.encoder.{size}" for size in WIDTHS),
           "autoencoder.encoder.encoder.channels=8", "autoencoder.encoder.features=4", "autoencoder.bottleneck.dim=6",
           "autoencoder.decoder.network.channels=8", "autoencoder.decoder.network.num_layers=2",
           "autoencoder.decoder.network.head_channels=8",
           "autoencoder.decoder.upsampler.decoder.decoder.out_channels=4"]
PRIOR = ["prior.channels=8", "prior.num_layers=2", "prior.head_channels=8"]


def call(script, *overrides: str) -> None:
    """A Hydra program's main, in this process."""
    script.main.__wrapped__(composed(list(overrides)))


def script(module, *words: object) -> None:
    """A script with flags, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["script", *map(str, words)])
        module.main(module.parse_arguments())


def top(runs: Path, name: str = "top", *overrides: str) -> list[str]:
    """The arguments of a run on the codes of `bottom`, 8 codes in each of 3 codebooks."""
    return ["experiment=doom_3codes", *NETWORK, *PRIOR, *STEPS, f"runs_dir={runs}", f"run={name}",
            f"data.run={runs}/bottom", "autoencoder.bottleneck.num_codes=8", f"evaluate.unconditional={runs}/deaf",
            "evaluate.batch_size=10", *overrides]


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Path:
    """Three runs, never changed by a test: copy them where you must. The decoder of `deaf` is unconditional."""
    runs = tmp_path_factory.mktemp("chain")
    bottom = [*BOTTOM, *STEPS, *PRIOR, f"runs_dir={runs}"]
    call(train_stage1, *bottom)
    call(extract_codes, *bottom)
    call(train_stage1, *top(runs))
    call(extract_codes, *top(runs))
    call(train_stage2, *top(runs))
    call(train_stage1, *top(runs, "deaf", "autoencoder.bottleneck.num_codes=1"))
    return runs


@pytest.fixture
def copied(chain, tmp_path) -> Path:
    """The three runs where a test may change them."""
    shutil.copytree(chain, tmp_path / "runs")
    for config in (tmp_path / "runs").glob("*/stage1/config.yaml"):
        config.write_text(config.read_text().replace(str(chain), str(tmp_path / "runs")))
    return tmp_path / "runs"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(code_probe, "STEPS", 20)


def retrain(run: Path) -> None:
    """The run's stage 1 as if it were trained anew: other weights."""
    for which in ("best", "latest"):
        path = find_checkpoint(run / "stage1", which) / "model.safetensors"
        weights = load_file(path)
        weights["decoder.layers.0.bias"] = weights["decoder.layers.0.bias"] + 1
        write_parts(path.parent, read_state(path.parent), weights)


def test_codes_of_a_run_are_data_with_what_is_known_of_its_frames(chain):
    data, codes, room = RunCodes(str(chain / "bottom")), CodeData(chain / "bottom" / "codes"), Room(**ROOM)
    assert data.kind == "codes" and data.name == "codes of room" and data.shape == (1, 6, 6) and data.num_codes == 32
    assert data.parent_hash == stage1_hash(load_stage1(Run(chain / "bottom"), CPU)) and data.splits == room.splits
    for split in data.splits:
        found = data.split(split).batch(torch.arange(5))
        assert found.x.shape == (5, 1, 6, 6) and found.x.dtype == torch.int64 and found.labels.shape == (5, 0)
        assert torch.equal(found.x[:, 0], codes.split(split).batch(torch.arange(5)).x)
        assert data.recorded_names == ("pose",)
        assert torch.equal(data.recorded("pose", split), room.recorded("pose", split))


def test_codes_of_several_codebooks_are_channels_and_views_repeat_what_was_recorded(tmp_path):
    bottom = [*BOTTOM, *STEPS, f"runs_dir={tmp_path}", "autoencoder.bottleneck.num_codebooks=2"]
    call(train_stage1, *bottom)
    call(extract_codes, *bottom, "extract.views=2")
    data, codes, room = RunCodes(str(tmp_path / "bottom")), CodeData(tmp_path / "bottom" / "codes"), Room(**ROOM)
    x = data.split("train").batch(torch.arange(3)).x
    assert data.shape == (2, 6, 6) and torch.equal(x.movedim(1, -1), codes.split("train").batch(torch.arange(3)).x)
    pose = data.recorded("pose", "train")
    assert len(pose) == len(data.split("train")) and torch.equal(pose, room.recorded("pose", "train").repeat(2, 1))
    with pytest.raises(InputError, match="expected one channel for an autoregressive decoder, found 2"):
        call(train_stage1, *top(tmp_path))


def test_sizes_come_from_the_parent_s_manifest(chain):
    found = complete(composed(top(chain)), RunCodes(str(chain / "bottom")))
    assert found["likelihood"]["num_codes"] == found["decoder"]["network"]["num_codes"] == 32
    assert found["encoder"]["encoder"]["num_codes"] == 32 and found["encoder"]["encoder"]["in_channels"] == 1
    assert found["decoder"]["upsampler"]["decoder"]["data_grid"] == [6, 6] and found["encoder"]["grid"] == [2, 2]


def test_every_stage_holds_the_hash_of_the_parent(chain):
    parent, own = (stage1_hash(load_stage1(Run(chain / name), CPU)) for name in ("bottom", "top"))
    manifest = read_manifest(chain / "top" / "codes")
    assert manifest.grid == (1, 1) and manifest.num_codebooks == 3 and manifest.num_codes == 8
    assert (manifest.stage1_hash, manifest.parent_hash) == (own, parent)
    assert read_manifest(chain / "bottom" / "codes").parent_hash is None
    state = load_stage2(Run(chain / "top"), CPU).state
    assert (state.stage1_hash, state.parent_hash) == (own, parent)
    assert load_stage1(Run(chain / "top"), CPU).example.facts["parent"]["stage1_hash"] == parent


def test_samples_walk_the_chain_down_to_pixels(chain, tmp_path, capsys):
    def sampled(name: str, *flags: object) -> list[np.ndarray]:
        script(sample, "--run", chain / "top", "--out", tmp_path / name, *flags)
        return [np.asarray(Image.open(path)) for path in sorted((tmp_path / name).glob("0*.png"))]

    many, few = sampled("many", "--n", 5, "--batch-size", 2), sampled("few", "--n", 2)
    assert "grid.png" in capsys.readouterr().out
    assert len(many) == 5 and all(picture.shape == (24, 24, 3) for picture in many)
    assert all((a == b).all() for a, b in zip(many, few))
    assert any((a != b).any() for a, b in zip(many, sampled("seed", "--n", 5, "--seed", 1)))
    made = load_parents(Run(chain / "top"), load_stage1(Run(chain / "top"), CPU), CPU)
    assert [stage.example.kind for stage in made] == ["image"]


def test_what_the_decoders_of_both_levels_make_is_what_is_shown(chain):
    stage1 = load_stage1(Run(chain / "top"), CPU)
    parents = load_parents(Run(chain / "top"), stage1, CPU)
    x = Room(**ROOM).split("validation").batch(torch.arange(3)).x
    made = levels(x, stage1, parents, seed=0)
    assert list(made) == ["original", "36 codes", *(f"3 codes, {number}" for number in range(1, 5))]
    assert all(picture.shape == x.shape and picture.dtype == torch.uint8 for picture in made.values())
    model = parents[0].module
    assert torch.equal(made["original"], x) and torch.equal(made["36 codes"], model.decode(model.encode(x)))
    assert not torch.equal(made["3 codes, 1"], made["3 codes, 2"]), "drawn anew from the same codes"
    again = levels(x[:2], stage1, parents, seed=0)
    assert torch.equal(again["3 codes, 3"], made["3 codes, 3"][:2])


def test_reconstructions_of_one_s_own_pictures(chain, tmp_path, capsys):
    Image.effect_noise((40, 30), 60).save(tmp_path / "noise.png")
    script(reconstruct, "--run", chain / "top", "--input", tmp_path / "noise.png", "--out", tmp_path / "out")
    assert "1 reconstructions" in capsys.readouterr().out
    assert np.asarray(Image.open(tmp_path / "out" / "00000-noise.png")).shape == (24, 24, 3)
    assert (tmp_path / "out" / "comparison.png").is_file()
    script(score, "--run", chain / "top", "--input", tmp_path / "noise.png", "--out", tmp_path / "scores")
    header, row = (line.split(",") for line in (tmp_path / "scores" / "scores.csv").read_text().splitlines())
    cells = dict(zip(header, row, strict=True))
    assert cells["codec_bits"] == "" and 0 <= float(cells["percentile_codes"]) <= 100 and cells["code_distance"]


def test_images_are_compressed_to_the_codes_of_codes_and_back_to_pixels(chain):
    """Lossless means the codes of the run below: the images are then those that it makes of them."""
    run, below = load(chain / "top", "cpu"), load(chain / "bottom", "cpu")
    images = Room(**ROOM).split("validation").batch(torch.arange(4)).x
    assert torch.equal(run.decompress(run.compress(images)), run.reconstruct(images))
    assert torch.equal(run.decompress(run.compress(images, lossless=True)), below.reconstruct(images))


def test_evaluation_says_what_the_codes_are_worth(copied, capsys):
    call(evaluate, *top(copied))
    figures, table = json.loads((copied / "top" / "metrics.json").read_text()), capsys.readouterr().out
    nats, codes, bits = figures["frame_nats"], figures["codes"], figures["bits_per_dim"]
    data, stage1 = RunCodes(str(copied / "bottom")), load_stage1(Run(copied / "top"), CPU)
    x = data.split("validation").batch(torch.arange(len(data.split("validation")))).x
    own, deaf = (load_stage1(Run(copied / name), CPU).module.evaluate(x).nll_nats for name in ("top", "deaf"))
    assert nats["own"] == pytest.approx(float(own.mean()), rel=1e-5)
    assert nats["unconditional"] == pytest.approx(float(deaf.mean()), rel=1e-5)
    gained = nats["own_against_unconditional"]
    assert gained["nats_saved"] == pytest.approx(float((deaf - own).mean()), abs=1e-3)
    assert gained["standard_error"] == pytest.approx(float((deaf - own).std()) / len(x) ** 0.5, rel=1e-3)
    assert nats["own_against_shuffled"]["nats_saved"] == pytest.approx(nats["shuffled"] - nats["own"], abs=1e-3)
    lost = nats["unconditional_against_shuffled"]["nats_saved"]
    assert lost == pytest.approx(nats["shuffled"] - nats["unconditional"], abs=1e-3)
    assert bits["distortion"] == pytest.approx(nats["own"] / 36 / np.log(2), rel=1e-4)
    assert len(codes["used"]["each"]) == 3 and codes["num_codes"] == 8 and codes["prior_bits"]["mean"] > 0
    assert stage1.module.bottleneck.num_codebooks == 3 and figures["latents"]["bits"] == pytest.approx(9)
    assert figures["classifiers"].keys() == {"position", "heading"}
    assert all(0 <= known[key] <= 1 for key in ("accuracy", "guess") for known in figures["classifiers"].values())
    for words in ("nats per frame: own codes", "nats per frame: shuffled codes",
                  "nats per frame: unconditional decoder", "heading accuracy from the codes"):
        assert words in table
    for path in re.findall(r"\S+\.png", table):
        assert Path(path).is_file()
    assert "levels.png" in table


@pytest.mark.parametrize(("other", "message"), [
    ("top", "expected a run with autoencoder.bottleneck.num_codes=1, found .*top with 8"),
    ("bottom", "expected a run on the same codes, found .*bottom on others"),
    ("wide", "expected a decoder of [0-9]+ parameters, found .*wide with [0-9]+"),
])
def test_a_decoder_that_is_no_fair_comparison_is_refused(other, message, copied):
    if other == "wide":
        wide = ["autoencoder.bottleneck.num_codes=1", "autoencoder.decoder.network.channels=9"]
        call(train_stage1, *top(copied, "wide", *wide))
    with pytest.raises(InputError, match=f"^evaluate.unconditional: {message}"):
        call(evaluate, *top(copied, "top", f"evaluate.unconditional={copied}/{other}"))


def test_a_parent_that_was_trained_anew_is_refused_everywhere(copied):
    """Its codes are another stage 1's; and once they are extracted anew they are not those that the run knows."""
    retrain(copied / "bottom")
    for use in (lambda: script(sample, "--run", copied / "top", "--n", 1),
                lambda: script(reconstruct, "--run", copied / "top", "--input", "x.png"),
                lambda: script(publish, "--run", copied / "top", "--out", copied / "half")):
        with pytest.raises(InputError, match="top/stage1: expected the parent it was trained on .* was trained anew"):
            use()
    for command in (train_stage1, extract_codes, evaluate):
        with pytest.raises(InputError, match="bottom/codes: expected to be used with the stage 1 it was made with"):
            call(command, *top(copied))
    call(extract_codes, *BOTTOM, *STEPS, f"runs_dir={copied}", "extract.overwrite=true")
    with pytest.raises(InputError, match="config.yaml: parent.stage1_hash: expected .* as in training, found"):
        call(extract_codes, *top(copied))
    with pytest.raises(InputError, match="parent.stage1_hash: expected .* as in training|was trained anew"):
        call(evaluate, *top(copied))
    with pytest.raises(InputError, match=r"example.facts.parent.stage1_hash: expected .* as in this run so far, found"):
        call(train_stage1, *top(copied))


def test_codes_that_were_extracted_in_another_way_are_refused(copied):
    call(extract_codes, *BOTTOM, *STEPS, f"runs_dir={copied}", "extract.overwrite=true", "extract.views=2")
    with pytest.raises(InputError, match="config.yaml: parent.extraction: expected .* as in training, found"):
        call(evaluate, *top(copied))
    script(sample, "--run", copied / "top", "--n", 1)  # the decoders are those that they were


def test_a_prior_of_another_stage_1_or_parent_is_refused(copied):
    state = find_checkpoint(copied / "top" / "stage2", "best") / "state.json"
    content = json.loads(state.read_text())
    for key, message in (("parent_hash", "stage2: parent_hash: expected .*stage1 to be trained on codes of 00"),
                         ("stage1_hash", "stage2: expected to be used with the stage 1 it was made with")):
        state.write_text(json.dumps(content | {key: "00" * 32}))
        with pytest.raises(InputError, match=message):
            script(sample, "--run", copied / "top", "--n", 1)


def test_a_missing_parent_is_named_and_a_moved_one_found(copied):
    (copied / "bottom").rename(copied / "elsewhere")
    with pytest.raises(InputError, match="config.yaml: data.run: expected the run whose codes .* found no stage 1 in"):
        script(sample, "--run", copied / "top", "--n", 1)
    moved = top(copied, "top", f"data.run={copied}/elsewhere", "evaluate.unconditional=null")
    call(evaluate, *moved)
    figures = json.loads((copied / "top" / "metrics.json").read_text())
    assert figures["frame_nats"]["unconditional"] is None
    call(train_stage1, *moved)
    script(sample, "--run", copied / "top", "--n", 1)


def test_a_published_run_brings_its_parent_along(copied):
    with pytest.raises(InputError, match="--run: expected a run on the codes of a published run, found one on"):
        script(publish, "--run", copied / "top", "--out", copied / "half")
    assert not (copied / "half").exists()
    (copied / "bottom").rename(copied / "whole")
    script(publish, "--run", copied / "whole", "--out", copied / "bottom")
    shutil.rmtree(copied / "top")
    call(extract_codes, *BOTTOM, *STEPS, f"runs_dir={copied}")
    call(train_stage1, *top(copied))
    script(publish, "--run", copied / "top", "--out", copied / "half")
    shutil.rmtree(copied / "top")
    (copied / "half").rename(copied / "top")
    call(extract_codes, *top(copied))
    call(train_stage2, *top(copied))
    script(publish, "--run", copied / "top", "--out", copied / "published")
    shutil.rmtree(copied / "bottom")
    script(sample, "--run", copied / "published", "--n", 2)
    assert len(list((copied / "published" / "samples").glob("0*.png"))) == 2
    assert str(copied) not in (copied / "published" / "stage1" / "config.yaml").read_text()
    card = (copied / "published" / "README.md").read_text()
    assert str(copied) not in card and "in `parent/`" in card and "3 codebooks" in card


def test_codes_that_are_no_pictures_or_of_a_decoder_that_is_told_labels_are_refused(copied, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(run_codes, "load_stage1", lambda *run: replace(load_stage1(*run), condition_on=("place",)))
        with pytest.raises(InputError, match="^data.run: expected a run whose decoder is not .* found .*place"):
            RunCodes(str(copied / "bottom"))
    own = stage1_hash(load_stage1(Run(copied / "bottom"), CPU))
    write_codes(copied / "bottom" / "codes", Room(**ROOM), lambda batch: {"codes": batch.x[:, 0, 0, :4].long()},
                num_codes=256, num_codebooks=1, stage1_hash=own, overwrite=True)
    with pytest.raises(InputError, match=r"^data.run: expected codes of images, found .* on a grid \(4,\)"):
        RunCodes(str(copied / "bottom"))


def test_a_probe_reads_what_codes_say_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 8, (600, 3), generator=generator)
    noise = torch.randint(0, 2, (600,), generator=generator)
    said = Target("said", codes[:400, 1] % 4, codes[400:, 1] % 4, 4)
    unsaid = Target("unsaid", noise[:400], noise[400:], 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code_probe, "STEPS", 200)
        known = code_classifiers(codes[:400], codes[400:], 8, [said, unsaid], CPU)
    assert known["said"]["accuracy"] == known["said"]["normalised"] == 1 and known["said"]["guess"] < 0.5
    # of 200 coins half are right, give or take 3.5 %: 20 % off is beyond 5 standard deviations
    assert abs(known["unsaid"]["accuracy"] - 0.5) < 0.2


def test_cells_are_quartiles_of_each_place_and_headings_octants():
    diagonal = torch.arange(64, dtype=torch.float64)[:, None].expand(-1, 2)
    train = torch.cat([diagonal, 1000 + diagonal])
    places = torch.arange(2).repeat_interleave(64)
    other = torch.tensor([[0.0, 63.0], [1063.0, 1000.0]]).double()
    cells, held_out = position_cells([train, other], [places, torch.tensor([0, 1])], 2)
    assert torch.equal(cells.unique(), torch.tensor([0, 5, 10, 15, 16, 21, 26, 31]))
    assert (torch.bincount(cells)[[0, 5, 10, 15]] == 16).all()
    assert held_out.tolist() == [4 * 3, 16 + 3]
    poses = torch.zeros(6, 3)
    poses[:, 2] = torch.tensor([0.0, 22.4, 22.6, 180.0, 337.6, -22.6])
    assert octants(poses).tolist() == [0, 0, 1, 4, 0, 7]


def test_targets_of_frames(chain):
    found = {target.name: target for target in targets(RunCodes(str(chain / "bottom")), "validation")}
    assert found.keys() == {"position", "heading"}
    assert len(found["heading"].train) == 7 * 12 and len(found["heading"].held_out) == 12


def test_the_explorer_shows_it(chain):
    """Its codes, those that are changed, samples while they are drawn, and scores, all down to pixels."""
    run, session = load(chain / "top", "cpu"), {}
    pages = {name: page for name, page in all_pages().items() if page.why_not(run) is None}
    assert {"codes", "samples", "scores", "runs"} <= pages.keys() and "voices" not in pages

    def call(page, name, **values):
        found = pages[page].calls[name](Context(run, chain, None, session, {}), Arguments(values, {}.__getitem__))
        return json.loads(json.dumps(list(found) if isinstance(found, Iterator) else found, allow_nan=False))

    assert call("codes", "about")
    assert call("codes", "sample", seed=0)["made"]
    code = call("codes", "click", position=0, book=2)["code"]
    call("codes", "replace", position=0, book=2, code=(code + 1) % run.num_codes)
    assert call("codes", "click", position=0, book=2)["code"] == (code + 1) % run.num_codes
    assert call("samples", "draw", n=2, seed=1)[-1]
