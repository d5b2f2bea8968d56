"""Every bottleneck, trained for a few steps on the embedded digits: what is measured, drawn and sampled of it."""

import json
import math
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipelines import evaluate, extract_codes, plot_latents, reconstruct, sample, train_stage1, train_stage2
from pipelines.data.digits import Digits
from pipelines.evaluation import bounds as bounds_evaluation
from pipelines.evaluation import latents as latents_room
from pipelines.evaluation import local_features
from pipelines.evaluation.comparison import System, draw_reconstructions
from pipelines.evaluation.measured import measure
from pipelines.files.errors import InputError
from pipelines.generation.decoding import pixel_uniforms
from pipelines.media import images as media
from pipelines.runs.config import composed, read_config
from pipelines.runs.data import load_data
from pipelines.runs.store import Run, load_stage1
from pipelines.splits.noise import generator

CPU = torch.device("cpu")
NETWORK = [f"autoencoder.encoder.{setting}" for setting in ("hidden=8", "outer_hidden=4", "residual_hidden=4")]
DENSE = ["autoencoder=dense", "autoencoder.bottleneck.dim=2", "autoencoder.encoder.encoder.num_downsamplings=1",
         "autoencoder.encoder.encoder.hidden=8"]
PIXELS = ["autoencoder=pixelcnn_decoder", *NETWORK, "autoencoder.bottleneck.dim=4",
          "autoencoder.decoder.upsampler.out_channels=4", "autoencoder.decoder.network.channels=4",
          "autoencoder.decoder.network.num_layers=2", "autoencoder.decoder.network.head_channels=8"]
CODES = ["autoencoder=compact", *NETWORK, "autoencoder/likelihood=logistic", "autoencoder.bottleneck.dim=4"]
SMALL = [*CODES, "autoencoder.bottleneck.num_codes=8"]
RUNS = {
    "ae": [*DENSE, "autoencoder/bottleneck=identity"],
    "vae": [*DENSE, "autoencoder/bottleneck=gaussian", "autoencoder/likelihood=logistic"],
    "ema": SMALL,
    "residual": [*SMALL, "autoencoder/bottleneck=residual", "autoencoder.bottleneck.num_codebooks=2"],
    "gumbel": [*SMALL, "autoencoder/bottleneck=gumbel"],
    "vimco": [*SMALL, "autoencoder/bottleneck=vimco", "autoencoder.bottleneck.num_samples=2",
              "autoencoder.bottleneck.estimator=first_order"],
    "fsq": [*CODES, "autoencoder/bottleneck=fsq", "autoencoder.bottleneck.levels=[3,3]"],
    "pixel_vae": [*PIXELS, "autoencoder/bottleneck=gaussian"],
    "pixel_ema": [*PIXELS, "autoencoder.bottleneck.num_codes=8"],
}
STEPS = [f"{stage}.{setting}" for stage in ("stage1", "stage2")
         for setting in ("steps=3", "batch_size=16", "validate_every=3", "log_every=3")]
SAMPLES = 4


