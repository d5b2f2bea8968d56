"""The door from Python: `load` and what a run does with arrays, images and files."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from pipelines import load
from pipelines.api import TrainedRun
from pipelines.files.errors import InputError
from pipelines.generation.scores import prior_labels
from pipelines.runs.store import Run


@pytest.fixture(scope="module")
def mnist():
    return load("mnist", "cpu")


@pytest.fixture(scope="module")
def fsdd():
    return load("fsdd", "cpu")


@pytest.fixture(scope="module")
def digits(tiny_run):
    return load(tiny_run, "cpu")


def test_importing_the_package_imports_no_torch():
    code = ("import sys, pipelines; assert not {'torch', 'numpy', 'hydra'} & set(sys.modules); "
            "assert callable(pipelines.load) and 'torch' in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_run_is_found_by_folder_name_or_pretrained_name(tiny_run, monkeypatch, tmp_path, mnist):
    assert load(tiny_run).folder == load(str(tiny_run)).folder == tiny_run
    assert load(tiny_run.name, runs_dir=tiny_run.parent).folder == tiny_run
    assert load(None, runs_dir=tiny_run.parent).folder == tiny_run  # the one whose stage 2 was trained last
    monkeypatch.chdir(tmp_path)
    assert load("mnist").folder == mnist.folder == load().folder
    with pytest.raises(InputError, match="^run: expected the folder of a run .*pretrained: cifar10_compact.*'nowhere'"):
        load("nowhere")


def test_what_a_run_is(mnist, fsdd, digits):
    assert (mnist.kind, mnist.shape, mnist.grid, mnist.num_codes) == ("image", (1, 28, 28), (7, 7), 128)
    assert mnist.classes == {"digit": tuple("0123456789")}
    assert mnist.figures["nmse"] == pytest.approx(0.0424, abs=1e-4)
    assert (fsdd.kind, fsdd.grid, list(fsdd.classes)) == ("audio", (128,), ["digit", "speaker"])
    assert isinstance(digits.stage1, torch.nn.Module) and isinstance(digits.stage2, torch.nn.Module)
    assert re.search(r"image 1x8x8 -> 4x4, K = 32, stage 1 of step 30, prior of step \d+", repr(digits))
    with pytest.raises(InputError, match="metrics.json: expected the figures of a run that was evaluated"):
        _ = digits.figures


def test_images_come_in_as_people_have_them(mnist, tmp_path):
    images = mnist.sample(3, digit="3", seed=1).x
    expected = mnist.encode(images)
    assert expected.shape == (3, 7, 7) and expected.dtype == torch.int64
    path = tmp_path / "three.png"
    Image.fromarray(images[0, 0].numpy()).save(path)
    for one in (images[0], images[0].numpy(), images[0, 0].numpy(), images[0, 0, :, :, None].numpy(), path, str(path),
                Image.open(path)):
        assert torch.equal(mnist.encode(one), expected[0]), type(one)
    for batch in (images.numpy(), images[:, 0].numpy(), images[:, 0, :, :, None].numpy(), list(images),
                  [images[0], images[1, 0].numpy(), images[2]]):
        assert torch.equal(mnist.encode(batch), expected), type(batch)
    assert mnist.encode([path]).shape == (1, 7, 7) and mnist.encode(tmp_path).shape == (1, 7, 7)
    assert mnist.reconstruct(images[0]).shape == (1, 28, 28) and mnist.reconstruct(images).dtype == torch.uint8
    large = Image.fromarray(np.full((60, 90, 3), 200, np.uint8))  # colours, another size
    assert mnist.encode(large).shape == (7, 7)


@pytest.mark.parametrize("x, words", [
    (torch.zeros(1, 28, 28), "images: expected uint8 values from 0 to 255, found torch.float32"),
    (torch.zeros(3, 27, 28, dtype=torch.uint8), r"images: expected shape \(1, h, w\) or \(n, 1, h, w\), found"),
    (np.zeros((28, 28, 3), np.uint8), r"channels last \(..., h, w, 1\), found shape \(28, 28, 3\)"),
    (torch.zeros(0, 1, 28, 28, dtype=torch.uint8), r"found shape \(0, 1, 28, 28\)"),
    ("nowhere.png", "nowhere.png: expected an image"), (None, "found NoneType"),
])
def test_images_that_do_not_fit_are_refused(mnist, x, words):
    with pytest.raises(InputError, match=words):
        mnist.encode(x)


def test_codes_go_back(mnist):
    samples = mnist.sample(4, seed=3)
    images = mnist.decode(samples.codes)
    assert torch.equal(images, samples.x)
    assert torch.equal(mnist.decode(samples.codes[1].numpy()), samples.x[1])
    for codes, words in ((torch.zeros(4, 7), "codes: expected integers of shape"),
                         (torch.full((7, 7), 128), "codes: expected values from 0 to 127, found 128 to 128")):
        with pytest.raises(InputError, match=words):
            mnist.decode(codes)
    with pytest.raises(InputError, match="^label: expected one of the labels .* found 'digit'"):
        mnist.decode(samples.codes, digit="3")  # this decoder is conditioned on no label


def test_codes_come_as_any_integers(mnist, fsdd, tmp_path):
    codes = mnist.sample(2, seed=3).codes
    expected = mnist.decode(codes)
    array = codes.numpy()
    for given in (array.astype(np.uint8), array.astype(">u2"), array.astype(np.uint16), list(codes), codes.tolist(),
                  codes.flip(1).numpy()[:, ::-1], codes.to(torch.int32)):
        assert torch.equal(mnist.decode(given), expected)
    for wrong in (None, "codes", [[1], [2, 3]], codes.bool(), codes + 0j, codes[:, :0], np.array([{}])):
        with pytest.raises(InputError, match="^codes: expected integers of shape"):
            mnist.decode(wrong)
    clip = fsdd.sample(1, digit="7", speaker="theo", seed=0, seconds=0.16)
    short = fsdd.decode(clip.codes[0, :20], speaker="theo")
    assert short.shape == (1, 20 * 64) and short.abs().max() > 0.01
    without_prior = TrainedRun(replace(fsdd._loaded, run=Run(tmp_path)))
    assert torch.equal(without_prior.decode(clip.codes[0, :20], speaker="theo"), short)
    with pytest.raises(InputError, match="or of another grid, found int64"):
        fsdd.decode(clip.codes[0, :0], speaker="theo")


@pytest.mark.parametrize("call, words", [
    (lambda run, x: run.encode(x, batch_size=0), "batch_size: expected a number >= 1, found 0"),
    (lambda run, x: run.reconstruct(x, batch_size=1.5), "batch_size: expected a number >= 1, found 1.5"),
    (lambda run, x: run.sample("3"), "n: expected a number >= 1, found '3'"),
    (lambda run, x: run.sample(2, seed=2**63), "seed: expected an integer from 0 to 9223372036854775807, found"),
    (lambda run, x: run.sample(2, seed=-1), "seed: expected an integer from 0 to"),
    (lambda run, x: run.sample(2, temperature="x"), "temperature: expected a number, found 'x'"),
    (lambda run, x: run.sample(2, top_k=1.5), "top_k: expected a number, found 1.5"),
    (lambda run, x: run.sample(2, labels=7), "labels: expected a dictionary or a list of NAME=CLASS, found 7"),
    (lambda run, x: run.sample(4, complete=[x, x, x]), "complete: expected one item, or one for each of 4 samples"),
    (lambda run, x: run.sample(2, complete=x, keep="0.5"), "keep: expected a fraction between 0 and 1, found '0.5'"),
    (lambda run, x: run.sample(1).save(__file__), "expected a folder, found a file"),
])
def test_values_of_another_type_are_refused(mnist, call, words):
    with pytest.raises(InputError, match=words):
        call(mnist, torch.zeros(1, 28, 28, dtype=torch.uint8))


def test_large_seeds_differ(mnist):
    first, second = (mnist.sample(2, seed=seed).codes for seed in (2**63 - 1, 2**63 - 2))
    assert not torch.equal(first, second)


def test_samples(mnist, tmp_path):
    samples = mnist.sample(5, digit="7", seed=2)
    assert samples.labels == {"digit": ["7"] * 5} and len(samples) == 5
    assert torch.equal(samples.x[:2], mnist.sample(2, seed=2, labels=["digit=7"], batch_size=1).x)
    assert not torch.equal(samples.x, mnist.sample(5, digit="7", seed=3).x)
    picture = samples.save(tmp_path / "new" / "folder")
    assert picture.name == "grid.png" and len(list(picture.parent.glob("0*.png"))) == 5
    completed = mnist.sample(3, complete=samples.x[0], keep=0.5, seed=1)
    assert (completed.codes[:, :4] == samples.codes[0, :4]).all() and len(completed.codes.unique(dim=0)) > 1


@pytest.mark.parametrize("options, words", [
    ({"digit": "12"}, "^label digit: expected one of 0, 1, .*, found '12'$"),
    ({"dgit": "1"}, "^dgit: expected one of digit, complete, mask, .*, keep, found 'dgit'$"),
    ({"seconds": 1.0}, "^seconds: expected a run on audio, found .*mnist on image$"),
    ({"n": 0}, "^n: expected a number >= 1, found 0$"),
    ({"keep": 0.5}, "^keep: expected an image to complete, found none$"),
    ({"temperature": -1.0}, "^temperature: expected a finite number >= 0, found -1.0$"),
])
def test_options_that_do_not_fit_are_refused(mnist, options, words):
    with pytest.raises(InputError, match=words):
        mnist.sample(**{"n": 2} | options)


def test_audio_comes_in_as_people_have_it(fsdd, tmp_path):
    wave = fsdd.sample(1, digit="7", speaker="theo", seed=0)
    length = int(wave.lengths[0])
    clip = wave.x[0, 0, :length]
    codes = fsdd.encode(clip)
    assert codes.shape == fsdd.grid
    for one in (clip[None], clip.numpy(), clip.double(), clip.numpy().astype(">f8"), clip.flip(0).numpy()[::-1]):
        assert torch.equal(fsdd.encode(one), codes)
    assert torch.equal(fsdd.encode([clip, clip.numpy()]), torch.stack([codes, codes]))
    assert torch.equal(fsdd.encode(wave.x), fsdd.encode(wave.x[0])[None])
    soundfile.write(tmp_path / "seven.wav", np.stack([clip, clip], 1).repeat(2, 0), 16000)  # stereo, twice the rate
    assert fsdd.encode(tmp_path / "seven.wav").shape == fsdd.grid
    made = fsdd.reconstruct(clip, speaker="lucas")
    assert made.shape == (1, length) and made.dtype == torch.float32
    with pytest.raises(InputError, match="^label: expected speaker=CLASS, one of .*theo, .*found none$"):
        fsdd.reconstruct(clip)
    with pytest.raises(InputError, match="^audio: expected at most 8192 samples .* found more in 0$"):
        fsdd.score(torch.zeros(9000), speaker="theo")
    with pytest.raises(InputError, match="^audio: expected floating-point samples"):
        fsdd.encode(torch.zeros(100, dtype=torch.int16))


def test_scores_are_exact(mnist):
    """Codes' bits are the prior's, marginalised over classes that are not given; data bits those of stage 1."""
    samples = mnist.sample(3, digit="4", seed=0)
    given, marginal = mnist.score(samples.x, digit="4"), mnist.score(samples.x)
    codes = mnist.encode(samples.x)
    nats = -mnist.stage2.log_prob(codes, torch.full((3, 1), 4)).double()
    torch.testing.assert_close(given.code_bits, nats / np.log(2), rtol=1e-6, atol=1e-6)
    classes, log_weights = prior_labels(mnist._loaded.stage2, {})
    assert classes[:, 0].tolist() == list(range(10)) and log_weights.exp().sum() == pytest.approx(1)
    joint = torch.stack([mnist.stage2.log_prob(codes, row.expand(3, 1)).double() for row in classes])
    expected = -torch.logsumexp(joint + log_weights[:, None], 0) / np.log(2)
    torch.testing.assert_close(marginal.code_bits, expected, rtol=1e-6, atol=1e-6)
    evaluation = mnist.stage1.evaluate(samples.x)
    torch.testing.assert_close(given.data_bits, evaluation.nll_nats / np.log(2))
    assert torch.equal(given.bits_per_dim, given.bits / 784)
    noise = torch.randint(0, 256, samples.x.shape, generator=torch.Generator().manual_seed(0)).byte()
    assert (mnist.score(noise).bits > 2 * marginal.bits).all()
    with pytest.raises(InputError, match="^colour: expected one of the labels"):
        mnist.score(samples.x, colour="red")


def test_clips_are_scored_without_their_padding(fsdd):
    clip = fsdd.sample(1, digit="2", speaker="theo", seed=1)
    length = int(clip.lengths[0])
    alone, padded = (fsdd.score(x, digit="2", speaker="theo") for x in (clip.x[0, :, :length], [clip.x[0, 0, :length]]))
    assert torch.equal(alone.bits, padded.bits) and alone.dimensions.tolist() == [length]
    assert fsdd.score(clip.x[0, :, :length], speaker="theo").code_bits > 0  # marginal over the digits


def test_codes_are_a_torch_data_set(digits, tiny_run, tmp_path):
    data = digits.codes("train")
    codes, labels = next(iter(torch.utils.data.DataLoader(data, batch_size=5)))
    assert codes.shape == (5, 4, 4) and labels.shape == (5, 1) and len(data) == 1438
    assert torch.equal(data.codes[:5], codes) and len(digits.codes("validation")) == 359
    with pytest.raises(InputError, match="manifest.json: expected the manifest of a finished code data set"):
        load("mnist").codes()
    run = shutil.copytree(tiny_run, tmp_path / "alone")
    shutil.rmtree(run / "stage2")
    alone = load(run)
    assert alone.stage2 is None and alone.encode(torch.zeros(1, 8, 8, dtype=torch.uint8)).shape == (4, 4)
    for refused in (lambda: alone.sample(1), lambda: alone.score(torch.zeros(1, 8, 8, dtype=torch.uint8))):
        with pytest.raises(InputError, match="stage2: expected a trained stage 2, found none; train it first: make"):
            refused()
