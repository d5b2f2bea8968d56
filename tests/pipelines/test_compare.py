"""A comparison end to end at tiny size: its table, its images, and that it resumes where it stopped."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image

from pipelines.evaluation.comparison import COLUMNS, make_systems, panel, read_set, row
from pipelines.files.errors import InputError
from pipelines.files.places import config_names, configs

ONLY = ["--only", "VAE", "VQ-VAE"]
TINY = [
    "data=digits", "autoencoder.encoder.hidden=16", "autoencoder.encoder.outer_hidden=16",
    "autoencoder.encoder.residual_hidden=8", "autoencoder.encoder.num_downsamplings=1", "prior.channels=8",
    "prior.num_layers=2", "evaluate.bound_samples=3", "evaluate.copies=4", "evaluate.quality=0",
    "evaluate.classifier=false",
    *(f"{stage}.{setting}" for stage in ("stage1", "stage2") for setting in
      ("steps=20", "batch_size=16", "validate_every=10", "checkpoint_every=10", "log_every=5")),
]


@pytest.fixture(scope="module")
def compared(tmp_path_factory, command):
    """The folder of a comparison of two systems, and what was printed."""
    out = tmp_path_factory.mktemp("compared")
    return out, command("compare", "mnist", *ONLY, *TINY, "--out", str(out)).stdout


def systems_of(out):
    return make_systems(read_set("mnist"), TINY, ["VAE", "VQ-VAE"], out)


def times(out):
    """When each file below the runs was changed."""
    return {path: path.stat().st_mtime_ns for path in out.glob("*/**/*") if path.is_file()}


def test_the_table_has_a_row_for_each_system(compared):
    out, printed = compared
    vae, vq, webp = json.loads((out / "table.json").read_text())
    assert [own["system"] for own in (vae, vq, webp)] == ["VAE", "VQ-VAE", "lossless WebP"]
    for own in (vae, vq):
        rate = own["latent_bits"] / 64
        assert own["bound"] == pytest.approx(own["distortion"] + rate, abs=1e-4)
        assert own["updates"] == 20 and own["decoder_evaluations"] == 320 and 0 < own["seconds_per_step"] < 10
        assert 0 < own["nmse"] < 10 and own["mean_norm"] > 0 and own["published"] is None
    assert vq["latent_bits"] == 144 and vq["num_codes"] == 512, "4x4 codes of 9 bits"
    assert vq["bound_prior"] == pytest.approx(vq["distortion"] + vq["latent_bits_prior"] / 64, abs=1e-4)
    assert vae["samples"] == 3 and vae["multi_sample_error"] > 0 and vae["elbo"] > vae["multi_sample"]
    assert [vae[key] for key in ("bound_prior", "latent_bits_prior", "perplexity", "used", "num_codes")] == [None] * 5
    assert [vq[key] for key in ("elbo", "multi_sample", "multi_sample_error", "samples")] == [None] * 4
    assert {key for key in COLUMNS if webp[key] is not None} == {"bound"}

    lines = (out / "table.md").read_text().splitlines()
    assert lines[0] == "mnist: digits, validation split" and "\n".join(lines) in printed
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert all(len(own) == len(cells[0]) for own in cells) and len(cells) == 5
    assert "published" not in cells[0], "nothing to say there"
    assert cells[2][0] == "VAE" and cells[2][cells[0].index("perplexity")] == ""
    assert cells[3][cells[0].index("decoder evaluations")] == "320"


def test_the_picture_has_a_row_for_each_system(compared):
    out, _ = compared
    with Image.open(out / "reconstructions.png") as picture:
        size, gap = 56, 4  # 8 pixels seven times as large fill 600 pixels with 12 of them
        assert picture.height == 3 * (size + gap) + gap and picture.width > 12 * (size + gap) + gap


def test_the_same_is_written_as_a_page(compared):
    out, printed = compared
    text = (out / "report.html").read_text()
    assert printed.splitlines()[-1] == str(out / "report.html") and text.count("data:image/png") == 1
    for own in json.loads((out / "table.json").read_text()):
        assert f"<td>{own['system']}</td>" in text and f'data-key="{own["bound"]}"' in text


@pytest.mark.slow  # three comparisons more
def test_what_was_done_is_not_done_again(compared, command):
    out, printed = compared
    before = times(out)
    again = command("compare", "mnist", *ONLY, *TINY, "--out", str(out))
    assert times(out) == before and "stage 1 is trained" not in again.stdout
    assert again.stdout.splitlines()[-8:] == printed.splitlines()[-8:]

    (out / "vae" / "compared.yaml").unlink()  # as if killed before the last measurement
    command("compare", "mnist", "--only", "VAE", *TINY, "--out", str(out))
    changed = {path.relative_to(out) for path, when in times(out).items() if before[path] != when}
    assert Path("vae/metrics.json") in changed
    assert not [path for path in changed if path.suffix in (".jsonl", ".safetensors", ".pt") or path.name == "latest"]


def test_another_training_does_not_go_into_the_same_folder(compared, command):
    out, _ = compared
    before = times(out)
    refused = command("compare", "mnist", *ONLY, *TINY, "stage1.lr=0.5", "--out", str(out), check=False)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "train.lr: expected 0.001 as in this run so far, found 0.5" in refused.stderr
    assert "error: VAE: expected train_stage1 to succeed, found exit status 2" in refused.stderr
    assert times(out) == before


def test_a_signal_stops_the_training_too(tmp_path, command):
    """It comes with the first checkpoint; the system in training saves its step, and no process is left behind."""
    stopped = command("compare", "mnist", "--only", "AE", *TINY, "stage1.steps=1000000", "--out", str(tmp_path),
                      check=False, child_signal_at="os.rename latest 1 SIGTERM parent")
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr[-2000:]
    step = int(stopped.stderr.split("stopped at step ")[1].split(",")[0])
    assert (tmp_path / "ae" / "stage1" / "checkpoints" / "latest").read_text().strip() == f"step-{step:07d}"


@pytest.mark.parametrize("arguments, words", [
    (["nonsuch"], "set: expected one of beta, capacity, cifar10"),
    (["mnist", "--only", "GAN"], "--only: expected one of AE; VAE; VQ-VAE; VIMCO, 10 samples; VIMCO, second order; "
                                 "dVAE; FSQ, found 'GAN'"),
    (["mnist", "stage1.stepz=1"], "AE: stage1.stepz: expected stage1.steps, found a key"),
    (["mnist", "VQ-VAE"], "VQ-VAE: expected KEY=VALUE, or --only before"),
    (["mnist", "data=nonsuch"], "AE: data: expected one of audio_folder, cifar10"),
])
def test_what_cannot_be_compared_is_one_line(arguments, words, tmp_path, command):
    refused = command("compare", *arguments, "--out", str(tmp_path / "out"), check=False)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and words in refused.stderr
    assert not (tmp_path / "out").exists()


def test_systems_on_different_data_are_refused(tmp_path):
    axes = {"system": {"a": ["experiment=mnist_ae"], "b": ["experiment=digits"]}}
    with pytest.raises(InputError, match="b: expected the data of a, found others"):
        make_systems({"axes": axes, "overrides": []}, [], [], tmp_path)


LARGE = {"quantisers"}  # 33 systems: composing takes 0.2 s each


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE))
                                  for name in config_names("compare")])
def test_every_set_composes_and_says_its_command(name, tmp_path):
    text = (configs() / "compare" / f"{name}.yaml").read_text()
    assert f"SET={name}" in text or f"STUDY={name}" in text
    spec = yaml.safe_load(text)
    assert spec.keys() == read_set("mnist").keys()
    systems = make_systems(spec, [], [], tmp_path)
    assert len({system.run.root for system in systems}) == len(systems) > 1
    assert all(system.config["run"] == system.run.root.name for system in systems), "no name is read as a number"
    assert len({json.dumps(system.config | {"run": ""}) for system in systems}) == len(systems)
    assert spec["published"].keys() <= {system.name for system in systems}
    for axes in spec["plot"]:
        assert axes.keys() == {"x", "y"}
        assert axes["x"] == "step" or axes["y"] in COLUMNS and axes["x"] in (*spec["axes"], *COLUMNS)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_systems_of_a_set_have_the_same_budget(name, tmp_path):
    def evaluations(config):
        return (config["stage1"]["steps"] * config["stage1"]["batch_size"]
                * config["autoencoder"]["bottleneck"].get("num_samples", 1))

    assert len({evaluations(system.config) for system in make_systems(read_set(name), [], [], tmp_path)}) == 1


def test_panels_of_a_plot(compared):
    systems = systems_of(compared[0])
    rows = [row(system, None) for system in systems]
    assert panel(systems, rows, x="system", y="bound") == (
        "system", "bound, bits/dim", {"": [("VAE", rows[0]["bound"]), ("VQ-VAE", rows[1]["bound"])]})
    _, label, lines = panel(systems, rows, x="step", y="z_e norm")
    assert label == "z_e norm" and list(lines) == ["VAE", "VQ-VAE"]
    assert [step for step, _ in lines["VQ-VAE"]] == [5, 10, 15, 20] and all(norm > 0 for _, norm in lines["VQ-VAE"])
    assert panel(systems, rows, x="bound", y="nmse") == (
        "bound, bits/dim", "NMSE", {own["system"]: [(own["bound"], own["nmse"])] for own in rows})
    for system in systems:
        system.choices["seed"] = 1
    assert row(replace(systems[1], name="VQ-VAE, seed 1"), None)["system"] == "VQ-VAE, seed 1"
    assert list(panel(systems, rows, x="system", y="nmse")[2]) == ["seed 1"]
