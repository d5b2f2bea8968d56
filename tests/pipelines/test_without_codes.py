"""Runs whose bottleneck has no codes: a VAE is sampled without a prior, an AE not at all; both say so in one line."""

import numpy as np
import pytest
from PIL import Image

TINY = [
    "~experiment", "data=digits", "autoencoder=dense", "autoencoder.bottleneck.dim=2",
    "autoencoder.encoder.encoder.hidden=8", "autoencoder.encoder.encoder.num_downsamplings=1",
    *(f"stage1.{setting}" for setting in ("steps=5", "batch_size=16", "validate_every=5", "log_every=5")),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, command):
    """Two runs: vae and ae."""
    folder = tmp_path_factory.mktemp("runs")
    for name, bottleneck in (("vae", "gaussian"), ("ae", "identity")):
        trained = command("train_stage1", *TINY, f"autoencoder/bottleneck={bottleneck}", f"runs_dir={folder}",
                          f"run={name}")
        assert f"best validation {'bound' if name == 'vae' else 'objective'}" in trained.stdout
    return folder


def refused(result) -> str:
    """The one line of a refusal."""
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr[-2000:]
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("name, kind", [("vae", "Gaussian"), ("ae", "Identity")])
def test_there_is_nothing_to_extract(name, kind, runs, command):
    result = command("extract_codes", *TINY, f"runs_dir={runs}", f"run={name}", check=False)
    assert f"expected a bottleneck with codes, found {kind}: there is nothing to extract" in refused(result)
    assert not (runs / name / "codes").exists()


def test_a_vae_is_sampled_without_a_prior(runs, tmp_path, command):
    def sampled(name: str, *flags: str) -> list[np.ndarray]:
        result = command("sample", "--run", str(runs / "vae"), "--out", str(tmp_path / name), *flags)
        assert "grid.png" in result.stdout
        return [np.asarray(Image.open(path)) for path in sorted((tmp_path / name).glob("0*.png"))]

    many, few = sampled("many", "--n", "7", "--batch-size", "3"), sampled("few", "--n", "2")
    assert len(many) == 7 and len(few) == 2 and many[0].shape == (8, 8)
    assert all((a == b).all() for a, b in zip(many, few))
    assert any((a != many[0]).any() for a in many)
    assert any((a != b).any() for a, b in zip(many, sampled("seed", "--n", "7", "--seed", "1")))
    cold = sampled("cold", "--n", "3", "--temperature", "0")
    assert all((image == cold[0]).all() for image in cold)


@pytest.mark.parametrize("name, flags, words", [
    ("ae", (), "expected codes or latents with a prior, found Identity"),
    ("vae", ("--top-k", "3"), "--top-k: expected a run with codes"),
    ("vae", ("--actions", "left"), "--actions: expected a run on video"),
    ("vae", ("--label", "digit=3"), "--label: expected a run with codes"),
])
def test_what_cannot_be_sampled(name, flags, words, runs, command):
    assert words in refused(command("sample", "--run", str(runs / name), "--n", "2", *flags, check=False))


def test_reconstruction_needs_no_codes(runs, tmp_path, command):
    Image.effect_noise((40, 30), 60).save(tmp_path / "noise.png")
    result = command("reconstruct", "--run", str(runs / "ae"), "--input", str(tmp_path), "--out", str(tmp_path / "out"))
    assert "1 reconstructions" in result.stdout
    assert Image.open(tmp_path / "out" / "00000-noise.png").size == (8, 8)
