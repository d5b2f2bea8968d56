"""A user's own images through every command: not square, of more than 8 bits, and a folder that changes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import evaluate, extract_codes, load, reconstruct, sample, train_stage1, train_stage2
from pipelines.data.codes import CodeData
from pipelines.files.errors import InputError
from pipelines.runs.config import composed, read_config

H, W = 8, 16
SMALL = [*(f"autoencoder.encoder.{size}" for size in ("hidden=8", "outer_hidden=8", "residual_hidden=4")),
         "autoencoder.bottleneck.num_codes=16", "autoencoder.bottleneck.dim=4", "prior.channels=8",
         "prior.num_layers=2", "prior.head_channels=8", "evaluate.samples=4", "evaluate.classifier=false",
         "evaluate.copies=4",
         *(f"{stage}.{setting}" for stage in ("stage1", "stage2")
           for setting in ("steps=2", "batch_size=4", "validate_every=2", "log_every=2", "device=cpu"))]


def call(script, *overrides: str) -> None:
    """A Hydra program's main, in this process."""
    script.main.__wrapped__(composed(list(overrides)))


def flags(module, *words: object) -> None:
    """A script with flags, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["script", *map(str, words)])
        module.main(module.parse_arguments())


def write_images(root: Path, count: int = 12) -> Path:
    """Greyscale PNGs with 12-bit values in 16 bits, in two class folders."""
    draws = np.random.default_rng(0)
    for number in range(count):
        folder = root / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        values = draws.integers(0, 4096, (H, W)).astype(np.uint16)
        values[0, 0] = 4095
        Image.fromarray(values).save(folder / f"{number:02d}.png")
    return root


def settings(folder: Path, *overrides: str) -> list[str]:
    return ["experiment=imagenet128", *SMALL, f"runs_dir={folder}", "run=wide", f"data.root={folder / 'images'}",
            f"data.cache={folder / 'cache'}", f"data.size=[{H},{W}]", "data.channels=1", "data.range=auto",
            "data.workers=1", "data.flip=true", "data.validation_fraction=0.25", *overrides]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with images and a run on them, both stages. Never changed by a test: copy it where you must."""
    folder = tmp_path_factory.mktemp("made")
    write_images(folder / "images")
    for verb in (train_stage1, extract_codes, train_stage2):
        call(verb, *settings(folder))
    return folder


@pytest.fixture
def copied(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "copied")


def test_stage_2_says_what_codes_were_loaded(copied, capsys):
    call(train_stage2, *settings(copied))
    assert capsys.readouterr().out.startswith(
        "data: images: train 27, validation 3 items of 2x4; 2 classes: a, b; K = 16, 32 bits per item; 3 views of each "
        "training item\n")