def call(script, *overrides: str) -> None:
    """A Hydra program's main, in this process."""
    script.main.__wrapped__(composed(["~experiment", *overrides]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("family")


@pytest.fixture(scope="module")
def trained(folder):
    """trained("vae") -> the arguments of that run, whose stage 1 is trained at the first call; never changed by a test
    but for what stands beside stage 1."""
    done = {}

    def train(name: str) -> list[str]:
        if name not in done:
            done[name] = [*RUNS[name], *STEPS, f"runs_dir={folder}", f"run={name}", "evaluate.classifier=false",
                          f"evaluate.bound_samples={SAMPLES}", "evaluate.batch_size=100", "evaluate.copies=8",
                          "evaluate.quality=0"]
            call(train_stage1, *done[name])
        return done[name]

    return train


@pytest.fixture(scope="module")
def measured(folder, trained):
    """measured("vae") -> its metrics.json."""

    def figures(name: str, *overrides: str) -> dict:
        call(evaluate, *trained(name), *overrides)
        return json.loads((folder / name / "metrics.json").read_text())

    return figures


def flags(parse, *words: str) -> Namespace:
    """What a script makes of its command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["script", *words])
        return parse()


@pytest.mark.parametrize("name", ["ema", "residual", "fsq", "vimco", "gumbel", "pixel_ema"])
def test_what_is_measured_of_codes(name, measured, capsys):
    figures = measured(name)
    bits, codes, latents = figures["bits_per_dim"], figures["codes"], figures["latents"]
    levels, books = codes["num_codes"], 2 if name == "residual" else 1
    count = 2 * 2 * books
    assert latents["dims"] == codes["codes_per_example"] == count
    assert latents["bits"] == pytest.approx(count * math.log2(levels), rel=1e-5)
    assert bits["rate_uniform"] == pytest.approx(latents["bits"] / 64, rel=1e-5)
    assert bits["total_uniform"] == pytest.approx(bits["distortion"] + bits["rate_uniform"], rel=1e-5)
    assert bits["rate_prior"] is bits["total_prior"] is bits["rate_normal"] is bits["total_normal"] is None
    effective = codes["perplexity"]["each"] if books > 1 else [codes["perplexity"]]
    assert latents["bits_unigram"] == pytest.approx(count / books * sum(map(math.log2, effective)), rel=1e-4, abs=1e-4)
    assert latents["bits_prior"] is None and latents["mean_norm"] > 0
    assert (figures["bounds"] is not None) == (name in ("vimco", "gumbel"))
    assert (latents["shuffled"] is not None) == ("pixel" in name)
    assert 0 < figures["nmse"] < 10 and figures["psnr_db"] > 0
    table = capsys.readouterr().out
    assert f"codes used, of {levels}" in table and "N(0, I)" not in table


@pytest.mark.parametrize("name", ["vimco", "gumbel", "vae", "pixel_vae"])
def test_the_bounds_of_a_spread_posterior(name, measured, folder, capsys):
    figures = measured(name)
    bounds = figures["bounds"]
    assert bounds["samples"] == SAMPLES
    assert 0 < bounds["multi_sample"]["bits_per_dim"] < bounds["elbo"]["bits_per_dim"]  # of the same samples: always
    assert all(0 < bounds[key]["standard_error"] < 1 for key in ("elbo", "multi_sample"))
    assert bounds["kl_bits"] / 64 < bounds["elbo"]["bits_per_dim"] and (bounds["kl_bits"] > 0 or "vae" in name)
    table = capsys.readouterr().out
    assert f"bound of {SAMPLES} samples" in table and "KL to the prior" in table
    if "pixel" in name:  # such a decoder's reconstructions are drawn anyway
        assert bounds["nmse_drawn"] is None
    else:
        assert 0 < bounds["nmse_drawn"] < 10 and bounds["nmse_drawn"] != figures["nmse"]
        assert "NMSE of drawn latents" in table
    assert (folder / name / "figures" / "reconstructions_drawn.png").exists() == ("pixel" not in name)
    none = measured(name, "evaluate.bound_samples=0")
    assert none["bounds"] is None and none["bits_per_dim"]["distortion"] > 0


@pytest.mark.parametrize("name", ["vae", "ae"])
def test_evaluation_compares_sets_of_whatever_can_be_sampled(name, measured, capsys, monkeypatch):
    monkeypatch.setattr(local_features, "STEPS", 10)
    quality = measured(name, "evaluate.quality=256")["quality"]
    assert quality["num_items"] == 256
    network = quality["networks"]["digit"]
    assert network["real"]["coverage"] > 0.8 and (network["samples"] is None) == (name == "ae")
    rows = [row for row in capsys.readouterr().out.splitlines() if "local features" in row]
    assert [len(row) for row in rows] == [58] * 2, "names and figures in their columns"
    assert measured(name)["quality"] is None


@pytest.mark.parametrize("name", ["vae", "pixel_vae"])
def test_what_is_measured_of_a_vae(name, measured, capsys):
    figures = measured(name)
    bits, latents, bounds = figures["bits_per_dim"], figures["latents"], figures["bounds"]
    assert figures["codes"] is None and latents["bits_unigram"] is latents["bits_prior"] is None
    assert latents["dims"] == (2 if name == "vae" else 4 * 2 * 2)
    assert bits["rate_uniform"] is bits["total_uniform"] is bits["rate_prior"] is bits["total_prior"] is None
    assert bits["total_normal"] == pytest.approx(bits["distortion"] + bits["rate_normal"], rel=1e-5)
    assert bits["rate_normal"] == pytest.approx(latents["bits"] / 64, rel=1e-5)
    # the same samples, the KL in closed form here and sampled there: 16 dimensions at most, each
    # off by about 1 nat in a sample: 4 sqrt(16 / (359 items * 4 samples)) / (64 log 2) = 0.01
    assert bits["total_normal"] == pytest.approx(bounds["elbo"]["bits_per_dim"], abs=0.01)
    assert latents["bits"] == pytest.approx(bounds["kl_bits"], abs=0.01 * 64)
    table = capsys.readouterr().out
    assert "bound, N(0, I)" in table and "perplexity" not in table


def test_an_autoencoder_has_a_distortion_and_no_bound(measured, capsys):
    figures = measured("ae")
    bits, latents = figures["bits_per_dim"], figures["latents"]
    assert bits["distortion"] > 0 and all(value is None for key, value in bits.items() if key != "distortion")
    assert figures["codes"] is figures["bounds"] is latents["bits"] is None and latents["dims"] == 2
    assert "bound" not in capsys.readouterr().out


def test_a_comparison_shows_drawn_codes_too(folder, trained, tmp_path):
    systems = []
    for name in ("gumbel", "ema"):
        trained(name)
        systems.append(System(name, {}, Run(folder / name), [], {}))
    draw_reconstructions(tmp_path / "rows.png", systems, Digits(), "validation")
    with Image.open(tmp_path / "rows.png") as picture:
        size, gap = 56, 4  # 8 pixels seven times as large fill 600 pixels with 12 of them
        assert picture.height == 4 * (size + gap) + gap, "originals, two rows of the one, one of the other"


def test_samples_of_the_posterior_depend_on_seed_and_item_alone(folder, trained):
    trained("gumbel")
    stage1, split = load_stage1(Run(folder / "gumbel"), CPU), Digits().split("validation")
    one, other, seed = (bounds_evaluation.sample_posterior(stage1, split, 2, batch_size, seed)
                        for batch_size, seed in ((360, 0), (50, 0), (360, 1)))
    torch.testing.assert_close(one.elbo, other.elbo, rtol=1e-4, atol=0)
    assert (one.elbo != seed.elbo).any()
    fewer = bounds_evaluation.sample_posterior(stage1, split, 1, 360, 0)
    torch.testing.assert_close(fewer.elbo, fewer.multi_sample)
    second = 2 * one.elbo - fewer.elbo  # of two samples the first is the same
    torch.testing.assert_close(torch.logaddexp(fewer.elbo, second) - math.log(2), one.multi_sample)


def test_others_latents_cost_what_they_cost(folder, trained):
    """Against a count item by item; and nothing where the decoder does not look at them."""
    trained("pixel_ema")
    stage1, split = load_stage1(Run(folder / "pixel_ema"), CPU), Digits().split("validation")
    found = measure(stage1, split, 100, 0)
    others_of = []
    original = bounds_evaluation.latents_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds_evaluation, "latents_of", lambda model, x, numbers, seed: (
            others_of.append(torch.from_numpy(numbers)), original(model, x, numbers, seed))[1])
        others = bounds_evaluation.others_nats(stage1, split, 100, seed=0)
    figures = bounds_evaluation.shuffled(replace(found, others_nats=others))
    other, own = torch.cat(others_of), torch.arange(len(split))
    assert (other != own).all() and torch.equal(other.sort().values, own)
    x, model = split.batch(own).x, stage1.module
    expected = model.nll_nats(x, model.bottleneck.lookup(model.encode(x[other])))
    assert figures["distortion_shuffled"] == pytest.approx(float(expected.mean()) / 64 / math.log(2), rel=1e-5)
    assert figures["nats_saved"] == pytest.approx(float((expected - found.nll_nats).mean()), abs=1e-3)
    assert abs(figures["nats_saved"]) > 1e-6
    for layer in model.decoder.network.layers:
        layer.local.weight.zero_()
    others = bounds_evaluation.others_nats(stage1, split, 100, seed=0)
    deaf = bounds_evaluation.shuffled(replace(measure(stage1, split, 100, 0), others_nats=others))
    assert deaf["nats_saved"] == 0


def test_pixels_that_are_drawn_are_so_from_the_item_s_own_numbers(folder, trained):
    """Measured, the picture of training, sampled, reconstructed."""
    arguments = trained("pixel_ema")
    events = EventAccumulator(str(folder / "pixel_ema" / "stage1" / "tensorboard")).Reload()
    assert events.Tags()["images"] == ["validation"]
    stage1, split = load_stage1(Run(folder / "pixel_ema"), CPU), Digits().split("validation")
    assert torch.equal(measure(stage1, split, 360, 0).reconstructions, measure(stage1, split, 100, 0).reconstructions)
    call(extract_codes, *arguments)
    call(train_stage2, *arguments, "prior.channels=4", "prior.num_layers=1")

    def sampled(name: str, run: str, *words: str) -> list[np.ndarray]:
        out = folder / "samples" / run / name
        sample.main(flags(sample.parse_arguments, "--run", str(folder / run), "--out", str(out), *words))
        return [np.asarray(Image.open(path)) for path in sorted(out.glob("0*.png"))]

    trained("pixel_vae")
    for run in ("pixel_ema", "pixel_vae"):
        many, few = sampled("many", run, "--n", "5", "--batch-size", "3"), sampled("few", run, "--n", "2")
        assert len(many) == 5 and all((a == b).all() for a, b in zip(many, few))
        assert any((a != b).any() for a, b in zip(many, sampled("seed", run, "--n", "5", "--seed", "1")))
        picture, out = folder / f"{run}.png", folder / f"{run}-made"
        Image.fromarray(split.batch(torch.tensor([1])).x[0, 0].numpy()).save(picture)
        words = "--run", str(folder / run), "--input", str(picture), "--out", str(out), "--seed", "5"
        reconstruct.main(flags(reconstruct.parse_arguments, *words))
        (made,) = sorted(out.glob("0*.png"))
        stage1 = load_stage1(Run(folder / run), CPU)
        uniforms = pixel_uniforms(stage1, [generator(5, 0)])
        expected = stage1.module.evaluate(split.batch(torch.tensor([1])).x, uniforms=uniforms).reconstruction
        assert (np.asarray(Image.open(made)) == expected[0, 0].numpy()).all()


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "logistic"])
def test_a_likelihood_without_logits_is_refused_beside_a_decoder_that_draws(likelihood, folder):
    words = [*RUNS["pixel_ema"], f"autoencoder/likelihood={likelihood}", f"runs_dir={folder}", "run=refused"]
    with pytest.raises(InputError, match="Autoencoder: likelihood: expected one that reads logits of its levels"):
        call(train_stage1, *words)
    assert not (folder / "refused").exists()


def drawn(folder: Path, name: str, capsys, *words: str) -> dict[str, str]:
    """What plot_latents says of a run: title -> path or reason."""
    plot_latents.main(flags(plot_latents.parse_arguments, "--run", str(folder / name), *words))
    lines = capsys.readouterr().out.splitlines()
    return {line[:34].strip(): line[34:] for line in lines}


def size(path: str) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


@pytest.mark.parametrize("name", ["ae", "vae"])
def test_the_plane_of_two_latents(name, folder, trained, capsys):
    trained(name)
    capsys.readouterr()
    made = drawn(folder, name, capsys)
    assert set(made) == {"traversals", "codebook", "plane", "scatter"}
    kind = {"ae": "Identity", "vae": "Gaussian"}[name]
    assert made["codebook"] == f"left out: expected codes, found {kind}"
    factor = math.ceil(media.LEAST_WIDTH / (20 * 8))
    assert size(made["plane"]) == (20 * (8 * factor + 4) + 4,) * 2
    factor = math.ceil(media.LEAST_WIDTH / (11 * 8))
    assert size(made["traversals"]) == (11 * (8 * factor + 4) + 4, 2 * (8 * factor + 4) + 4)
    assert size(made["scatter"])[0] == 840


def test_the_plane_lies_as_the_scatter_does(folder, trained, monkeypatch, tmp_path):
    """Right is more of the first latent, up more of the second; the corners are those of the box."""
    trained("vae")
    painter = latents_room.Painter(load_stage1(Run(folder / "vae"), CPU), 0, 64)
    latents, seen = torch.randn(500, 2, 1, 1), {}
    monkeypatch.setattr(painter, "decode", lambda z: (seen.update(z=z), torch.zeros(len(z), 1, 8, 8).byte())[1])
    monkeypatch.setattr(latents_room, "plot_plane", lambda path, points, box, labels, names: seen.update(box=box))
    latents_room.draw_plane(painter, latents, None, (), tmp_path)
    plane, (low, high) = seen["z"].view(20, 20, 2).double(), seen["box"]
    for corner, expected in ((plane[0, 0], (low[0], high[1])), (plane[0, -1], (high[0], high[1])),
                             (plane[-1, 0], (low[0], low[1])), (plane[-1, -1], (high[0], low[1]))):
        torch.testing.assert_close(corner, torch.stack(expected), rtol=1e-5, atol=1e-6)
    assert ((latents[:, 0, 0, 0] > low[0]) & (latents[:, 0, 0, 0] < high[0])).double().mean() == pytest.approx(0.98)


@pytest.mark.parametrize("name, books", [("ema", 1), ("residual", 2), ("pixel_ema", 1)])
def test_codebooks_on_their_own_and_in_context(name, books, folder, trained, capsys):
    trained(name)
    capsys.readouterr()
    made = drawn(folder, name, capsys, "--example", "3")
    titles = {"codebook"} if books == 1 else {"codebook 1", "codebook 2"}
    assert set(made) == {"traversals", "plane", *titles}
    assert made["plane"] == f"left out: expected latents of two dimensions, found {4 * books} codes"
    for title in titles:
        assert size(made[title])[0] >= 600


def test_a_code_in_context_replaces_the_middle_one(folder, trained, monkeypatch, tmp_path):
    trained("residual")
    painter = latents_room.Painter(load_stage1(Run(folder / "residual"), CPU), 0, 64)
    codes, seen = painter.encode(Digits().split("validation")), []
    decode = painter.decode
    monkeypatch.setattr(painter, "decode", lambda z: (seen.append(z), decode(z))[1])
    latents_room.draw_codebooks(painter, codes, 3, tmp_path)
    context, alone = seen[2:]  # of the second codebook
    changed = (context != codes[3]).any(0).nonzero().tolist()
    assert changed == [[1, 1, 1]] and context.shape == (8, 2, 2, 2) and alone.shape == (8, 1, 1, 2)
    assert sorted(context[:, 1, 1, 1].tolist()) == list(range(8)) and torch.equal(alone[:, 0, 0], context[:, 1, 1])
    used = torch.bincount(codes[..., 1].flatten(), minlength=8)[context[:, 1, 1, 1]]
    assert (used.diff() <= 0).all()


def test_only_this_project_s_data_sets_are_built_for_a_run(folder, trained):
    trained("ae")
    stage1, run = load_stage1(Run(folder / "ae"), CPU), Run(folder / "ae")
    assert load_data(run, stage1, None).name == "digits"
    assert read_config(run.stage1 / "config.yaml")["data"] == stage1.config["data"]
    for target, words in (("os.system", "expected a data set of pipelines.data"),
                          ("pipelines.data.codes.write_codes", "expected a data set, found"), (None, "found None")):
        stage1.config["data"]["_target_"] = target
        with pytest.raises(InputError, match=words):
            load_data(run, stage1, None)


@pytest.mark.parametrize("words, said", [(("--example", "359"), "--example: expected 0 to 358, found 359"),
                                         (("--split", "test"), "split: expected one of train, validation"),
                                         (("--batch-size", "0"), "--batch-size: expected a number >= 1")])
def test_what_cannot_be_drawn(words, said, folder, trained, capsys):
    trained("ae")
    with pytest.raises(InputError, match=said):
        drawn(folder, "ae", capsys, *words)