def test_images_that_are_not_square_pass_through_every_command(made, copied, capsys):
    call(evaluate, *settings(copied))
    figures = json.loads((copied / "wide" / "metrics.json").read_text())
    assert figures["items"] == 3 and figures["bits_per_dim"]["total_prior"] > 0 and figures["quality"] is None
    assert CodeData(made / "wide" / "codes").grid == (H // 4, W // 4)
    flags(sample, "--run", copied / "wide", "--n", "3", "--device", "cpu")
    flags(reconstruct, "--run", copied / "wide", "--input", copied / "images" / "a", "--device", "cpu")
    for folder, count in (("samples", 3), ("reconstructions", 6)):
        found = sorted((copied / "wide" / folder).glob("0*.png"))
        assert len(found) == count and all(Image.open(path).size == (W, H) for path in found)
    said = capsys.readouterr()
    assert "data: images: train 9, validation 3 images of 1x8x16; 2 classes: a, b; 12 with more than 8 bits, values " \
           in said.out
    assert "note: quality: not measured: expected 256 items of each set" in said.err


@pytest.mark.parametrize(("network", "overrides"), [
    ("dense", [f"autoencoder.encoder.encoder.{size}=8" for size in ("hidden", "outer_hidden", "residual_hidden")]),
    ("pixelcnn_decoder", ["autoencoder.encoder.hidden=8", "autoencoder.encoder.outer_hidden=8",
                          "autoencoder.decoder.network.channels=4", "autoencoder.decoder.network.num_layers=1"]),
])
def test_other_networks_take_images_that_are_not_square(network, overrides, copied):
    """The paper's network is `compact` with other widths."""
    chosen = [each for each in settings(copied) if not each.startswith("autoencoder")]
    call(train_stage1, *chosen, f"autoencoder={network}", "run=other", *overrides)
    assert load(copied / "other", "cpu").reconstruct(copied / "images" / "a" / "00.png").shape == (1, H, W)


def test_new_files_are_read_by_the_range_of_training(made):
    path = made / "images" / "a" / "00.png"
    assert read_config(made / "wide" / "stage1" / "config.yaml")["example"]["facts"]["range"] == [0, 4095]
    run = load(made / "wide", "cpu")
    expected = np.rint(np.asarray(Image.open(path)) * (255 / 4095)).astype(np.uint8)
    assert torch.equal(run.encode(path), run.encode(torch.from_numpy(expected)[None]))
    assert torch.equal(run.encode(Image.open(path)), run.encode(path))


@pytest.mark.parametrize("change", [
    lambda root: (root / "a" / "00.png").unlink(),
    lambda root: shutil.copyfile(root / "b" / "01.png", root / "b" / "13.png"),
    lambda root: shutil.copyfile(root / "b" / "01.png", root / "a" / "00.png"),
    lambda root: (root / "a" / "00.png").rename(root / "b" / "00.png"),
], ids=["one less", "one more", "another content", "another class"])
def test_a_folder_that_changed_is_refused_in_words(change, copied, capsys):
    change(copied / "images")
    with pytest.raises(InputError, match=r"config\.yaml: the images changed: expected those of training \([0-9a-f]{12}"
                                         r"\), found others \([0-9a-f]{12}\); give the run another name"):
        call(train_stage1, *settings(copied, "stage1.steps=4"))
    for verb in (extract_codes, evaluate):
        with pytest.raises(InputError, match="the images changed: .* to use these, extract.other_data=true"):
            call(verb, *settings(copied))
    with pytest.raises(InputError, match=r"expected codes of this stage 1 .* found another extraction's"):
        call(extract_codes, *settings(copied, "extract.other_data=true"))
    call(extract_codes, *settings(copied, "extract.other_data=true", "extract.overwrite=true"))
    assert "note: " in capsys.readouterr().err


def test_the_same_images_elsewhere_are_the_same(copied):
    (copied / "images").rename(copied / "moved")
    call(evaluate, *settings(copied, f"data.root={copied / 'moved'}"))


def test_runs_that_know_no_digest_go_on_as_before(copied):
    path = copied / "wide" / "stage1" / "config.yaml"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.strip().startswith("digest:")))
    assert "digest" not in read_config(path)["example"]["facts"]
    call(extract_codes, *settings(copied))
    call(train_stage1, *settings(copied, "stage1.steps=3"))
    assert "digest" in read_config(path)["example"]["facts"]
    path.write_text("".join(line for line in lines if not line.strip().startswith("digest:")))
    shutil.copyfile(copied / "images" / "b" / "01.png", copied / "images" / "b" / "13.png")
    with pytest.raises(InputError, match=r"the data changed\? autoencoder\.likelihood\.variance: expected"):
        call(train_stage1, *settings(copied, "stage1.steps=4"))


@pytest.mark.parametrize("network", ["compact", "paper", "dense"])
@pytest.mark.parametrize("size", [[8, 14], [6, 16]])
def test_a_size_that_the_network_does_not_divide_is_refused_before_anything_is_read(network, size, tmp_path):
    overrides = [each for each in settings(tmp_path, f"autoencoder={network}") if not (
        network == "dense" and each.startswith("autoencoder"))]
    with pytest.raises(InputError, match=rf"autoencoder: expected height and width divisible by 4, found "
                                         rf"{size[0]}x{size[1]}, for data of shape \(1, {size[0]}, {size[1]}\)"):
        call(train_stage1, *overrides, f"autoencoder={network}", f"data.size=[{size[0]},{size[1]}]",
             f"data.root={tmp_path / 'nowhere'}")
